"""What runc's own users rely on and its help does not say: options after arguments, containers whose first process has
ended, working directories that the user cannot enter, parts of cgroups.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.root.test_wherry_runc import PARENT, Runtime, groups, program, rootfs, runtime, wait_gone

from wherry.linux import cgroups

__all__ = ["program", "rootfs", "runtime"]

pytestmark = pytest.mark.requires("root", "busybox")

SHARED_PIDS = [{"type": kind} for kind in ("mount", "ipc", "uts", "network")]


def detached(runtime: Runtime, *words: str) -> None:
    """A command whose container holds its streams."""
    with open(runtime.bundle / "output", "wb") as output:
        command = runtime.command(*words)
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True, timeout=300)


def test_options_may_come_after_the_container(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    assert runtime("update", "box", "--pids-limit", "33").returncode == 0
    assert runtime("kill", "box", "--all", "KILL").returncode == 0
    assert runtime("delete", "box", "--force").returncode == 0
    assert "flag provided but not defined: -nothing" in runtime("state", "box", "--nothing").stderr


def test_global_options_may_come_after_the_verb(runtime: Runtime, tmp_path: Path) -> None:
    runtime.start("sleep", "1000")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert runtime("state", "box").returncode == 0
    assert "does not exist" in runtime("state", f"--root={elsewhere}", "box").stderr
    refused = runtime("state", "box", "--root", str(elsewhere), "--log", str(tmp_path / "log"), "--log-format", "json")
    assert refused.returncode == 1
    assert '"msg":"container does not exist' in (tmp_path / "log").read_text()
    assert runtime("exec", "box", "echo", "--root", "x").stdout == "--root x\n"
    assert runtime("exec", "box", "--", "echo", "--", "x").stdout == "-- x\n"
    assert "should not be set to /" in runtime("list", "--root", "/").stderr


def test_options_of_the_program_are_not_execs(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    assert runtime("exec", "box", "sh", "-c", "echo $0", "--tty").stdout == "--tty\n"


@pytest.mark.parametrize("verb", ["kill", "delete"])
def test_processes_that_outlive_the_first_are_ended(runtime: Runtime, verb: str) -> None:
    """Without a pid namespace of the container's own its other processes live on."""
    pid = runtime.start("sleep", "1000", linux_namespaces=SHARED_PIDS)
    detached(runtime, "exec", "-d", "--pid-file", str(runtime.bundle / "other"), "box", "sleep", "1000")
    other = int((runtime.bundle / "other").read_text())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert runtime.status() == "stopped"
    assert runtime(verb, "box", *(["KILL"] if verb == "kill" else [])).returncode == 0
    assert os.waitpid(other, 0)[1] == signal.SIGKILL
    if verb == "kill":
        assert "container not running" in runtime("kill", "box", "KILL").stderr
        assert "container not running" in runtime("kill", "box", "0").stderr


def test_a_working_directory_that_only_root_or_only_the_user_may_enter(runtime: Runtime, tmp_path: Path) -> None:
    for owner, user in ((0, 1000), (1000, 0)):
        private = tmp_path / f"private{owner}"
        private.mkdir(mode=0o700)
        os.chown(private, owner, owner)
        mounts = [
            *runtime.config["mounts"],
            {"destination": "/tmp/p", "type": "bind", "source": str(private), "options": ["bind"]},
        ]
        done = runtime.run("pwd", process_cwd="/tmp/p", process_user={"uid": user, "gid": user}, mounts=mounts)
        assert (done.returncode, done.stdout) == (0, "/tmp/p\n"), done.stderr


def test_a_path_is_masked_once(runtime: Runtime) -> None:
    done = runtime.run(
        "sh", "-c", "grep -c ' /proc/interrupts ' /proc/self/mountinfo", linux_maskedPaths=["/proc/interrupts"] * 3
    )
    assert done.stdout == "1\n"


def test_a_pids_limit_of_none_is_one(runtime: Runtime) -> None:
    done = runtime.run("sh", "-c", "sleep 1 & wait", linux_resources={"pids": {"limit": 0}})
    assert "can't fork" in done.stderr


