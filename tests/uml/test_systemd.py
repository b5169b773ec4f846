"""wherry-runc --systemd-cgroup with the real systemd, which boots here in namespaces of its own: a machine in the machine,
on the same files, read-only, with nothing but a target that wants nothing.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.requires("root", "cgroup2", "systemd", "busybox")

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from wherry.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
BOOT = """
mount --bind / "$1" && cd "$1" && mount -o remount,bind,ro . || exit 1
for point in run var tmp; do mount -t tmpfs tmpfs $point; done
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup; mount --rbind /dev dev
mkdir -p run/systemd/system run/rootfs/bin run/rootfs/proc run/rootfs/dev run/rootfs/sys
printf '[Unit]\\nDefaultDependencies=no\\n' >run/systemd/system/only.target
cp /bin/busybox run/rootfs/bin; for name in sh cat sleep; do ln -s busybox run/rootfs/bin/$name; done
mkdir run/old && pivot_root . run/old && umount -l /run/old && rmdir /run/old || exit 1
container=wherry exec /lib/systemd/systemd --system --unit=only.target --log-target=null --show-status=no
"""


class Machine:
    def __init__(self, place: Path) -> None:
        command = [
            "unshare",
            "--pid",
            "--fork",
            "--mount",
            "--cgroup",
            "--kill-child",
            "sh",
            "-c",
            BOOT,
            "boot",
            str(place),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.pid = 0
        while not self._is_up():
            assert self._process.poll() is None, "systemd does not boot"
            select.select([], [], [], 0.1)

    def _is_up(self) -> bool:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self.pid = int(children[0]) if children else 0
        return bool(self.pid) and self("systemctl", "is-system-running", "--wait").stdout.strip() in (
            "running",
            "degraded",
        )

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "-t", str(self.pid), "-a", "-r", "--"]
        return subprocess.run([*enter, *words], capture_output=True, text=True, check=False, timeout=300, **options)

    def runc(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self(*runc_words(*words), **options)

    def write(self, path: str, text: str) -> None:
        Path(f"/proc/{self.pid}/root{path}").write_text(text)

    def read(self, path: str) -> str:
        return Path(f"/proc/{self.pid}/root{path}").read_text()

    def shown(self, unit: str, *names: str) -> dict[str, str]:
        text = self("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout
        return dict(line.split("=", 1) for line in text.splitlines())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    yield made
    made.close()


def test_a_container_lives_as_a_unit_of_systemds(machine: Machine) -> None:
    assert machine.runc("spec", "-b", "/run").returncode == 0
    config = json.loads(machine.read("/run/config.json"))
    config["root"]["path"] = "rootfs"
    config["process"].update(terminal=False, args=["sh", "-c", "cat /proc/self/cgroup >/dev/null; sleep 1000"])
    config["linux"]["cgroupsPath"] = "wherry-test.slice:box:one"
    config["linux"]["resources"].update(
        pids={"limit": 44}, memory={"limit": 64 << 20}, cpu={"shares": 512, "quota": 30000, "period": 60000}
    )
    config["annotations"] = {"org.systemd.property.TimeoutStopSec": "uint64 7"}
    machine.write("/run/config.json", json.dumps(config))
    quiet = {"stdin": subprocess.DEVNULL}
    done = machine("sh", "-c", 'exec "$@" >/run/out 2>&1', "sh", *runc_words("run", "-d", "-b", "/run", "box"), **quiet)
    assert done.returncode == 0, machine.read("/run/out")

    place = "/sys/fs/cgroup/wherry.slice/wherry-test.slice/box-one.scope"
    limits = (
        "ActiveState",
        "Slice",
        "Delegate",
        "TasksMax",
        "MemoryMax",
        "CPUWeight",
        "CPUQuotaPerSecUSec",
        "DevicePolicy",
        "TimeoutStopUSec",
    )
    assert machine.shown("box-one.scope", *limits) == {
        "ActiveState": "active", "Slice": "wherry-test.slice", "Delegate": "yes", "TasksMax": "44", "MemoryMax": str(64 << 20),
        "CPUWeight": "59", "CPUQuotaPerSecUSec": "500ms", "DevicePolicy": "strict", "TimeoutStopUSec": "7s",
    }  # fmt: skip
    assert machine.read(f"{place}/pids.max") == "44\n"
    state = json.loads(machine.runc("state", "box").stdout)
    assert state["status"] == "running"
    assert machine.read(f"{place}/cgroup.procs").split() != []

    assert machine.runc("exec", "box", "cat", "/proc/self/cgroup").stdout == "0::/\n"
    assert machine.runc("update", "--pids-limit", "55", "box").returncode == 0
    machine("systemctl", "daemon-reload")
    assert machine.shown("box-one.scope", "TasksMax") == {"TasksMax": "55"}
    assert machine.read(f"{place}/pids.max") == "55\n"
    assert (
        "x" in machine.runc("exec", "box", "sh", "-c", "echo x >/dev/null && echo x").stdout
    )  # devices are still allowed

    for verb, status in (("pause", "paused"), ("resume", "running")):
        assert machine.runc(verb, "box").returncode == 0
        assert json.loads(machine.runc("state", "box").stdout)["status"] == status

    done = machine.runc("delete", "-f", "box")
    assert done.returncode == 0, done.stderr
    assert machine.shown("box-one.scope", "ActiveState", "LoadState") == {
        "ActiveState": "inactive",
        "LoadState": "not-found",
    }
    assert not os.path.exists(f"/proc/{machine.pid}/root{place}")


def runc_words(*words: str) -> list[str]:
    return [
        sys.executable,
        "-I",
        "-S",
        "-c",
        PROGRAM,
        str(REPOSITORY / "src"),
        "--root",
        "/run/state",
        "--systemd-cgroup",
        *words,
    ]


def test_a_container_that_cannot_start_leaves_no_unit(machine: Machine) -> None:
    config = json.loads(machine.read("/run/config.json"))
    config["process"]["args"] = ["/none"]
    machine.write("/run/config.json", json.dumps(config))
    done = machine.runc("run", "-b", "/run", "box")
    assert done.returncode == 1
    assert "no such file or directory" in done.stderr
    assert machine.shown("box-one.scope", "LoadState") == {"LoadState": "not-found"}


UID = 1  # "daemon": systemd wants a user that there is
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>{kind}</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow own="*"/><allow user="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
</policy></busconfig>
"""
UNITS = {
    "dbus.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    "dbus.service": "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\n"
    "ExecStart=/usr/bin/dbus-daemon --config-file=/run/bus.conf --address=systemd: --nofork --nopidfile --systemd-activation\n",
    "user@.service": "[Unit]\nDefaultDependencies=no\n[Service]\nUser=%i\nType=notify\nDelegate=yes\nSlice=user-%i.slice\n"
    "Environment=XDG_RUNTIME_DIR=/run/user/%i SYSTEMD_UNIT_PATH=/run/units DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/%i/bus\n"
    "ExecStart=/lib/systemd/systemd --user --unit=only.target --log-target=null\n",
}
USERS = {
    "only.target": "[Unit]\nDefaultDependencies=no\n",
    "dbus.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=%t/bus\n",
    "dbus.service": "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\n"
    "ExecStart=/usr/bin/dbus-daemon --config-file=/run/session.conf --address=systemd: --nofork --nopidfile --systemd-activation\n",
}


