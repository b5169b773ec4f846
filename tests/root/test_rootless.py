"""wherry-runc as an ordinary user, on the real kernel. What is asked of both is asked of runc as well, to know what is right."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rootless_lab import SUBORDINATE, SUBORDINATE_MAP, UID, User, delegated, reap, user

ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
pytestmark = pytest.mark.requires("root", "userns", "busybox", "runc", "newuidmap")


@pytest.fixture(scope="module")
def someone() -> Iterator[User]:
    with user() as someone:
        yield someone


@pytest.fixture(params=["wherry-runc", "runc"])
def both(someone: User, request: pytest.FixtureRequest) -> Iterator[User]:
    own, someone.program = someone.program, someone.program if request.param == "wherry-runc" else "runc"
    yield someone
    someone.runtime("delete", "-f", "box")
    someone.program = own
    reap()


@pytest.fixture
def one(someone: User) -> Iterator[User]:
    yield someone
    someone.runtime("delete", "-f", "box")
    reap()


def test_a_bundle_of_spec_rootless_runs_with_the_users_own_id(both: User) -> None:
    done = both.run(
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; echo >/dev/null; head -c0 /dev/zero; exit 7",
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["0", "0", str(UID), "1", "0", str(UID), "1", "deny"]
    assert done.returncode == 7


def test_subordinate_ids_are_mapped_by_newuidmap(both: User) -> None:
    done = both.run("sh", "-c", "id -u; id -g; touch /tmp/x; cat /proc/self/uid_map /proc/self/setgroups", linux_uidMappings=SUBORDINATE_MAP,
                    linux_gidMappings=SUBORDINATE_MAP, process_user={"uid": 0, "gid": 0})  # fmt: skip
    assert done.stdout.split() == ["0", "0", "0", str(UID), "1", "1", str(SUBORDINATE), "65536", "allow"], done
    assert (both.rootfs / "tmp/x").stat().st_uid == UID
    (both.rootfs / "tmp/x").unlink()


def test_a_subordinate_user_inside(both: User) -> None:
    (both.rootfs / "tmp").chmod(0o1777)
    done = both.run(
        "touch",
        "/tmp/x",
        linux_uidMappings=SUBORDINATE_MAP,
        linux_gidMappings=SUBORDINATE_MAP,
        process_user={"uid": 5, "gid": 6},
    )
    assert done.returncode == 0, done
    found = (both.rootfs / "tmp/x").stat()
    (both.rootfs / "tmp/x").unlink()
    assert (found.st_uid, found.st_gid) == (SUBORDINATE + 4, SUBORDINATE + 5)


def test_groups_of_the_user_are_dropped_where_the_kernel_allows(one: User) -> None:
    """A group can also be what keeps somebody out; so who has no subordinate ids keeps his, and others shed all."""
    one.groups = f"{UID},4999"
    try:
        assert one.run("id", "-G").stdout.split() == ["0", "65534"]
        assert one.run(
            "id", "-G", linux_uidMappings=SUBORDINATE_MAP, linux_gidMappings=SUBORDINATE_MAP
        ).stdout.split() == ["0"]
    finally:
        one.groups = ""


def test_ids_that_are_not_the_users_are_refused(both: User) -> None:
    foreign = [
        {"containerID": 0, "hostID": UID, "size": 1},
        {"containerID": 1, "hostID": SUBORDINATE + 65536, "size": 2},
    ]
    done = both.run("true", linux_uidMappings=foreign)
    assert done.returncode == 1
    assert "newuidmap" in done.stderr and "range [1-3)" in done.stderr, done


def test_newuidmap_is_not_the_callers(one: User) -> None:
    """PATH is the caller's: what is run with the user's rights must be the system's all the same."""
    fake = one.place / "run/newuidmap"
    fake.write_text(f"#!/bin/sh\ntouch {one.place}/run/ran\n")
    fake.chmod(0o755)
    one.write("true", linux_uidMappings=SUBORDINATE_MAP, linux_gidMappings=SUBORDINATE_MAP)
    done = one("env", f"PATH={one.place}/run:/usr/bin:/bin", one.program, "run", "-b", str(one.bundle), "box")
    assert done.returncode == 0, done
    assert not (one.place / "run/ran").exists()
    fake.unlink()


