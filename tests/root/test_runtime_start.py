"""Starting, holding, executing, failing: what comes back, in which words, and that nothing is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.runtime_lab import Lab, Outputs, bind

from wherry.errors import InvalidArgument, StartError
from wherry.linux import cgroups, pty
from wherry.runtime import container


@pytest.mark.parametrize(
    ("program", "errno", "words"),
    [
        ("nope", 2, 'exec: "nope": executable file not found in $PATH'),
        ("/no/such", 2, 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc", 13, 'exec: "/etc": permission denied'),
        ("/etc/passwd", 13, 'exec: "/etc/passwd": permission denied'),
        ("/etc/passwd/x", 20, 'exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory'),
    ],
)
def test_a_program_that_cannot_run_is_named_as_docker_does(lab: Lab, program: str, errno: int, words: str) -> None:
    with pytest.raises(StartError) as caught:
        lab.run(program)
    assert (caught.value.step, caught.value.errno, caught.value.message) == ("exec", errno, words)
    with lab.start("sleep", "100") as box, pytest.raises(StartError) as again:
        box.exec(program)
    assert (again.value.step, again.value.errno, again.value.message) == ("exec", errno, words)


def test_a_program_in_an_unknown_format_is_a_failed_exec(lab: Lab) -> None:
    (lab.rootfs / "bin/garbage").write_bytes(b"\x00\x01garbage")
    (lab.rootfs / "bin/garbage").chmod(0o755)
    with pytest.raises(StartError, match="exec /bin/garbage: exec format error") as caught:
        lab.run("garbage")
    assert (caught.value.step, caught.value.errno) == ("exec", 8)


def test_a_file_that_is_not_executable_is_skipped_on_the_path(lab: Lab) -> None:
    (lab.rootfs / "first").mkdir()
    (lab.rootfs / "first/echo").write_text("not a program")
    assert lab.run("echo", "found", env=["PATH=/first:/bin"]).out == "found\n"


def test_a_relative_directory_in_path_is_not_searched(lab: Lab) -> None:
    with pytest.raises(StartError, match="executable file not found"):
        lab.run("echo", "x", env=["PATH=bin:."])


def test_a_failed_start_leaves_no_cgroup_and_no_process(lab: Lab) -> None:
    config = lab.config("nope")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError):
        lab.create(config)
    assert not cgroups.open_group(config["linux"]["cgroupsPath"]).exists()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_successful_start_leaves_no_descriptor_but_its_own(lab: Lab) -> None:
    before = set(os.listdir("/proc/self/fd"))
    assert lab.run("true").status == 0
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_held_container_runs_only_when_started(lab: Lab, tmp_path: Path) -> None:
    with lab.start("sh", "-c", "echo ran > /mnt/flag", mounts=[bind(tmp_path, "/mnt")], hold=True) as box:
        assert Path(f"/proc/{box.pid}/root/bin/busybox").exists()
        assert not (tmp_path / "flag").exists()
        box.start()
        assert box.wait().status == 0
        assert (tmp_path / "flag").read_text() == "ran\n"
        with pytest.raises(InvalidArgument, match="already"):
            box.start()


def test_a_held_container_reports_a_missing_program_at_create(lab: Lab) -> None:
    with pytest.raises(StartError, match="executable file not found"):
        lab.create(lab.config("nope"), hold=True)


def test_a_held_container_can_be_started_by_another_process_through_a_fifo(lab: Lab, tmp_path: Path) -> None:
    fifo = str(tmp_path / "exec.fifo")
    os.mkfifo(fifo)
    box = lab.create(lab.config("echo", "went on"), hold=True, hold_fifo=fifo, parent_death_signal=0)
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b"0")
    os.close(writer)
    assert box.wait().out == "went on\n"
    with pytest.raises(OSError, match="No such device"):  # nobody waits any more
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    lab.remove(box)


def test_a_held_container_that_died_cannot_be_started(lab: Lab) -> None:
    with lab.start("true", hold=True) as box:
        signal.pidfd_send_signal(box.process.pidfd, signal.SIGKILL)
        with pytest.raises(StartError, match=r"ended|died"):
            box.start()


def test_exit_codes_and_signals_are_the_programs(lab: Lab) -> None:
    assert lab.shell("exit 42").status == 42
    with lab.start("sleep", "100") as box:
        container.kill_all(box.process.cgroup)
        assert box.wait().status == -9


def test_exec_joins_every_namespace_and_the_cgroup(lab: Lab) -> None:
    kinds = "mnt pid ipc uts net cgroup"
    with lab.start("sleep", "100") as box:
        result = box.exec(
            "sh",
            "-c",
            f"for n in {kinds}; do readlink /proc/self/ns/$n /proc/self/ns/$n; readlink /proc/1/ns/$n; done; cat /proc/self/cgroup; hostname",
        )
        theirs = {os.readlink(f"/proc/{box.pid}/ns/{kind}") for kind in kinds.split()}
        host_view = Path(f"/proc/{box.pid}/cgroup").read_text()
    links = [line for line in result.lines if "[" in line]
    assert set(links) == theirs
    assert {line.split(":", 2)[2] for line in result.lines if ":/" in line} == {"/"}
    assert lab.group in host_view
    assert result.lines[-1] == "box"


def test_exec_has_its_own_user_directory_environment_and_limits(lab: Lab) -> None:
    with lab.start("sleep", "100") as box:
        result = box.exec(
            "sh", "-c", "id -u; pwd; echo $X; ulimit -n; umask; echo $HOME",
            user={"uid": 1000, "gid": 1000}, cwd="/tmp", env=["PATH=/bin", "X=1"], rlimits=[{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}],
        )  # fmt: skip
    assert result.lines == ["1000", "/tmp", "1", "64", "0022", "/home/app"]


def test_exec_sees_only_the_three_standard_descriptors(lab: Lab) -> None:
    with lab.start("sleep", "100") as box:
        result = box.exec("sh", "-c", "ls /proc/$$/fd; true")
    assert result.lines == ["0", "1", "2"]


def test_exec_into_a_container_that_has_ended_is_an_error(lab: Lab) -> None:
    with lab.start("true") as box:
        os.waitid(os.P_PIDFD, box.process.pidfd, os.WEXITED | os.WNOWAIT)
        with pytest.raises(StartError):
            box.exec("true")
        box.wait()


def test_processes_of_an_exec_are_in_the_containers_group(lab: Lab) -> None:
    with lab.start("sleep", "100") as box:
        outputs = Outputs()
        spec = {**box.config["process"], "args": ["sleep", "50"]}
        made = container.exec_process(
            box.pid,
            box.process.pidfd,
            box.config,
            spec,
            cgroup=box.process.cgroup,
            stdio=outputs.stdio(),
            seccomp_bpf=None,
        )  # type: ignore[arg-type]
        assert container.pids(box.process.cgroup) == sorted([box.pid, made.pid])
        container.kill_all(box.process.cgroup)
        assert outputs.collect(made).status == -9


def test_pause_stops_and_resume_continues(lab: Lab) -> None:
    with lab.start("sh", "-c", "while :; do :; done") as box:

        def used() -> int:
            return sum(int(field) for field in Path(f"/proc/{box.pid}/stat").read_text().split()[13:15])

        container.pause(box.process.cgroup)
        before = used()
        time.sleep(0.1)
        assert used() == before
        assert box.process.cgroup.is_frozen()
        container.resume(box.process.cgroup)
        assert not box.process.cgroup.is_frozen()


def test_update_changes_a_limit_while_it_runs(lab: Lab) -> None:
    with lab.start("sleep", "100") as box:
        container.update(box.process.cgroup, {"pids": {"limit": 3}})
        assert "fork" in box.exec("sh", "-c", "sleep 1 & sleep 1 & sleep 1 & wait").err


def test_a_terminal_is_the_controlling_one_and_the_console(lab: Lab) -> None:
    script = "tty; stty size; readlink /proc/self/fd/0; set -- /proc/self/fd/*; echo $#; echo to stderr >&2"
    config = lab.config("sh", "-c", script, terminal=True, consoleSize={"width": 123, "height": 45})
    box = lab.create(config)
    assert box.process.console is not None
    assert pty.size(box.process.console) == (123, 45)
    result = box.wait()
    lab.remove(box)
    lines = [line.strip() for line in result.out.splitlines()]
    assert lines == [
        "/dev/pts/0",
        "45 123",
        "/dev/pts/0",
        "4",
        "to stderr",
    ]  # the fourth is the directory, as the shell lists it


def test_a_terminal_passes_signals_of_the_keyboard(lab: Lab) -> None:
    box = lab.create(
        lab.config(
            "sh", "-c", "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 1; done", terminal=True
        )
    )
    console = box.process.console
    assert console is not None
    text = b""
    while b"ready" not in text:
        text += os.read(console, 100)
    os.write(console, b"\x03")
    result = box.wait()
    lab.remove(box)
    assert "interrupted" in result.out
    assert result.status == 7


def test_exec_gets_a_terminal_of_the_containers_devpts(lab: Lab) -> None:
    with lab.start("sleep", "100") as box:
        result = box.exec(
            "sh", "-c", "tty; ls -1 /dev/pts; stat -c %u /dev/pts/0", terminal=True, user={"uid": 1000, "gid": 1000}
        )
    assert [line.strip() for line in result.out.splitlines()] == ["/dev/pts/0", "0", "ptmx", "1000"]


def hook(path: Path, script: str, **extra: object) -> dict[str, object]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"path": str(path), "args": [path.name, "arg"], **extra}


def test_hooks_run_at_their_moments_with_the_state(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    config = lab.config("sh", "-c", "echo program")
    (lab.rootfs / "hook").write_text("#!/bin/sh\necho startContainer $(hostname) >> /mnt/log; cat > /mnt/state-start\n")
    (lab.rootfs / "hook").chmod(0o755)
    config["mounts"].append(bind(tmp_path, "/mnt"))
    config["hooks"] = {
        "prestart": [hook(tmp_path / "pre", f"echo prestart $(hostname) $1 >> {log}; cat > {tmp_path}/state")],
        "createRuntime": [hook(tmp_path / "runtime", f"echo createRuntime >> {log}")],
        "createContainer": [
            hook(
                tmp_path / "create",
                f"echo createContainer $(hostname) $(test -e {tmp_path}/create && echo host root) >> {log}",
            )
        ],
        "startContainer": [{"path": "/hook", "env": ["PATH=/bin"]}],
    }
    result = lab.run_config(config)
    assert result.out == "program\n"
    host = os.uname().nodename
    assert log.read_text().splitlines() == [
        f"prestart {host} arg",
        "createRuntime",
        f"createContainer {host} host root",
        "startContainer box",
    ]
    state = (tmp_path / "state").read_text()
    assert '"status":"creating"' in state
    assert '"id":"lab' in state
    assert '"pid":' in state


def test_a_failing_hook_ends_the_start_and_says_why(lab: Lab, tmp_path: Path) -> None:
    for kind in ("prestart", "createContainer"):
        config = lab.config("true")
        config["hooks"] = {kind: [hook(tmp_path / "bad", "echo the reason >&2; exit 3")]}
        with pytest.raises(
            StartError, match=rf"error running {kind} hook #0: exit status 3, stderr: the reason"
        ) as caught:
            lab.run_config(config)
        assert caught.value.step == "hooks"
        assert not cgroups.open_group(config["linux"]["cgroupsPath"]).exists()


def test_a_hook_that_takes_too_long_is_killed(lab: Lab, tmp_path: Path) -> None:
    config = lab.config("true")
    config["hooks"] = {"createRuntime": [hook(tmp_path / "slow", "exec sleep 60", timeout=1)]}
    with pytest.raises(StartError, match="no end after 1 s"):
        lab.run_config(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"linux": {"sysctl": {"kernel.core_pattern": "|/x"}}}, "kernel.core_pattern"),
        ({"linux": {"sysctl": {"net/../kernel/core_pattern": "x"}}}, "not a name"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "moon"}]}}, "moon"),
        ({"rlimits": [{"type": "RLIMIT_MAGIC", "soft": 1, "hard": 1}]}, "RLIMIT_MAGIC"),
        ({"user": {"uid": 4294967296, "gid": 0}}, "process.user.uid"),
        ({"user": {"uid": -1, "gid": 0}}, "process.user.uid"),
        ({"selinuxLabel": "a:b:c:d"}, "selinux is disabled or not supported"),
        ({"scheduler": {"policy": "SCHED_WARP"}}, "process.scheduler"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, "process.ioPriority.priority"),
        ({"cwd": "relative"}, "process.cwd"),
        ({"env": ["A=\0"]}, "NUL"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_before_anything_is_made(
    lab: Lab, change: dict[str, object], words: str
) -> None:
    config = lab.config("true", **change)  # type: ignore[arg-type]
    with pytest.raises(StartError, match=words):
        lab.create(config)
    assert not cgroups.open_group(config["linux"]["cgroupsPath"]).exists()


def test_an_apparmor_profile_on_a_kernel_without_it_is_refused(lab: Lab) -> None:
    if os.path.exists("/sys/module/apparmor/parameters/enabled"):
        pytest.skip("needs apparmor")
    with pytest.raises(StartError, match="apparmor: config provided but apparmor not supported"):
        lab.run("true", apparmorProfile="docker-default")
    assert lab.run("true", apparmorProfile="unconfined").status == 0


def test_the_init_is_not_dumpable_while_it_waits(lab: Lab) -> None:
    """Nobody with the same user id may look into a process that is still half the host's: its files in /proc belong to root, whoever it is."""
    with lab.start("true", user={"uid": 1000, "gid": 1000}, hold=True) as box:
        assert "Uid:\t1000\t1000" in Path(f"/proc/{box.pid}/status").read_text()
        assert os.stat(f"/proc/{box.pid}/environ").st_uid == 0


def test_the_parent_keeps_its_own_namespaces_directory_and_dumpability(lab: Lab) -> None:
    kinds = os.listdir("/proc/self/ns")
    before = (
        [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds],
        os.getcwd(),
        os.access("/proc/self/mem", os.R_OK),
    )
    lab.run("true")
    with lab.start("sleep", "9") as box:
        box.exec("true")
    after = (
        [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds],
        os.getcwd(),
        os.access("/proc/self/mem", os.R_OK),
    )
    assert before == after
