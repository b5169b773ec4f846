"""wherry-runc as an ordinary user on cgroup v2: what tests/root asks, asked again there, and what is v2's own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.root.test_rootless import (
    one,
    someone,
    test_a_bundle_of_spec_rootless_runs_with_the_users_own_id,
    test_a_cgroup_that_is_named_has_to_be,
    test_a_delegated_cgroup_is_used,
    test_limits_that_cannot_be_are_refused_in_runcs_words,
)
from tests.rootless_lab import UID, User, delegated, reap

__all__ = [
    "one",
    "someone",
    "test_a_bundle_of_spec_rootless_runs_with_the_users_own_id",
    "test_a_cgroup_that_is_named_has_to_be",
    "test_a_delegated_cgroup_is_used",
    "test_limits_that_cannot_be_are_refused_in_runcs_words",
]

pytestmark = pytest.mark.requires("root", "cgroup2", "runc", "busybox", "newuidmap")


@pytest.fixture
def both(one: User) -> User:
    """tests/root has asked runc as well; in here everything takes long."""
    return one


WRITE = (
    "cat /proc/self/cgroup >&2; find /sys/fs/cgroup -name cgroup.procs | while read f; do "
    "if (echo 0 >$f) 2>/dev/null; then echo joined $f; fi; done; "
    "for d in $(find /sys/fs/cgroup -type d); do mkdir $d/attack 2>/dev/null && echo made $d; done; true"
)


def attack(someone: User, *, spaces: list[str], mounts: list[dict[str, object]]) -> str:
    config = json.loads(json.dumps(someone.config))
    linux = config["linux"]
    linux["namespaces"] = [
        entry for entry in linux["namespaces"] if entry["type"] in spaces or entry["type"] != "cgroup"
    ]
    done = someone.run("sh", "-c", WRITE, linux=linux, mounts=mounts)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("has_group", [True, False])
def test_cve_2023_25809_the_users_cgroups_are_not_the_containers(one: User, has_group: bool) -> None:
    """The user may write the groups delegated to him, so his container's root may, unless they are read-only or not there:
    with the host's cgroup namespace, by a bind mount of /sys, by a cgroup mount that asks for "rw"."""
    others = [mount for mount in one.config["mounts"] if mount["destination"] not in ("/sys", "/sys/fs/cgroup")]
    sysfs = {
        "destination": "/sys",
        "type": "none",
        "source": "/sys",
        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
    }
    cgroup = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
    with delegated(f"wherry-attack-{os.getpid()}") as groups:
        if has_group:
            one.join = groups
        try:
            writable = {**sysfs, "options": ["rbind"]}
            assert attack(one, spaces=[], mounts=[*others, writable]) != "", "the attack itself"
            assert attack(one, spaces=[], mounts=[*others, sysfs]) == ""
            assert attack(one, spaces=[], mounts=[*others, sysfs, cgroup]) == ""
            if not has_group:
                assert attack(one, spaces=["cgroup"], mounts=[*others, sysfs, cgroup]) == ""
        finally:
            reap()
            one.join = []


def test_a_cgroup_namespace_shows_the_containers_own_group(one: User) -> None:
    mounts = json.loads(json.dumps(one.config["mounts"]))
    (cgroup,) = (mount for mount in mounts if mount["type"] == "cgroup")
    cgroup["options"] = ["rw"]
    with delegated(f"wherry-own-{os.getpid()}") as one.join:
        try:
            done = one.run(
                "sh",
                "-c",
                "cat /proc/self/cgroup; mkdir /sys/fs/cgroup/below && ls -nd /sys/fs/cgroup/below",
                mounts=mounts,
            )
            assert done.stdout.startswith("0::/\n") and done.returncode == 0, done
            assert done.stdout.splitlines()[1].split()[2] == "0"
        finally:
            reap()
            one.join = []


def test_a_group_that_the_user_cannot_reach_is_an_error(one: User) -> None:
    """The kernel moves a process only where its mover may write the common ancestor: a delegation that the user is not in."""
    with delegated(f"wherry-away-{os.getpid()}") as groups:
        place = os.path.dirname(groups[0]).removeprefix("/sys/fs/cgroup")
        done = one.run("true", linux_cgroupsPath=f"{place}/box")
        assert done.returncode == 1 and "permission denied" in done.stderr, done
        assert not os.path.exists(f"/sys/fs/cgroup{place}/box")


@pytest.mark.requires("systemd")
def test_a_unit_of_the_users_systemd(one: User) -> None:
    """systemd --user, as a session has it, in a group delegated to it; the caller is in a group beside it."""
    booted = Path("/run/systemd/system")  # sd_booted(3)
    made = [path for path in (booted, booted.parent) if not path.exists()]
    booted.mkdir(parents=True, exist_ok=True)
    units = one.place / "units"
    units.mkdir()
    (units / "only.target").write_text("[Unit]\nDefaultDependencies=no\n")
    with delegated(f"wherry-systemd-{os.getpid()}") as one.join:
        flags = (
            f"SYSTEMD_UNIT_PATH={units}",
            "/lib/systemd/systemd",
            "--user",
            "--unit=only.target",
            "--log-target=console",
        )
        place = Path(one.join[0]).with_name("manager")
        place.mkdir()
        for path in (place, *place.glob("cgroup.*")):
            os.chown(path, UID, UID)
        session, one.join = one.join, [str(place)]
        manager = subprocess.Popen(
            one.command(("env", *flags)), env=one.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        one.join = session
        try:
            private = one.place / "run/systemd/private"
            while not private.exists():
                assert manager.poll() is None, manager.stderr and manager.stderr.read()
                time.sleep(0.05)
            one.write("sh", "-c", "cat /proc/self/cgroup; sleep 100", linux_resources={"pids": {"limit": 20}})
            words = (one.program, "--systemd-cgroup", "run", "-d", "-b", str(one.bundle), "box")
            with open(one.place / "output", "w+b") as output:
                done = subprocess.run(
                    one.command(words),
                    env=one.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=False,
                )
            assert done.returncode == 0, (one.place / "output").read_text()
            pid = json.loads(one.runtime("state", "box").stdout)["pid"]
            group = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")
            assert group.endswith("/user.slice/wherry-box.scope"), group
            assert Path(f"/sys/fs/cgroup{group}/pids.max").read_text() == "20\n"
            assert one.runtime("exec", "box", "true").returncode == 0
            assert one.runtime("pause", "box").returncode == 0
            assert one.runtime("resume", "box").returncode == 0
            assert one.runtime("update", "--pids-limit", "30", "box").returncode == 0
            assert Path(f"/sys/fs/cgroup{group}/pids.max").read_text() == "30\n"
            assert one.runtime("delete", "-f", "box").returncode == 0
            assert not Path(f"/sys/fs/cgroup{group}").exists()
        finally:
            manager.kill()
            manager.wait()
            for path in made:
                path.rmdir()
            reap()
            one.join = []