def test_the_life_of_a_container(both: User) -> None:
    both.write("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
    with open(both.place / "output", "wb") as output:
        words = (both.program, "create", "-b", str(both.bundle), "box")
        created = subprocess.run(
            both.command(words),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=both.environment(),
            check=False,
        )
    assert created.returncode == 0, (both.place / "output").read_text()
    assert both.status() == "created"
    assert both.runtime("start", "box").returncode == 0
    assert both.status() == "running"
    (listed,) = json.loads(both.runtime("list", "-f", "json").stdout)
    assert (listed["id"], listed["status"], listed["owner"]) == (
        "box",
        "running",
        "tester",
    )
    done = both.runtime("exec", "box", "sh", "-c", "id -u; cat /proc/self/uid_map; exit 5")
    assert (done.stdout.split(), done.returncode) == (["0", "0", str(UID), "1"], 5), done
    assert "container" in both.runtime("delete", "box").stderr
    assert both.runtime("kill", "box", "KILL").returncode == 0
    wait(both)
    assert both.runtime("delete", "box").returncode == 0
    assert both.runtime("list", "-q").stdout == ""


def all_of_three(someone: User) -> list[int]:
    """The pids of the container's three processes, when its shell has started two."""
    while len(found := json.loads(someone.runtime("ps", "-f", "json", "box").stdout)) < 3:
        pass
    assert len(found) == 3
    return list(found)


def wait(someone: User) -> None:
    pid = json.loads(someone.runtime("state", "box").stdout)["pid"]
    if pid:
        fd = os.pidfd_open(pid)
        assert select.select([fd], [], [], 300)[0]
        os.close(fd)
    reap()


def test_state_lies_in_the_users_runtime_directory(one: User) -> None:
    one.start("sleep", "100")
    root = one.place / "run/wherry-runc"
    assert [path.name for path in root.iterdir() if path.name == "box"] == ["box"]
    assert root.stat().st_mode & 0o7777 == 0o1700
    assert root.stat().st_uid == UID


def test_a_terminal(both: User) -> None:
    both.write("sh", "-c", "tty; id -u; stty size 2>/dev/null; exit 4", process_terminal=True)
    assert through_terminal(both, "run", "-b", str(both.bundle), "box") == (["/dev/pts/0", "0"], 4)


def test_exec_on_a_terminal_in_the_users_namespace(both: User) -> None:
    both.start("sleep", "100")
    assert through_terminal(both, "exec", "-t", "box", "sh", "-c", "tty; id -u; exit 6") == (["/dev/pts/0", "0"], 6)


def through_terminal(someone: User, *words: str) -> tuple[list[str], int]:
    """(the words that come out, exit status) of the runtime on a terminal."""
    master, peer = pty.openpty()
    os.fchown(peer, UID, -1)
    process = subprocess.Popen(
        someone.command((someone.program, *words)), stdin=peer, stdout=peer, stderr=peer, env=someone.environment(), start_new_session=True
    )  # fmt: skip
    os.close(peer)
    said = b""
    try:
        while part := os.read(master, 4096):
            said += part
    except OSError:
        pass
    os.close(master)
    return said.decode().split(), process.wait(timeout=300)


def test_ps_and_kill_without_a_cgroup_go_by_the_pid_namespace(one: User) -> None:
    pid = one.start("sh", "-c", "sleep 100 & sleep 101; :")
    assert pid in all_of_three(one)
    table = one.runtime("ps", "box")
    assert len(table.stdout.splitlines()) == 4, table
    assert one.runtime("kill", "--all", "box", "KILL").returncode == 0
    wait(one)


@pytest.mark.parametrize(
    "verb", [("pause", "box"), ("update", "--pids-limit", "5", "box"), ("events", "--stats", "box")]
)
def test_what_needs_a_cgroup_says_so(one: User, verb: tuple[str, ...]) -> None:
    one.start("sleep", "100")
    done = one.runtime(*verb)
    assert done.returncode == 1
    assert "cgroup" in done.stderr and "Traceback" not in done.stderr
    assert one.status() == "running"


LIMIT = {"pids": {"limit": 20}}


def test_limits_that_cannot_be_are_refused_in_runcs_words(both: User) -> None:
    done = both.run("true", linux_resources=LIMIT)
    assert done.returncode == 1
    v1 = "cannot set pids limit: container could not join or create cgroup"
    v2 = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups"
    assert v1 in done.stderr or v2 in done.stderr, done
    assert both.runtime("list", "-q").stdout == ""


def test_a_cgroup_that_is_named_has_to_be(both: User) -> None:
    done = both.run("true", linux_cgroupsPath="/wherry-not-mine/box")
    assert done.returncode == 1
    assert "permission denied" in done.stderr, done


def test_rootless_false_does_without_nothing(one: User) -> None:
    one.write("true")
    done = one.runtime("--rootless", "false", "run", "-b", str(one.bundle), "box")
    assert done.returncode == 1 and "permission denied" in done.stderr, done
    assert one.runtime("--rootless=true", "run", "-b", str(one.bundle), "box").returncode == 0
    assert "invalid boolean value" in one.runtime("--rootless=maybe", "list").stderr


def test_device_rules_are_not_a_users_to_set(both: User) -> None:
    assert both.run("true", linux_resources={"devices": [{"allow": False, "access": "rwm"}]}).returncode == 0


def test_a_delegated_cgroup_is_used(both: User) -> None:
    with delegated(f"wherry-delegated-{os.getpid()}") as both.join:
        try:
            pid = both.start("sh", "-c", "sleep 100 & sleep 101; :", linux_resources=LIMIT)
            (own,) = {
                line.split(":", 2)[2]
                for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
                if "pids" in line or line.startswith("0::/wherry")
            }
            assert own.endswith("/box") and "wherry-delegated" in own
            base = "/sys/fs/cgroup/pids" if Path("/sys/fs/cgroup/pids").exists() else "/sys/fs/cgroup"
            assert Path(f"{base}{own}/pids.max").read_text() == "20\n"
            all_of_three(both)
            done = both.runtime("exec", "box", "cat", "/proc/self/cgroup")
            assert done.returncode == 0, done
            assert both.runtime("pause", "box").returncode == 0
            assert both.status() == "paused"
            assert both.runtime("resume", "box").returncode == 0
            assert both.runtime("update", "--pids-limit", "30", "box").returncode == 0
            assert Path(f"{base}{own}/pids.max").read_text() == "30\n"
            stats = json.loads(both.runtime("events", "--stats", "box").stdout)
            assert stats["data"]["pids"]["current"] == 3
            assert both.runtime("delete", "-f", "box").returncode == 0
            assert not Path(f"{base}{own}").exists()
        finally:
            reap()
            both.join = []


def test_only_some_hierarchies_delegated(one: User) -> None:
    with delegated(f"wherry-partly-{os.getpid()}") as groups:
        one.join = [
            group
            for group in groups
            if "/pids/" in group or "/freezer/" in group or not Path("/sys/fs/cgroup/pids").exists()
        ]
        try:
            one.start("sleep", "100", linux_resources=LIMIT)
            assert one.runtime("pause", "box").returncode == 0
            assert one.runtime("resume", "box").returncode == 0
            if len(one.join) > 1:
                done = one.runtime("update", "--memory", "64m", "box")
                assert "cannot set memory limit: container could not join or create cgroup" in done.stderr
            assert one.runtime("delete", "-f", "box").returncode == 0
        finally:
            reap()
            one.join = []


def without_user(config: dict[str, Any]) -> dict[str, Any]:
    linux = dict(config["linux"])
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "user"]
    del linux["uidMappings"], linux["gidMappings"]
    return {"linux": linux}