def test_an_exec_gets_ambient_capabilities_that_are_inheritable(runtime: Runtime) -> None:
    sets = {name: ["CAP_CHOWN"] for name in ("effective", "permitted", "ambient")}
    sets["bounding"] = ["CAP_CHOWN", "CAP_SYSLOG"]
    runtime.start("sleep", "1000", process_capabilities={**sets, "inheritable": ["CAP_CHOWN", "CAP_SYSLOG"]})
    words = ("--cap", "CAP_SYSLOG", "--cap", "CAP_KILL", "box", "cat", "/proc/self/status")
    status = runtime("exec", *words).stdout
    assert [f"Cap{name}:\t{1 << 34 | 1:016x}\n" in status for name in ("Inh", "Amb")] == [True, True], status


@pytest.mark.requires("cgroup1")
def test_an_exec_in_a_part_of_the_cgroup(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    own = f"{PARENT}/{runtime.bundle.parent.name}"
    Path(f"/sys/fs/cgroup/pids{own}/part").mkdir()
    shown = runtime(
        "exec", "--cgroup", "pids:part", "--cgroup", "memory:/", "box", "cat", "/proc/1/cpuset", "/proc/self/cgroup"
    )
    assert f":pids:{own}/part\n" in shown.stdout, shown.stderr
    assert f":memory:{own}\n" in shown.stdout
    for words, text in (
        (("..",), "bad sub cgroup path"),
        (("pids:part/../..",), "bad sub cgroup path"),
        (("nothing",), "error adding pid of the process to cgroups: open "),
        (("cows:part",), "unknown controller"),
        (("part", "other"), "missing <controller>: prefix"),
    ):
        done = runtime("exec", *(part for word in words for part in ("--cgroup", word)), "box", "true")
        assert (done.returncode, text in done.stderr) == (255, True), done.stderr


def test_an_exec_that_cannot_be_handed_over_is_ended(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    done = runtime("exec", "--pidfd-socket", "/nowhere", "-d", "box", "sleep", "777")
    assert "--pidfd-socket /nowhere: no such file or directory" in done.stderr
    assert "777" not in runtime("ps", "box").stdout


def test_a_container_may_share_the_mount_namespace(runtime: Runtime, tmp_path: Path) -> None:
    """What it mounts is then mounted on its root directory in ours, until it is deleted, or its start has failed."""
    root = tmp_path / "root"
    shutil.copytree(runtime.config["root"]["path"], root, symlinks=True)
    before = Path("/proc/self/mountinfo").read_text()
    changes = {"root": {"path": str(root)}, "linux_namespaces": [{"type": kind} for kind in ("pid", "ipc", "network")]}
    pid = runtime.start("sleep", "1000", hostname="", **changes)
    assert Path(f"/proc/{pid}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink()
    assert Path(f"/proc/{pid}/root").readlink() == root
    assert (root / "proc/1/comm").read_text() == "sleep\n"
    # of the container's root, not of the host's, by name and by number
    words = ("--cwd", "/bin", "--user", "1000", "box", "sh", "-c", "pwd; cat /proc/1/comm; echo ~; cd ../..; ls")
    shown = runtime("exec", *words)
    assert shown.stdout.splitlines() == ["/bin", "sleep", "/home/app", *sorted(os.listdir(root))], shown.stderr
    links = runtime("exec", "box", "ls", "-l", "/proc/self/fd").stdout.splitlines()
    assert [line for line in links if " 3" not in line and not line.endswith(("total 0", "]", "null"))] == []
    assert "executable file not found" in runtime("exec", "box", "bash").stderr
    assert "failed: no such file" in runtime("exec", "--cwd", str(root), "box", "true").stderr
    elsewhere = ("unshare", "-m", "--propagation", "private", "sh", "-c", 'mount -t tmpfs x "$0"; exec "$@"', str(root))
    command = [*elsewhere, *runtime.command("exec", "box", "ls", "/proc/1/comm")]
    away = subprocess.run(command, capture_output=True, text=True, check=False)
    assert away.stdout == "/proc/1/comm\n", away.stderr  # whatever is at that path where the caller is
    assert runtime("delete", "-f", "box").returncode == 0
    assert Path("/proc/self/mountinfo").read_text() == before
    assert runtime.run("nope", hostname="", **changes).returncode == 1
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("nr_inodes=2", "mkfifo {}/exec.fifo"),
        ("nr_inodes=3", "write {}/config.json"),
        ("size=4k", "write {}/state.json"),
    ],
    ids=["first", "second", "when all is made"],
)
def test_a_full_disk_leaves_no_container_and_is_named(runtime: Runtime, options: str, words: str) -> None:
    runtime.write("sleep", "1000")
    runtime.root.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "full", str(runtime.root)], check=True)
    try:
        done = runtime("create", "-b", str(runtime.bundle), "box")
        assert f"create failed: {words.format(runtime.root / 'box')}: no space left on device" in done.stderr
        assert (done.returncode, "Traceback" in done.stderr, os.listdir(runtime.root)) == (1, False, [])
    finally:
        subprocess.run(["umount", str(runtime.root)], check=True)


