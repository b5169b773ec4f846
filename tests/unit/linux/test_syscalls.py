"""Every wrapper tells a failure from a success, and names call and object. What fails here needs no privilege, and fails for root too."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from wherry.errors import SyscallError
from wherry.linux import syscalls

BAD = 1 << 20  # no such descriptor


@pytest.mark.parametrize(
    ("call", "expected", "words"),
    [
        (lambda: syscalls.openat2(BAD, "x", 0), errno.EBADF, f"openat2 x below descriptor {BAD}"),
        (lambda: syscalls.openat2(syscalls.AT_FDCWD, "/no/such", 0), errno.ENOENT, "openat2 /no/such"),
        (lambda: syscalls.filesystem_type(BAD), errno.EBADF, "fstatfs descriptor"),
        (lambda: syscalls.umount2("/no/such", 0), None, "umount /no/such"),
        (lambda: syscalls.pivot_root("/no/such", "/no/such"), None, "pivot_root /no/such"),
        (lambda: syscalls.mount("none", "/no/such", "nosuchfs", 0, ""), None, "mount nosuchfs on /no/such"),
        (lambda: syscalls.open_tree(syscalls.AT_FDCWD, "/no/such", 1), None, "open_tree /no/such"),
        (lambda: syscalls.move_mount(BAD, "", BAD, "", 0), None, "move_mount descriptor"),
        (lambda: syscalls.fsopen("nosuchfs"), None, "fsopen nosuchfs"),
        (lambda: syscalls.fsmount(BAD, 0, "it"), None, "fsmount it"),
        (lambda: syscalls.fsconfig(BAD, 1, "key", "value", 0, "it"), None, "mount it option key=value"),
        (lambda: syscalls.mount_setattr(BAD, "", 0, set_=1, clear=0, propagation=0, subject="it"), None, "mount_setattr it"),
        (lambda: syscalls.unshare(0x7F, "it"), errno.EINVAL, "unshare it"),
        (lambda: syscalls.setns(BAD, 0, "it"), errno.EBADF, "setns it"),
        (lambda: syscalls.prctl(23, 63, subject="it"), errno.EINVAL, "prctl it"),
        (lambda: syscalls.prctl(123456, subject="it"), errno.EINVAL, "prctl it"),
        (lambda: syscalls.drop_bounding([63]), None, "without capability 63"),
        (lambda: syscalls.capset(1 << 40, 0, 0), errno.EPERM, "capset permitted 0x0"),
        (lambda: syscalls.sethostname(b"x" * 65), None, "sethostname"),
        (lambda: syscalls.setdomainname(b"x" * 65), None, "setdomainname"),
        (lambda: syscalls.prlimit(0, 7, 2, 1, "it"), errno.EINVAL, "prlimit it"),
        (lambda: syscalls.set_identity(0, 0, [0xFFFFFFFF]), None, "setgroups"),
        (lambda: syscalls.keyctl(12345, None, subject="it"), None, "keyctl it"),
        (lambda: syscalls.ioprio_set(9, 0, 0), None, "ioprio_set"),
        (lambda: syscalls.load_seccomp(b"\0" * 8, 0), None, "seccomp filter of 1 instructions"),
        (lambda: syscalls.execve(b"/no/such", [b"x"], []), errno.ENOENT, "execve /no/such"),
    ],
)  # fmt: skip
def test_a_failure_is_an_error_that_names_call_and_object(
    call: Callable[[], object], expected: int | None, words: str
) -> None:
    with pytest.raises(SyscallError, match=words) as caught:
        call()
    assert caught.value.errno != 0
    if expected is not None:
        assert caught.value.errno == expected


def test_a_path_with_a_nul_byte_never_reaches_the_kernel() -> None:
    for call in (
        lambda: syscalls.open_tree(-1, "a\0b", 0),
        lambda: syscalls.umount2("a\0b", 0),
        lambda: syscalls.fsopen("tmpfs\0"),
    ):
        with pytest.raises(SyscallError) as caught:
            call()
        assert caught.value.errno == errno.EINVAL


def test_descriptors_are_not_inherited() -> None:
    fd = syscalls.openat2(syscalls.AT_FDCWD, "/", os.O_PATH)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_the_environment_goes_through_execve_unchanged() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        syscalls.execve(b"/usr/bin/env", [b"env"], [b"B=1", b"A=\xff", b"B=2"])
    os.close(write)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"B=1\nA=\xff\nB=2\n"
    os.close(read)


def test_capabilities_read_are_the_processes_own() -> None:
    effective, permitted, inheritable = syscalls.capget()
    with open("/proc/self/status") as file:
        lines = dict(line.rstrip("\n").split(":\t") for line in file if line.startswith("Cap"))
    assert (effective, permitted, inheritable) == (
        int(lines["CapEff"], 16),
        int(lines["CapPrm"], 16),
        int(lines["CapInh"], 16),
    )