def mount_option(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "mounts": [*config["mounts"], {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["gid=5"]}]
    }


def net_device(config: dict[str, Any]) -> dict[str, Any]:
    spaces = [*config["linux"]["namespaces"], {"type": "network"}]
    return {"linux": {**config["linux"], "namespaces": spaces, "netDevices": {"eth9": {}}}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_user, "rootless container requires user namespaces"),
        (lambda _: {"linux_uidMappings": []}, "linux.uidMappings: a new user namespace needs mappings"),
        (lambda _: {"linux_gidMappings": []}, "linux.gidMappings: a new user namespace needs mappings"),
        (mount_option, "cannot specify gid=5 mount option"),
        (lambda _: {"process_user": {"uid": 0, "gid": 0, "additionalGids": [5]}}, "cannot set any additional groups in a rootless container"),
        (net_device, "network devices are not supported for rootless containers"),
    ],
)  # fmt: skip
def test_what_a_user_may_not_ask_for(one: User, change: Any, words: str) -> None:
    done = one.run("true", **change(one.config))
    assert done.returncode == 1
    assert words in done.stderr
    assert one.runtime("list", "-q").stdout == ""


def test_exec_may_not_have_additional_groups(one: User) -> None:
    one.start("sleep", "100")
    done = one.runtime("exec", "-g", "5", "box", "true")
    assert done.returncode == 255 and "cannot set any additional groups in a rootless container" in done.stderr