@pytest.fixture(scope="module")
def session(machine: Machine) -> Machine:
    """The machine with a system bus, and a user who has a manager and a session bus: not what logind and PAM make of it, but
    the same groups.
    """
    for directory in ("units", f"user/{UID}", f"user/{UID}/b"):
        machine("mkdir", "-p", "-m", "755", f"/run/{directory}")
    machine.write("/run/bus.conf", BUS.format(kind="system", path="/run/dbus/system_bus_socket"))
    machine.write("/run/session.conf", BUS.format(kind="session", path=f"/run/user/{UID}/bus"))
    for name, text in UNITS.items():
        machine.write(f"/run/systemd/system/{name}", text)
    for name, text in USERS.items():
        machine.write(f"/run/units/{name}", text)
    machine("chown", "-R", f"{UID}:{UID}", f"/run/user/{UID}")
    machine("systemctl", "daemon-reload")
    for unit in ("dbus.socket", "dbus.service", f"user@{UID}.service"):
        done = machine("systemctl", "start", unit)
        assert done.returncode == 0, (unit, done.stderr, machine("systemctl", "status", unit).stdout)
    return machine


def in_session(machine: Machine, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of the user's in a login session: a scope of the system's manager beside the user's."""
    settings = [f"--setenv={name}={value}" for name, value in environment.items()]
    scope = ["systemd-run", "--scope", "--quiet", "--collect", f"--slice=user-{UID}.slice", f"--uid={UID}", *settings]
    return machine(*scope, *words, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("way", ["private", "bus"])
def test_a_users_container_from_a_login_session(session: Machine, way: str) -> None:
    """Over the manager's own socket, and over the session's bus when DBUS_SESSION_BUS_ADDRESS names it."""
    place = f"/run/user/{UID}"
    environment = {"XDG_RUNTIME_DIR": place}
    if way == "bus":
        environment = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={place}/bus"}
        started = in_session(
            session, "systemctl", "--user", "start", "dbus.socket", "dbus.service", XDG_RUNTIME_DIR=place
        )
        assert started.returncode == 0, started.stderr

    def runc(*words: str) -> subprocess.CompletedProcess[str]:
        given = runc_words(*words)
        given[given.index("/run/state")] = f"{place}/state"
        return in_session(session, "sh", "-c", f'exec "$@" 2>{place}/error', "sh", *given, **environment)

    session("rm", "-f", f"{place}/b/config.json")
    assert runc("spec", "--rootless", "-b", f"{place}/b").returncode == 0, session.read(f"{place}/error")
    config = json.loads(session.read(f"{place}/b/config.json"))
    config["root"]["path"] = "/run/rootfs"
    config["process"].update(terminal=False, args=["sh", "-c", "exec sleep 1000 >/dev/null 2>&1"])
    config["process"].pop("rlimits", None)
    config["linux"]["resources"] = {"pids": {"limit": 44}}
    session.write(f"{place}/b/config.json", json.dumps(config))
    done = runc("run", "-d", "--pid-file", f"{place}/pid", "-b", f"{place}/b", "box")
    assert done.returncode == 0, session.read(f"{place}/error")
    pid = session.read(f"{place}/pid")
    group = session.read(f"/proc/{pid}/cgroup").strip().removeprefix("0::")
    assert group == f"/user.slice/user-{UID}.slice/user@{UID}.service/user.slice/wherry-box.scope"
    assert session.read(f"/sys/fs/cgroup{group}/pids.max") == "44\n"
    done = runc("exec", "box", "cat", "/proc/self/cgroup")
    assert (done.returncode, done.stdout) == (0, "0::/\n"), session.read(f"{place}/error")
    assert runc("delete", "-f", "box").returncode == 0, session.read(f"{place}/error")
    assert not os.path.exists(f"/proc/{session.pid}/root/sys/fs/cgroup{group}")
    left = in_session(
        session,
        "systemctl",
        "--user",
        "list-units",
        "--all",
        "--plain",
        "--no-legend",
        "wherry-*",
        XDG_RUNTIME_DIR=place,
    )
    assert left.stdout == ""