def test_the_runtimes_own_mount_namespace_is_not_given_by_path(runtime: Runtime) -> None:
    """It would be the container's in name alone: an exec from elsewhere would enter it at the host's root."""
    spaces = [{"type": "mount", "path": "/proc/self/ns/mnt"}, {"type": "pid"}]
    before = Path("/proc/self/mountinfo").read_text()
    done = runtime.run("true", hostname="", linux_namespaces=spaces)
    assert (done.returncode, "is the runtime's own" in done.stderr) == (1, True), done.stderr
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_poststart_hook_that_fails_ends_the_container(runtime: Runtime) -> None:
    failing = {"poststart": [{"path": "/bin/true"}, {"path": "/bin/false"}]}
    done = runtime.run("sleep", "1000", hooks=failing)
    assert (done.returncode, "error running poststart hook #1: exit status 1" in done.stderr) == (1, True), done.stderr
    assert runtime("list", "-q").stdout == ""
    runtime.write("sleep", "1000", hooks=failing)
    detached(runtime, "create", "-b", str(runtime.bundle), "box")
    pid = json.loads((runtime.root / "box/state.json").read_text())["pid"]
    assert "error running poststart hook #1" in runtime("start", "box").stderr
    wait_gone(pid)
    assert runtime.status() == "stopped"