def test_bind_mounts_are_seen_as_the_caller_sees_them(both: User) -> None:
    """Sources are the caller's files, also those that only its own mount namespace has; and what it may not read, it may not mount."""
    (both.place / "run/file").write_text("mine\n")
    closed = both.place / "closed"
    closed.mkdir(mode=0o700, exist_ok=True)
    (closed / "file").write_text("root's\n")
    binds = [{"destination": f"/mnt/{name}", "type": "bind", "source": source, "options": ["rbind", "ro"]}
             for name, source in (("file", f"{both.place}/run/file"), ("passwd", "/etc/passwd"))]  # fmt: skip
    done = both.run(
        "sh",
        "-c",
        "cat /mnt/file; grep -c tester /mnt/passwd; echo x >/mnt/file || echo refused",
        mounts=[*both.config["mounts"], *binds],
    )
    assert done.stdout.split() == ["mine", "1", "refused"], done
    binds = [{"destination": "/mnt/file", "type": "bind", "source": f"{closed}/file", "options": ["bind"]}]
    done = both.run("true", mounts=[*both.config["mounts"], *binds])
    assert done.returncode == 1 and "permission denied" in done.stderr, done


def test_a_network_namespace_of_its_own_has_a_sysfs(both: User) -> None:
    config = json.loads(json.dumps(both.config))
    config["linux"]["namespaces"].append({"type": "network"})
    for mount in config["mounts"]:
        if mount["destination"] == "/sys":
            mount.update(type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", "ro"])
    done = both.run("ls", "/sys/class/net", linux=config["linux"], mounts=config["mounts"])
    assert done.stdout.split() == ["lo"], done


def test_the_oom_score_goes_up_only(both: User) -> None:
    assert both.run("cat", "/proc/self/oom_score_adj", process_oomScoreAdj=300).stdout == "300\n"
    done = both.run("true", process_oomScoreAdj=-500)
    assert done.returncode == 1 and "oom_score_adj" in done.stderr, done
    both.start("sleep", "100", process_oomScoreAdj=300)
    assert both.runtime("exec", "box", "cat", "/proc/self/oom_score_adj").stdout == "300\n"


def test_resource_limits_go_down_only(both: User) -> None:
    limit = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]
    assert both.run("sh", "-c", "ulimit -n", process_rlimits=limit).stdout == "64\n"
    limit = [{"type": "RLIMIT_NOFILE", "soft": 1 << 30, "hard": 1 << 30}]
    done = both.run("true", process_rlimits=limit)
    assert done.returncode == 1 and "rlimit" in done.stderr, done


@pytest.mark.requires("timens")
def test_a_time_namespace(one: User) -> None:
    spaces = [*one.config["linux"]["namespaces"], {"type": "time"}]
    one.start("sleep", "100", linux_namespaces=spaces, linux_timeOffsets={"boottime": {"secs": 1000000, "nanosecs": 0}})
    seen = float(one.runtime("exec", "box", "cat", "/proc/uptime").stdout.split()[0])
    assert seen > float(Path("/proc/uptime").read_text().split()[0]) + 999_000


def test_a_container_in_anothers_namespaces(one: User) -> None:
    """As in a pod: the user namespace first, whose power the others need."""
    pid = one.start("sleep", "100")
    spaces = [
        {"type": kind, "path": f"/proc/{pid}/ns/{file}"}
        for kind, file in (("user", "user"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid"))
    ]
    linux = {**one.config["linux"], "namespaces": [{"type": "mount"}, *spaces]}
    del linux["uidMappings"], linux["gidMappings"]
    config = {**one.config, "linux": linux}
    del config["hostname"]
    other = one.place / "run/other"
    other.mkdir()
    config["process"] = {**config["process"], "args": ["cat", "/proc/1/cmdline"]}
    config["root"] = {"path": str(one.rootfs), "readonly": True}
    (other / "config.json").write_text(json.dumps(config))
    done = one.runtime("run", "-b", str(other), "other")
    assert done.stdout == "sleep\x00100\x00", done
    shutil.rmtree(other)


def test_hooks_are_the_users(one: User) -> None:
    hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"id -u >{one.place}/run/hook"]}]}
    assert one.run("true", hooks=hooks).returncode == 0
    assert (one.place / "run/hook").read_text() == f"{UID}\n"


def test_masked_and_readonly_paths_and_seccomp(both: User) -> None:
    seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    done = both.run(
        "sh",
        "-c",
        "head -c1 /proc/kcore; echo 1 >/proc/sys/kernel/hostname || echo ro; mkdir /tmp/x || echo denied",
        linux_seccomp=seccomp,
    )
    assert done.stdout.split() == ["ro", "denied"], done


def test_a_readonly_root(both: User) -> None:
    done = both.run("sh", "-c", "touch /x || echo ro", root={"path": "rootfs", "readonly": True})
    assert done.stdout == "ro\n", done


