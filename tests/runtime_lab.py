"""A place to run containers by the runtime library alone: a busybox root file system, configurations like Docker's, and what came out.

    lab.run("hostname")                 → Result(status=0, out="box\\n", err="")
    with lab.start("sleep", "100") as box: box.exec("ps").out

Each `Lab` has a root file system of its own and cgroups below one group of its own; closing it removes both.
"""

from __future__ import annotations

import contextlib
import copy
import os
import select
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.images import BUSYBOX, GROUP, PASSWD, applets
from wherry.linux import cgroups
from wherry.runtime import container

DEFAULT_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP", "NET_BIND_SERVICE",
        "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    )
]  # fmt: skip
MASKED = [
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
]  # fmt: skip
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
NAMESPACES = ("mount", "pid", "ipc", "uts", "network", "cgroup")
ID_MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]
TIMEOUT = 300.0


def mount(destination: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}


def bind(source: str | os.PathLike[str], destination: str, *options: str) -> dict[str, Any]:
    return mount(destination, "bind", *(options or ("rbind", "rprivate")), source=os.fspath(source))


MOUNTS = [
    mount("/proc", "proc", "nosuid", "noexec", "nodev"),
    mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    mount("/sys/fs/cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
    mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k", source="shm"),
]


@dataclass
class Result:
    """How a program ended: exit status, or minus the signal; and what it has written."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Box:
    """A running container."""

    def __init__(self, lab: Lab, config: dict[str, Any], process: container.InitProcess, outputs: Outputs) -> None:
        self.lab = lab
        self.config = config
        self.process = process
        self.outputs = outputs

    @property
    def pid(self) -> int:
        return self.process.pid

    def exec(self, *args: str, terminal: bool = False, seccomp: bytes | None = None, **changes: Any) -> Result:
        """Runs `args` in the container, with the container's own process settings changed by `changes`."""
        outputs = Outputs()
        spec: Any = {**self.config["process"], "args": list(args), "terminal": terminal, **changes}
        try:
            made = container.exec_process(
                self.pid, self.process.pidfd, self.config, spec, cgroup=self.process.cgroup, stdio=outputs.stdio(), seccomp_bpf=seccomp  # type: ignore[arg-type]
            )  # fmt: skip
        except BaseException:
            outputs.close()
            raise
        return outputs.collect(made)

    def wait(self) -> Result:
        """The result of the first process, which ends by itself."""
        return self.outputs.collect(self.process)

    def start(self) -> None:
        self.process.start()


class Outputs:
    """Pipes for a process's output; read to their ends by `collect`."""

    def __init__(self) -> None:
        self.out_read, self.out_write = os.pipe2(os.O_CLOEXEC)
        self.err_read, self.err_write = os.pipe2(os.O_CLOEXEC)
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def stdio(self) -> container.Stdio:
        return container.Stdio(self.null, self.out_write, self.err_write)

    def collect(self, process: container.Process) -> Result:
        os.close(self.out_write)
        os.close(self.err_write)
        self.out_write = self.err_write = -1
        texts = {self.out_read: b"", self.err_read: b""}
        if process.console is not None:
            texts[process.console] = b""
        waiting = set(texts)
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], TIMEOUT)
            assert ready, f"no end of output after {TIMEOUT} s: {texts}"
            for fd in ready:
                try:
                    chunk = os.read(fd, 65536)
                except OSError:  # EIO: the last process of a terminal is gone
                    chunk = b""
                texts[fd] += chunk
                if not chunk:
                    waiting.discard(fd)
        status = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
        out = texts[self.out_read] + texts.get(process.console or -1, b"")
        result = Result(status, out.decode(errors="replace"), texts[self.err_read].decode(errors="replace"))
        process.close()
        self.close()
        return result

    def close(self) -> None:
        for fd in (self.out_read, self.out_write, self.err_read, self.err_write, self.null):
            if fd >= 0:
                os.close(fd)
        self.out_read = self.out_write = self.err_read = self.err_write = self.null = -1