@pytest.mark.requires("libseccomp")
def test_hooks_in_the_container_get_its_environment_and_filter(runtime: Runtime) -> None:
    """They are programs of the image's: they may not do more than its first process may."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "mkdir /tmp/x; echo $A >&2; exit 7"]}
    filtered = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    changes = {"hooks": {"startContainer": [hook]}, "process_env": ["A=b", "PATH=/bin"], "linux_seccomp": filtered}
    done = runtime.run("true", **changes, root={**runtime.config["root"], "readonly": False})
    assert "error running startContainer hook #0: exit status 7" in done.stderr
    assert "Operation not permitted" in done.stderr
    assert "b" in done.stderr.split("\\n")[-1]


def test_a_variable_is_there_once_and_an_empty_home_is_looked_up(runtime: Runtime) -> None:
    done = runtime.run(
        "env", process_env=["PATH=/bin", "A=1", "HOME=", "B=2", "A=3"], process_user={"uid": 1000, "gid": 1000}
    )
    assert done.stdout.splitlines() == ["PATH=/bin", "B=2", "A=3", "HOME=/home/app"]


def test_a_terminal_in_the_foreground_adds_no_carriage_returns(runtime: Runtime) -> None:
    done = runtime.run("echo", "line", process_terminal=True)
    assert done.stdout == "line\n"


def test_a_relative_destination_is_meant_from_the_root(runtime: Runtime) -> None:
    mounts = [*runtime.config["mounts"], {"destination": "tmp", "type": "tmpfs", "source": "tmpfs"}]
    assert " /tmp rw" in runtime.run("cat", "/proc/self/mountinfo", mounts=mounts).stdout


def test_the_cgroup_may_be_mounted_more_than_once(runtime: Runtime) -> None:
    mounts = [{"destination": place, "type": "cgroup", "source": "cgroup"} for place in ("/tmp/a", "/tmp/b", "/tmp/b")]
    mounts = [{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}, *mounts]
    done = runtime.run("sh", "-c", "ls /tmp/a; echo -; ls /tmp/b", mounts=[*runtime.config["mounts"], *mounts])
    first, _, second = done.stdout.partition("-\n")
    assert first and first == second, done.stderr


MAKING = [
    (verb, name, call)
    for verb in (("create",), ("run", "-d"), ("run",))
    for name, call in (("INT", "mkdir"), ("TERM", "mkdir"), ("HUP", "clone3"), ("TERM", "clone3"), ("INT", "rename"))
    if (verb, call) != (("run",), "clone3")  # when it is there, signals are for the process: test_signals_are_passed_on
]


@pytest.mark.requires("strace")
@pytest.mark.parametrize(("verb", "name", "call"), MAKING)
def test_a_signal_undoes_what_is_being_made_and_ends_by_it(
    runtime: Runtime, tmp_path: Path, verb: tuple[str, ...], name: str, call: str
) -> None:
    runtime.write("true")
    detached(runtime, *verb, "-b", str(runtime.bundle), "box")  # what it needs is compiled: Python makes no directory
    runtime("delete", "-f", "box")
    runtime.write("sleep", "1000")
    inject = ("strace", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal={name}:when=1")
    with open(tmp_path / "said", "w+") as said:
        # whoever runs the tests may have been told to ignore SIGHUP
        command = ["env", "--default-signal", *inject, *runtime.command(*verb, "-b", str(runtime.bundle), "box")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False)
    assert done.returncode == -signal.Signals[f"SIG{name}"]
    assert (tmp_path / "said").read_text().endswith('level=error msg="interrupted"\n')
    assert (os.path.exists(runtime.root / "box"), groups()) == (False, [])


@pytest.mark.parametrize("kind", ["prestart", "createContainer", "poststart"])
def test_a_signal_while_a_hook_runs_ends_the_hook_and_undoes(runtime: Runtime, tmp_path: Path, kind: str) -> None:
    os.mkfifo(began := tmp_path / "began")
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"echo $$ >{began}; exec sleep 1000"]}
    runtime.write("sleep", "1000", hooks={kind: [hook]})
    command = ["env", "--default-signal", *runtime.command("run", "-d", "-b", str(runtime.bundle), "box")]
    with open(tmp_path / "said", "w+") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    began.read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == -signal.SIGTERM
    assert (os.path.exists(runtime.root / "box"), groups()) == (False, [])


@pytest.mark.parametrize("destination", ["/", "", "/bin/..", "/link"])
def test_nothing_is_mounted_on_the_root_itself(runtime: Runtime, tmp_path: Path, destination: str) -> None:
    """Nobody would see it: the container's root is what lies below."""
    shutil.copytree(runtime.config["root"]["path"], tmp_path / "root", symlinks=True)
    (tmp_path / "root/link").symlink_to("/")
    for entry in ({"type": "tmpfs", "source": "tmpfs"}, {"type": "bind", "source": "/tmp", "options": ["bind"]}):
        mounts = [*runtime.config["mounts"], {"destination": destination, **entry}]
        done = runtime.run("true", mounts=mounts, root={"path": str(tmp_path / "root")})
        assert (done.returncode, "is on the top of rootfs" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [("hostname", "a\ud800"), ("hostname", "a\udcff"), ("linux_netDevices", {"a\udcff": {}}), ("linux_sysctl", {"kernel.msgmax": "\udcff"})],
)  # fmt: skip
def test_what_is_no_unicode_text_gives_no_traceback(runtime: Runtime, field: str, value: object) -> None:
    """JSON can escape halves of characters: U+DC80 to U+DCFF stand for bytes, as Python has them; the others for nothing."""
    done = runtime.run("true", **{field: value})
    assert "Traceback" not in done.stderr
    assert "Internal" not in done.stderr
    assert field != "hostname" or done.returncode == int("\ud800" in str(value))
    assert "\ud800" not in str(value) or "hostname: 'a\\\\ud800' holds half of a character" in done.stderr


