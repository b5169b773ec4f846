"""An ordinary user for tests: known, with subordinate ids, only in the mount namespace that each of its commands gets, so
that the machine's own /etc is not touched; and containers that this user runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.wherry_runc import install

UID = 4242
SUBORDINATE = 700000
APPLETS = (
    "sh",
    "find",
    "id",
    "cat",
    "ls",
    "sleep",
    "echo",
    "touch",
    "mkdir",
    "tty",
    "kill",
    "grep",
    "head",
    "true",
    "mount",
    "umount",
    "dd",
)
_FILES = {
    "passwd": f"root:x:0:0::/root:/bin/sh\ntester:x:{UID}:{UID}::/:/bin/sh\n",
    "group": f"root:x:0:\ntester:x:{UID}:\n",
    "subuid": f"tester:{SUBORDINATE}:65536\n",
    "subgid": f"tester:{SUBORDINATE}:65536\n",
}
_BECOME = f"""
place=$1; shift
for name in passwd group subuid subgid; do mount --bind "$place/etc/$name" /etc/$name || exit 99; done
for group in $JOIN; do echo $$ >"$group/cgroup.procs" || exit 99; done
exec setpriv --reuid {UID} --regid {UID} --groups "${{GROUPS_OF:-{UID}}}" env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin XDG_RUNTIME_DIR="$place/run" "$@"
"""
SUBORDINATE_MAP = [
    {"containerID": 0, "hostID": UID, "size": 1},
    {"containerID": 1, "hostID": SUBORDINATE, "size": 65536},
]


class User:
    """A user with one bundle. `program`: wherry-runc or its peer."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.program = str(install(place / "usr"))
        self.join: list[str] = []
        self.groups = ""
        (place / "etc").mkdir()
        for name, text in _FILES.items():
            (place / "etc" / name).write_text(text)
        self.bundle = place / "bundle"
        self.rootfs = self.bundle / "rootfs"
        for name in ("bin", "proc", "dev", "sys", "etc", "tmp", "mnt"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.rootfs / "bin/busybox")
        for applet in APPLETS:
            (self.rootfs / "bin" / applet).symlink_to("busybox")
        (place / "run").mkdir(mode=0o700)
        for path in (place / "run", self.bundle, *self.bundle.rglob("*")):
            os.chown(path, UID, UID, follow_symlinks=False)
        self.runtime("spec", "--rootless", "-b", str(self.bundle))
        self.config: dict[str, Any] = json.loads((self.bundle / "config.json").read_text())
        self.config["process"]["terminal"] = False
        self.config["root"]["readonly"] = False
        del self.config["process"]["rlimits"]

    def command(self, words: Sequence[str]) -> list[str]:
        return ["unshare", "-m", "sh", "-c", _BECOME, "sh", str(self.place), *words]

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "JOIN": " ".join(self.join), "GROUPS_OF": self.groups}

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Any command of the user's."""
        options.setdefault("stdin", subprocess.DEVNULL) if "input" not in options else None
        return subprocess.run(
            self.command(words), capture_output=True, text=True, check=False, timeout=300, env=self.environment(), **options
        )  # fmt: skip

    def runtime(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self(self.program, *words, **options)

    def write(self, *args: str, **changes: Any) -> None:
        """config.json with the program `args`; `process_…`, `linux_…` and other keys as given."""
        config = json.loads(json.dumps(self.config))
        config["process"]["args"] = list(args)
        for key, value in changes.items():
            section, _, field = key.partition("_")
            if section in ("process", "linux") and field:
                config[section][field] = value
            else:
                config[key] = value
        (self.bundle / "config.json").write_text(json.dumps(config))

    def run(self, *args: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        self.write(*args, **changes)
        return self.runtime("run", "-b", str(self.bundle), "box")

    def start(self, *args: str, **changes: Any) -> int:
        """A container "box" in the background; its pid."""
        self.write(*args, **changes)
        pid_file = self.place / "run/pid"
        with open(self.place / "output", "w+b") as output:
            words = (self.program, "run", "-d", "-b", str(self.bundle), "--pid-file", str(pid_file), "box")
            status = subprocess.run(
                self.command(words), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment(), check=False, timeout=300
            )  # fmt: skip
            output.seek(0)
            assert status.returncode == 0, output.read()
        return int(pid_file.read_text())

    def status(self) -> str:
        return str(json.loads(self.runtime("state", "box").stdout)["status"])


@contextmanager
def user() -> Iterator[User]:
    """A user, whose containers are gone afterwards. Not below pytest's directories, which only root may
    enter, but on a tmpfs, which has owners also where the root is a host's file system."""
    place = Path(tempfile.mkdtemp(prefix="wherry-user-", dir="/run"))
    place.chmod(0o755)
    try:
        someone = User(place)
        yield someone
        someone.runtime("delete", "-f", "box")
        reap()
    finally:
        shutil.rmtree(place)


def reap() -> None:
    """The tests' process is a subreaper: detached containers end as its children."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


@contextmanager
def delegated(name: str) -> Iterator[list[str]]:
    """A cgroup of the user's in every hierarchy, and one below it to be in: their paths are for `User.join`."""
    top = Path("/sys/fs/cgroup")
    v2 = (top / "cgroup.controllers").exists()
    own = [] if v2 else Path("/proc/self/cgroup").read_text().splitlines()
    places = (
        [top / name]
        if v2
        else [
            place / name
            for place in sorted(top.iterdir())
            if not place.is_symlink() and place.is_dir() and (place / "tasks").exists()
        ]
    )
    assert v2 or own
    if v2:
        offered = (top / "cgroup.controllers").read_text().split()
        (top / "cgroup.subtree_control").write_text(" ".join(f"+{word}" for word in offered))
    made: list[Path] = []
    try:
        for place in places:
            for group in (place, *([place / "session"] if v2 else [])):
                group.mkdir()
                made.append(group)
                for cpuset in ("cpuset.cpus", "cpuset.mems"):
                    if not v2 and (group / cpuset).exists():
                        (group / cpuset).write_text((group.parent / cpuset).read_text())
                for path in (
                    group,
                    *(group / file for file in ("cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control")),
                ):
                    if path.exists():
                        os.chown(path, UID, UID)
        yield [str(group) for group in made if not v2 or group.name == "session"]
    finally:
        for group in reversed(made):
            for below in sorted(group.rglob("*/"), reverse=True):
                below.rmdir()
            group.rmdir()