class Lab:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        tag = f"{os.getpid():06x}"
        leaks.watch_instance(tag)
        self.group = f"wherry-{tag}"
        self.count = 0
        self.rootfs = directory / "rootfs"
        make_rootfs(self.rootfs)
        for parent in (directory, *directory.parents):  # a container in a user namespace must be able to reach it
            if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o711)

    def config(
        self, *args: str, mounts: Sequence[dict[str, Any]] = (), linux: dict[str, Any] | None = None, **process: Any
    ) -> dict[str, Any]:
        """A configuration as Docker would write it, with more `mounts`, changes of `linux` and of `process`."""
        self.count += 1
        capabilities = dict.fromkeys(("bounding", "effective", "permitted"), DEFAULT_CAPABILITIES)
        return {
            "ociVersion": "1.0.2",
            "hostname": "box",
            "process": {
                "args": list(args), "env": ["PATH=/bin:/sbin", "TERM=xterm"], "cwd": "/", "user": {"uid": 0, "gid": 0},
                "capabilities": capabilities, "noNewPrivileges": False, **process,
            },
            "root": {"path": str(self.rootfs)},
            "mounts": copy.deepcopy([*MOUNTS, *mounts]),
            "linux": {
                "cgroupsPath": f"/{self.group}/{self.count}", "namespaces": [{"type": kind} for kind in NAMESPACES],
                "maskedPaths": MASKED, "readonlyPaths": READONLY, "resources": {}, **(linux or {}),
            },
        }  # fmt: skip

    def create(self, config: dict[str, Any], *, hold: bool = False, **options: Any) -> Box:
        outputs = Outputs()
        try:
            process = container.create(
                config, rootfs=str(self.rootfs), stdio=outputs.stdio(), hold=hold, container_id=f"lab{self.count}", **options  # type: ignore[arg-type]
            )  # fmt: skip
        except BaseException:
            outputs.close()
            raise
        return Box(self, config, process, outputs)

    def run_config(self, config: dict[str, Any], **options: Any) -> Result:
        box = self.create(config, **options)
        try:
            return box.wait()
        finally:
            self.remove(box)

    def run(self, *args: str, **changes: Any) -> Result:
        return self.run_config(self.config(*args, **changes))

    def shell(self, script: str, **changes: Any) -> Result:
        return self.run("sh", "-c", script, **changes)

    @contextlib.contextmanager
    def start(
        self, *args: str, config: dict[str, Any] | None = None, hold: bool = False, **changes: Any
    ) -> Iterator[Box]:
        """A container that runs until the end of the block, when it is killed."""
        box = self.create(config or self.config(*args, **changes), hold=hold)
        try:
            yield box
        finally:
            self.remove(box)

    def remove(self, box: Box) -> None:
        container.kill_all(box.process.cgroup)
        if box.process.pidfd >= 0:
            os.waitpid(box.pid, 0)
            box.process.close()
            box.outputs.close()
        leaks.reap_orphans()
        container.delete_cgroup(box.process.cgroup)

    def close(self) -> None:
        for point in leaks.cgroup_hierarchies():
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(f"{point}/{self.group}")
        shutil.rmtree(self.directory)


def make_rootfs(path: Path) -> None:
    """busybox with all its names, passwd and group."""
    for name in ("bin", "etc", "tmp", "root", "home/app"):
        (path / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for applet in applets():
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text(PASSWD)
    (path / "etc/group").write_text(GROUP)
    (path / "tmp").chmod(0o1777)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "lab")
    yield made
    made.close()


def host_cgroup_layout() -> str:
    return cgroups.detect().mode


def seccomp_program(*sources: str) -> bytes:
    """A compiled filter from OCI JSON-like rules: deny the named calls with EPERM, allow all else."""
    from wherry.linux import seccomp

    rules: Any = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": list(sources), "action": "SCMP_ACT_ERRNO"}]}
    return seccomp.compile(rules)


def host_shell(script: str) -> str:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