def test_many_bind_mounts_need_few_descriptors(runtime: Runtime) -> None:
    binds = [
        {"destination": f"/tmp/{number}", "type": "bind", "source": "/bin/true", "options": ["bind"]}
        for number in range(100)
    ]
    done = runtime.run(
        "sh",
        "-c",
        "ls /tmp | wc -l",
        mounts=[*runtime.config["mounts"], {"destination": "/tmp", "type": "tmpfs"}, *binds],
    )
    assert done.stdout == "100\n", done.stderr


def test_a_script_without_its_interpreter_is_told_as_by_its_own_stderr(runtime: Runtime, tmp_path: Path) -> None:
    """Not of `run` is it said: with create and start apart nobody but the container's stderr could get it."""
    script = tmp_path / "script"
    script.write_text("#!/nowhere/sh\n")
    script.chmod(0o755)
    mounts = [*runtime.config["mounts"], {"destination": "/tmp/x", "source": str(script), "options": ["bind"]}]
    done = runtime.run("/tmp/x", mounts=mounts)
    words = "exec /tmp/x: no such file or directory\n"
    assert (done.returncode, done.stdout, done.stderr) == (255, "", words)
    detached(runtime, "create", "-b", str(runtime.bundle), "box")
    pid = json.loads((runtime.root / "box/state.json").read_text())["pid"]
    assert runtime("start", "box").returncode == 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 255
    assert (runtime.bundle / "output").read_text() == words


@pytest.mark.parametrize("user_namespace", [False, True])
@pytest.mark.parametrize("id_mapped", [False, True])
def test_a_source_below_the_root_is_what_earlier_mounts_show(
    runtime: Runtime, rootfs: Path, tmp_path: Path, user_namespace: bool, id_mapped: bool
) -> None:
    ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    owner = 100000 if user_namespace else 0
    for name in ("outer", "inner"):
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
        for path in (tmp_path / name / "file", tmp_path / name / "x"):
            os.chown(path, owner, owner)
    again = {"type": "bind", "options": ["rbind"], **({"uidMappings": ids, "gidMappings": ids} if id_mapped else {})}
    mounts = [
        *runtime.config["mounts"],
        {"destination": "/tmp", "type": "bind", "source": str(tmp_path / "outer"), "options": ["bind"]},
        {"destination": "/tmp/x", "type": "bind", "source": str(tmp_path / "inner"), "options": ["bind"]},
        {"destination": "/root", "source": f"{rootfs}/tmp", **again},  # what is mounted below comes along
        {"destination": f"{rootfs}/etc", "source": f"{rootfs}/tmp/x", **again},  # a destination that names the root
    ]
    changes: dict[str, Any] = {"mounts": mounts, "root": {"path": str(rootfs)}}
    if user_namespace:
        spaces = [*runtime.config["linux"]["namespaces"], {"type": "user"}]
        changes |= {"linux_namespaces": spaces, "linux_uidMappings": ids, "linux_gidMappings": ids}
    done = runtime.run("sh", "-c", "cat /root/file /root/x/file /etc/file; ls -n /etc/file", **changes)
    assert done.stdout.startswith("outerinnerinner"), done.stderr
    # a file of the host's 0 is seen as 100000 through the mapping, and that is the user namespace's 0
    seen = {(False, False): "0", (False, True): "100000", (True, False): "0", (True, True): "65534"}
    assert done.stdout.split()[3] == seen[user_namespace, id_mapped]


