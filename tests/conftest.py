"""What all tests share: `@pytest.mark.requires(...)`, the count of skips by reason, the leak check of tests on a real kernel.

A test names what it needs of the machine: `@pytest.mark.requires("root", "overlay")`. What the machine lacks skips it. Skips are counted by
reason at the end; with CI=true a skip fails the run unless its reason is a property of the machine that no package mends (MAY_BE_ABSENT).
"""

from __future__ import annotations

import collections
import ctypes
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator

import hypothesis
import pytest

from tests import leaks

hypothesis.settings.register_profile("wherry", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("wherry")  # how fast a machine is, is no property of the code

LEAK_CHECKED = ("root", "e2e", "security", "conformance")
"""The folders of tests whose every test must leave the machine as it found it."""

MAY_BE_ABSENT = frozenset(
    {
        "criu",
        "cgroup1",
        "cgroup2",
        "hybrid",
        "x86_64",
        "aarch64",
        "apparmor",
        "selinux",
        "peer",
        "uml",
        "userns",
        "timens",
        "numa",
        "idmap",
        "suites",
    }
)
"""What depends on the machine itself. Everything else comes with packages.txt, so a skip for it is unexpected."""


def _libc_has(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _mounted(kind: str) -> list[str]:
    with open("/proc/self/mountinfo") as table:
        rows = [line.split(" - ") for line in table]
    return [row[0].split()[4] for row in rows if row[1].split()[0] == kind]


def _cgroup2_with_controllers() -> bool:
    for point in _mounted("cgroup2"):
        with open(os.path.join(point, "cgroup.controllers")) as listed:
            if {"memory", "pids"} <= set(listed.read().split()):
                return True
    return False


def _kernel_has_filesystem(name: str) -> bool:
    with open("/proc/filesystems") as listed:
        return name in listed.read().split()


def _userns() -> bool:
    return subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode == 0


def _nftables() -> bool:
    return shutil.which("nft") is not None and (
        subprocess.run(["nft", "list", "tables"], capture_output=True, check=False).returncode == 0
    )


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def _criu() -> bool:
    """Whether this criu can work on this kernel: an older one does not read newer kernels' memory maps."""
    return shutil.which("criu") is not None and (
        subprocess.run(["criu", "check"], capture_output=True, check=False).returncode == 0
    )


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


CAPABILITIES: dict[str, Callable[[], bool]] = {
    "root": lambda: os.geteuid() == 0,
    "overlay": lambda: _kernel_has_filesystem("overlay"),
    "cgroup1": lambda: bool(_mounted("cgroup")),
    "hybrid": lambda: bool(_mounted("cgroup")) and bool(_mounted("cgroup2")),
    "cgroup2": _cgroup2_with_controllers,
    "userns": _userns,
    "nftables": _nftables,
    "libseccomp": lambda: _libc_has("libseccomp.so.2"),
    "btrfs": lambda: _kernel_has_filesystem("btrfs") and _program("mkfs.btrfs")(),
    "erofs": lambda: _kernel_has_filesystem("erofs"),
    "fuse-overlayfs": lambda: os.path.exists("/dev/fuse") and _program("fuse-overlayfs")(),
    "busybox": lambda: os.access("/bin/busybox", os.X_OK),
    "docker": _program("docker"),
    "dockerd": _program("dockerd"),
    "registry": _program("docker-registry"),
    "skopeo": _program("skopeo"),
    "buildah": _program("buildah"),
    "umoci": _program("umoci"),
    "containerd": _program("containerd"),
    "podman": _program("podman"),
    "runc": _program("runc"),
    "newuidmap": _program("newuidmap"),
    "crun": _program("crun"),
    "strace": _program("strace"),
    "openssl": _program("openssl"),
    "uml": _program("linux.uml"),
    "systemd": lambda: os.access("/lib/systemd/systemd", os.X_OK),
    "dbus-daemon": _program("dbus-daemon"),
    "criu": _criu,
    "x86_64": lambda: platform.machine() == "x86_64",
    "aarch64": lambda: platform.machine() == "aarch64",
    "apparmor": lambda: os.path.exists("/sys/module/apparmor/parameters/enabled"),
    "idmap": lambda: _kernel() >= (6, 3),  # tmpfs takes id mappings
    "numa": lambda: os.path.exists("/proc/self/numa_maps"),
    "timens": lambda: os.path.exists("/proc/self/ns/time"),
    "selinux": lambda: os.path.exists("/sys/fs/selinux/enforce"),
}

_known: dict[str, bool] = {}
_skips: collections.Counter[str] = collections.Counter()
_unexpected: list[str] = []


def machine_has(what: str) -> bool:
    """Whether this machine offers a capability named in CAPABILITIES (asked once per run)."""
    if what not in _known:
        _known[what] = CAPABILITIES[what]()
    return _known[what]


def pytest_configure(config: pytest.Config) -> None:
    """Orphans of the tests (shims whose parent has died) become children of this process, so that none is missed; an
    ended run (SIGTERM) still takes down what its fixtures set up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if (
            signal.getsignal(number) is signal.SIG_IGN
        ):  # nohup, a script's `&`: programs would inherit it, a handler they do not
            signal.signal(number, lambda *_: None)
    if os.geteuid() == 0:
        leaks.adopt_orphans()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(item.config.rootpath / "tests").parts[0]
        if folder in LEAK_CHECKED:
            item.add_marker(pytest.mark.requires("root"))
        needs = [what for mark in item.iter_markers("requires") for what in mark.args]
        unknown = [what for what in needs if what not in CAPABILITIES]
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: requires{unknown} names no capability of tests/conftest.py")
        missing = sorted({what for what in needs if not machine_has(what)})
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}"))


def _is_expected(reason: str) -> bool:
    kind, _, named = reason.partition(" ")
    if kind == "needs":
        return set(named.split(", ")) <= MAY_BE_ABSENT
    return reason.startswith("peer: ")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else "unknown"
        _skips[reason] += 1
        if not _is_expected(reason):
            _unexpected.append(f"{item.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unexpected and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _skips:
        return
    terminalreporter.section("skips by reason")
    for reason, count in _skips.most_common():
        terminalreporter.write_line(f"{count:5}  {reason}{'' if _is_expected(reason) else '   (unexpected)'}")
    if _unexpected and os.environ.get("CI") == "true":
        terminalreporter.write_line(f"{len(_unexpected)} unexpected skips fail this run (CI=true)", red=True)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In the folders LEAK_CHECKED: fail the test when something of it is left on the machine, long after its end."""
    folder = request.node.path.relative_to(request.config.rootpath / "tests").parts[0]
    if folder not in LEAK_CHECKED or os.geteuid() != 0 or os.environ.get("WHERRY_E2E_PEER") == "dockerd":
        yield
        return
    watch = leaks.Watch(roots=(str(tmp_path_factory.getbasetemp()), leaks.engine_roots()))
    yield
    left = watch.what_is_left()
    if left:
        pytest.fail("left behind on the machine:\n" + "\n".join(left), pytrace=False)
