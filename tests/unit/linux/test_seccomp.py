"""Sections compiled by libseccomp and tried in a child process: the kernel does what the section says."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.linux import seccomp
from wherry.spec import seccomp as profiles
from wherry.spec.oci import Seccomp

pytestmark = pytest.mark.requires("libseccomp")

LIBC = ctypes.CDLL(None, use_errno=True)


def under(section: Seccomp, body: Callable[[], int]) -> int:
    """The wait status of a child that installs the section's filter and exits with what `body` returns."""
    program = seccomp.compile(section)
    pid = os.fork()
    if pid == 0:
        code = 250
        try:
            LIBC.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            seccomp.load(program, seccomp.flags_of(section))
            code = body()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def error_of(call: int, *arguments: Any) -> int:
    """The errno of a raw system call, 0 for success."""
    ctypes.set_errno(0)
    return ctypes.get_errno() if LIBC.syscall(ctypes.c_long(call), *arguments) == -1 else 0


def denying(action: str, **more: Any) -> Seccomp:
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": action, **more}]}  # type: ignore[typeddict-item]


def test_errno_returns_its_number_and_eperm_without_one() -> None:
    assert (
        os.waitstatus_to_exitcode(under(denying("SCMP_ACT_ERRNO", errnoRet=19), lambda: error_of(getppid())))
        == errno.ENODEV
    )
    assert os.waitstatus_to_exitcode(under(denying("SCMP_ACT_ERRNO"), lambda: error_of(getppid()))) == errno.EPERM


def getppid() -> int:
    return {"x86_64": 110, "aarch64": 173}[os.uname().machine]


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def test_the_killing_actions_kill(action: str) -> None:
    assert os.WTERMSIG(under(denying(action), lambda: error_of(getppid()))) == signal.SIGSYS


def test_trace_without_a_tracer_is_enosys() -> None:
    assert os.waitstatus_to_exitcode(under(denying("SCMP_ACT_TRACE"), lambda: error_of(getppid()))) == errno.ENOSYS


def test_log_lets_the_call_through() -> None:
    assert os.waitstatus_to_exitcode(under(denying("SCMP_ACT_LOG"), lambda: error_of(getppid()))) == 0


@pytest.mark.parametrize(
    ("op", "value", "denied"),
    [("EQ", 5, [5]), ("NE", 5, [4, 6]), ("LT", 5, [4]), ("LE", 5, [4, 5]), ("GT", 5, [6]), ("GE", 5, [5, 6])],
)
def test_arguments_are_compared(op: str, value: int, denied: list[int]) -> None:
    section: Seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {
                "names": ["umask"],
                "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": value, "op": f"SCMP_CMP_{op}"}],
            }
        ],
    }
    umask = {"x86_64": 95, "aarch64": 166}[os.uname().machine]

    def probe() -> int:
        return sum(1 << (number - 4) for number in (4, 5, 6) if error_of(umask, ctypes.c_ulong(number)))

    assert os.waitstatus_to_exitcode(under(section, probe)) == sum(1 << (number - 4) for number in denied)


def test_two_conditions_on_one_argument_are_alternatives() -> None:
    args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (4, 6)]
    section: Seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["umask"], "action": "SCMP_ACT_ERRNO", "args": args}],  # type: ignore[typeddict-item]
    }
    umask = {"x86_64": 95, "aarch64": 166}[os.uname().machine]
    assert os.waitstatus_to_exitcode(under(section, lambda: error_of(umask, ctypes.c_ulong(6)))) == errno.EPERM
    assert os.waitstatus_to_exitcode(under(section, lambda: error_of(umask, ctypes.c_ulong(5)))) == 0


def default_section(*capabilities: str) -> Seccomp:
    return profiles.section(profiles.default_profile(), capabilities=capabilities)


@pytest.mark.requires("x86_64")
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (165, errno.EPERM),  # mount
        (425, errno.EPERM),  # io_uring_setup
        (435, errno.ENOSYS),  # clone3
        (1000, errno.ENOSYS),  # a system call of the future
        (39, 0),  # getpid
    ],
)
def test_docker_default_profile(number: int, error: int) -> None:
    assert os.waitstatus_to_exitcode(under(default_section(), lambda: error_of(number, 0, 0, 0, 0, 0))) == error


def test_the_default_profile_has_no_af_alg_socket() -> None:
    def probe() -> int:
        import socket

        try:
            socket.socket(38, socket.SOCK_SEQPACKET, 0)
        except PermissionError:
            return 7
        return 0

    assert os.waitstatus_to_exitcode(under(default_section(), probe)) == 7


def test_unknown_system_calls_are_skipped() -> None:
    section = denying("SCMP_ACT_ERRNO")
    section["syscalls"][0]["names"].append("no_such_call")
    assert seccomp.compile(section)


@pytest.mark.parametrize(
    ("section", "kind", "named"),
    [
        ({}, InvalidArgument, "defaultAction"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, InvalidArgument, "NOTIFY"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}, InvalidArgument, "PDP11"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "x"}]},
            InvalidArgument,
            r"syscalls\[0\]",
        ),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 9, "op": "SCMP_CMP_EQ"}]}
                ],
            },
            InvalidArgument,
            r"args\[0\]\.index",
        ),
    ],
)
def test_what_cannot_be_compiled_is_named(section: Seccomp, kind: type[Exception], named: str) -> None:
    with pytest.raises(kind, match=named):
        seccomp.compile(section)


def test_unknown_flags_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="flags"):
        seccomp.flags_of({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]})


def test_without_libseccomp_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, **_: object) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(seccomp, "_library", None)
    monkeypatch.setattr(seccomp.ctypes, "CDLL", missing)
    with pytest.raises(FailedPrecondition, match="libseccomp2"):
        seccomp.compile({"defaultAction": "SCMP_ACT_ALLOW"})


def test_a_truncated_program_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="8-byte"):
        seccomp.load(b"1234567")