@pytest.mark.requires("hybrid")
def test_it_is_in_the_unified_hierarchy_too(runtime: Runtime) -> None:
    """As by runc, on a machine that has both versions; what enters it is there, and it goes with the container."""
    layout = cgroups.detect()
    assert layout.unified is not None
    unified = layout.unified.mountpoint
    pid = runtime.start("sleep", "1000", linux_namespaces=[*SHARED_PIDS, {"type": "pid"}])
    group = f"{PARENT}/{runtime.bundle.parent.name}"
    assert f"0::{group}\n" in Path(f"/proc/{pid}/cgroup").read_text()
    assert json.loads((runtime.root / "box/state.json").read_text())["cgroup_paths"][""] == f"{unified}{group}"
    assert f"0::{group}\n" in runtime("exec", "box", "cat", "/proc/self/cgroup").stdout
    pinned = runtime.bundle / "pinned.json"  # enters by itself, not by birth
    process = {"args": ["/bin/cat", "/proc/self/cgroup"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    pinned.write_text(json.dumps({**process, "execCPUAffinity": {"initial": "0"}}))
    done = runtime("exec", "--process", str(pinned), "box")
    assert f"0::{group}\n" in done.stdout, done.stderr
    assert ":/\n" not in done.stdout
    assert runtime("delete", "-f", "box").returncode == 0
    assert not Path(f"{unified}{group}").exists()


def test_the_filters_flags_and_execs_are_in_the_debug_log(runtime: Runtime) -> None:
    section = {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}
    runtime.start("sleep", "1000")
    assert "level=debug" in runtime("--debug", "exec", "box", "true").stderr
    runtime("delete", "-f", "box")
    runtime.write("true", linux_seccomp=section)
    assert 'msg="seccomp filter flags: 2"' in runtime("--debug", "run", "-b", str(runtime.bundle), "box").stderr


def test_hooks_find_the_root_at_its_path_before_it_is_the_root(runtime: Runtime, tmp_path: Path) -> None:
    """They enter the container's mount namespace and mount below the bundle's root, as those for graphics cards do."""
    root = tmp_path / "root"
    shutil.copytree(runtime.config["root"]["path"], root, symlinks=True)
    for name in ("one", "two", "three"):
        (root / name).touch()
        (tmp_path / name).write_text(name)
    enter = f"""pid=$(sed 's/.*"pid":\\([0-9]*\\).*/\\1/'); nsenter -m -t $pid mount --bind {tmp_path}/one {root}/one"""
    inside = (
        f"mount --bind {tmp_path}/two ./two && mount --bind {tmp_path}/three {root}/three && ls {root}/proc/self >&2"
    )
    hooks = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]
        for kind, script in (("createRuntime", enter), ("createContainer", inside))
    }
    done = runtime.run("cat", "/one", "/two", "/three", root={"path": str(root)}, hooks=hooks)
    assert (done.returncode, done.stdout) == (0, "onetwothree"), done.stderr
    assert str(root) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def flagged(tmp_path: Path) -> Iterator[Path]:
    """A file system whose mount has flags that the file system itself has not."""
    place = tmp_path / "flagged"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "flagged", place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,nosuid,noexec,nosymfollow,noatime", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(
    ("words", "seen", "seen_in_user_namespace"),
    [
        ([], {"rw", "nosuid", "noexec", "nosymfollow", "noatime"}, {"rw", "nosuid", "noexec", "nosymfollow", "noatime"}),
        (["ro"], {"ro", "noatime"}, {"ro", "nosuid", "noexec", "noatime"}),
        (["nodev", "relatime"], {"rw", "nodev", "relatime"}, None),
        (["suid"], {"rw", "noatime"}, None),
        (["rro", "suid"], {"ro", "noatime"}, None),
    ],
)  # fmt: skip
def test_one_attribute_of_a_bind_mount_sets_all_and_what_is_locked_stays(
    runtime: Runtime, flagged: Path, words: list[str], seen: set[str], seen_in_user_namespace: set[str] | None
) -> None:
    mount = {"destination": "/tmp", "source": str(flagged), "options": ["bind", *words]}
    show = ("sh", "-c", "grep ' /tmp ' /proc/self/mountinfo")
    done = runtime.run(*show, mounts=[*runtime.config["mounts"], mount])
    assert set(done.stdout.split()[5].split(",")) == seen, done.stderr
    ids = [{"containerID": 0, "hostID": 0, "size": 65536}]
    spaces = [*runtime.config["linux"]["namespaces"], {"type": "user"}]
    done = runtime.run(
        *show, mounts=[*runtime.config["mounts"], mount],
        linux_namespaces=spaces, linux_uidMappings=ids, linux_gidMappings=ids,
    )  # fmt: skip
    if seen_in_user_namespace is None:
        assert (done.returncode, "locked in a user namespace: operation not permitted" in done.stderr) == (1, True)
    else:
        assert set(done.stdout.split()[5].split(",")) == seen_in_user_namespace, done.stderr