def test_root_of_a_user_namespace_runs_containers(one: User) -> None:
    """As rootless podman and buildah call a runtime: root there, nothing on the machine. Nodes are bound, device rules left out."""
    config = json.loads(json.dumps(one.config))
    linux = config["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "user"]
    del linux["uidMappings"], linux["gidMappings"]
    linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    one.write("sh", "-c", "id -u; cat /dev/null; ls /dev/full", linux=linux)
    done = one("unshare", "-Urm", one.program, "run", "-b", str(one.bundle), "box")
    assert (done.stdout.split(), done.stderr) == (["0", "/dev/full"], "")


def test_a_users_own_interpreter_is_copied(one: User) -> None:
    """It is the user's to write, and so the container's: it must be out of its reach (CVE-2019-5736)."""
    python = one.place / "usr/bin/python3"
    python.unlink()
    shutil.copy(os.path.realpath(sys.executable), python)
    os.chown(python, UID, UID)
    try:
        pid = one.start("sleep", "100")
        assert one.runtime("exec", "box", "true").returncode == 0
        one.runtime("kill", "box", "KILL")
        os.waitpid(pid, 0)
        one.write("sleep", "100")
        with open(os.devnull, "w") as nothing:
            words = (one.program, "create", "-b", str(one.bundle), "--pid-file", f"{one.place}/run/pid", "again")
            assert (
                subprocess.run(
                    one.command(words),
                    stdin=nothing,
                    stdout=nothing,
                    stderr=nothing,
                    env=one.environment(),
                    check=False,
                ).returncode
                == 0
            )
        waiting = int((one.place / "run/pid").read_text())
        assert os.readlink(f"/proc/{waiting}/exe").startswith("/memfd:wherry-python")
        copy = os.open(f"/proc/{waiting}/exe", os.O_RDONLY)
        assert fcntl.fcntl(copy, fcntl.F_GET_SEALS) == ALL_SEALS
        os.close(copy)
    finally:
        one.runtime("delete", "-f", "again")
        python.unlink()
        python.symlink_to(os.path.realpath(sys.executable))


def test_a_pid_that_was_used_again_is_not_killed(one: User) -> None:
    """Without a cgroup the container is known by its first process's pid, and nothing keeps that from being another's."""
    pid = one.start("true")
    os.waitpid(pid, 0)
    with subprocess.Popen(one.command(("sleep", "100")), env=one.environment()) as innocent:
        file = one.place / "run/wherry-runc/box/state.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "pid": innocent.pid}))
        assert one.runtime("kill", "--all", "box", "KILL").returncode == 0
        assert one.runtime("delete", "--force", "box").returncode == 0
        assert innocent.poll() is None
        innocent.kill()


def test_no_cgroup_and_no_pid_namespace_is_warned_of(one: User) -> None:
    spaces = [entry for entry in one.config["linux"]["namespaces"] if entry["type"] != "pid"]
    mounts = [mount for mount in one.config["mounts"] if mount["type"] != "proc"]
    done = one.run("true", linux_namespaces=spaces, mounts=mounts, linux_maskedPaths=[], linux_readonlyPaths=[])
    assert done.returncode == 0 and "no private pid namespace" in done.stderr, done


@pytest.mark.requires("cgroup1")
def test_units_of_the_users_systemd_need_cgroup_v2(one: User) -> None:
    one.write("true")
    done = one.runtime("--systemd-cgroup", "run", "-b", str(one.bundle), "box")
    assert done.returncode == 1 and "cannot use rootless systemd cgroups manager on cgroup v1" in done.stderr, done


def test_a_waiting_first_process_is_not_the_users_to_look_into(one: User) -> None:
    """Until it is the container's program it is a process of the host's, and hidden from all that are the same user
    (CVE-2016-9962); so nothing can be executed beside it. runc's is in the open by then."""
    one.write("sleep", "100")
    with open(one.place / "output", "wb") as output:
        words = (one.program, "create", "-b", str(one.bundle), "--pid-file", f"{one.place}/run/pid", "box")
        subprocess.run(
            one.command(words),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=one.environment(),
            check=True,
        )
    pid = (one.place / "run/pid").read_text()
    for name in ("root/", "fd/", "environ", "mem"):
        assert "ermission denied" in one("head", "-c1", f"/proc/{pid}/{name}").stderr
    done = one.runtime("exec", "box", "true")
    assert done.returncode == 255 and "permission denied" in done.stderr and "Traceback" not in done.stderr, done
    assert json.loads(one.runtime("ps", "-f", "json", "box").stdout) == [int(pid)]
    assert one.runtime("delete", "box").returncode == 0
