"""wherry-runc as a program, on the real kernel: the whole life of containers from bundles, and what it says to
mistakes.

The same command lines work with runc (but for the wording of errors and what wherry refuses by name).
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.wherry_runc import install

pytestmark = pytest.mark.requires("root", "busybox")

REPOSITORY = Path(__file__).resolve().parents[2]
PARENT = f"/wherry-test-runc-{os.getpid():x}"
APPLETS = (
    "sh",
    "ls",
    "cat",
    "ps",
    "id",
    "true",
    "sleep",
    "echo",
    "mount",
    "hostname",
    "env",
    "pwd",
    "kill",
    "stty",
    "tty",
    "head",
    "dd",
    "touch",
    "nc",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("prefix") / "usr")


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rootfs")
    root.chmod(0o755)
    for name in ("bin", "proc", "dev", "sys", "etc", "tmp", "root"):
        (root / name).mkdir()
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    return root


class Runtime:
    """wherry-runc with a --root and one bundle."""

    def __init__(self, program: Path, place: Path, rootfs: Path) -> None:
        self.program = program
        self.root = place / "state"
        self.bundle = place / "bundle"
        self.bundle.mkdir()
        self("spec", "-b", str(self.bundle))
        config = json.loads((self.bundle / "config.json").read_text())
        config["root"]["path"] = str(rootfs)
        config["process"]["terminal"] = False
        config["linux"]["cgroupsPath"] = f"{PARENT}/{place.name}"
        self.config: dict[str, Any] = config

    def command(self, *words: str) -> list[str]:
        return [str(self.program), "--root", str(self.root), *words]

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", subprocess.DEVNULL) if "input" not in options else None
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=300, **options)

    def write(self, *args: str, **changes: Any) -> None:
        """config.json with the program `args`; `process_…`, `linux_…` and other keys as given."""
        config = json.loads(json.dumps(self.config))
        config["process"]["args"] = list(args)
        for key, value in changes.items():
            section, _, field = key.partition("_")
            if section in ("process", "linux"):
                config[section][field] = value
            else:
                config[key] = value
        (self.bundle / "config.json").write_text(json.dumps(config))

    def run(self, *args: str, words: tuple[str, ...] = (), **changes: Any) -> subprocess.CompletedProcess[str]:
        self.write(*args, **changes)
        return self("run", "-b", str(self.bundle), *words, "box")

    def start(self, *args: str, **changes: Any) -> int:
        """A container "box" in the background; its pid."""
        self.write(*args, **changes)
        pid_file = self.bundle / "pid"
        with open(self.bundle / "output", "wb") as output:
            command = self.command("run", "-d", "-b", str(self.bundle), "--pid-file", str(pid_file), "box")
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True, timeout=300)
        return int(pid_file.read_text())

    def status(self) -> str:
        return str(json.loads(self("state", "box").stdout)["status"])


@pytest.fixture
def runtime(program: Path, rootfs: Path, tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(program, tmp_path, rootfs)
    yield runtime
    for name in runtime("list", "-q").stdout.split():
        runtime("delete", "-f", name)
    reap()
    for directory in Path("/sys/fs/cgroup").glob(f"*{PARENT}"):
        directory.rmdir()
    if Path(f"/sys/fs/cgroup{PARENT}").exists():
        Path(f"/sys/fs/cgroup{PARENT}").rmdir()


def groups() -> list[Path]:
    """The containers' cgroups that there are."""
    return [path for path in Path("/sys/fs/cgroup").glob(f"*{PARENT}/*") if path.is_dir()]


def reap() -> None:
    """The tests' process is a subreaper: detached containers end as its children."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def wait_gone(pid: int) -> None:
    fd = os.pidfd_open(pid)
    assert select.select([fd], [], [], 300)[0], f"process {pid} does not end"
    os.close(fd)
    reap()


# ------------------------------------------------------------------------------------------------------------------ run


def test_run_gives_the_containers_output_and_exit_status(runtime: Runtime) -> None:
    done = runtime.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_a_signal_is_128_and_its_number(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    assert runtime.run("sh", "-c", "kill -9 $$", hostname="x").returncode != 0  # the id is taken
    runtime("delete", "-f", "box")
    assert runtime.run("sh", "-c", "sh -c 'kill -9 $$'; exit $?").returncode == 137


def test_nothing_is_left_after_a_run(runtime: Runtime) -> None:
    runtime.run("true")
    assert runtime("list", "-q").stdout == ""
    assert [path for path in runtime.root.iterdir() if not path.name.startswith(".")] == []
    assert groups() == []


def test_keep_leaves_the_stopped_container(runtime: Runtime) -> None:
    runtime.run("true", words=("--keep",))
    assert runtime.status() == "stopped"
    assert runtime("delete", "box").returncode == 0


def test_stdin_is_the_containers(runtime: Runtime) -> None:
    runtime.write("cat")
    assert runtime("run", "-b", str(runtime.bundle), "box", input="through\n").stdout == "through\n"


def test_pid_1_in_namespaces_of_its_own(runtime: Runtime) -> None:
    done = runtime.run("sh", "-c", "echo $$; hostname; ps; ls /proc/1/fd")
    assert done.stdout.startswith("1\nwherry\n")
    assert "pytest" not in done.stdout


def test_signals_are_passed_on(runtime: Runtime) -> None:
    runtime.write("sh", "-c", "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    process = subprocess.Popen(
        runtime.command("run", "-b", str(runtime.bundle), "box"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == "got it\n"
    assert process.wait(300) == 3
    process.stdout.close()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["nope"], 'exec: "nope": executable file not found in $PATH'),
        (["/nope"], 'exec: "/nope": stat /nope: no such file or directory'),
        (["/etc"], 'exec: "/etc": permission denied'),
    ],
)
def test_a_program_that_cannot_be_executed(runtime: Runtime, args: list[str], text: str) -> None:
    done = runtime.run(*args)
    assert done.returncode == 1
    assert f"unable to start container process: {text}" in done.stderr.replace('\\"', '"')
    assert runtime("list", "-q").stdout == ""


def test_two_containers_of_one_id_are_refused(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    done = runtime("run", "-b", str(runtime.bundle), "box")
    assert (done.returncode, "container with given ID already exists" in done.stderr) == (1, True)
    assert runtime.status() == "running"


def test_additional_descriptors_are_passed(runtime: Runtime) -> None:
    reader, writer = os.pipe()
    runtime.write("sh", "-c", "echo here >&3; ls /proc/self/fd")
    command = shlex.join(runtime.command("run", "-b", str(runtime.bundle), "--preserve-fds", "1", "box"))
    done = subprocess.run(
        ["sh", "-c", f"exec {command} 3>/proc/self/fd/{writer}"], pass_fds=(writer,), capture_output=True, check=True
    )
    assert os.read(reader, 10) == b"here\n"
    os.close(reader)
    os.close(writer)
    assert done.stdout.split() == [b"0", b"1", b"2", b"3", b"4"]  # 4 is that of ls itself


def test_descriptors_that_are_not_preserved_do_not_come_along(runtime: Runtime) -> None:
    reader, writer = os.pipe()
    runtime.write("ls", "/proc/self/fd")
    done = subprocess.run(
        runtime.command("run", "-b", str(runtime.bundle), "box"),
        pass_fds=(reader, writer),
        capture_output=True,
        check=True,
    )
    os.close(reader)
    os.close(writer)
    assert done.stdout.split() == [b"0", b"1", b"2", b"3"]


def test_closed_standard_streams_are_dev_null_inside(runtime: Runtime) -> None:
    runtime.write("sh", "-c", "cat && echo nobody reads this && ls /proc/self/fd >&2")
    command = shlex.join(runtime.command("run", "-b", str(runtime.bundle), "box"))
    done = subprocess.run(["sh", "-c", f"exec {command} <&- >&-"], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"0\n1\n2\n3\n")


# ------------------------------------------------------------------------------------------------ create, start, delete


def test_the_life_of_a_container(runtime: Runtime) -> None:
    runtime.write("sh", "-c", "echo started; sleep 1000")
    with open(runtime.bundle / "output", "wb") as output:
        subprocess.run(
            runtime.command("create", "-b", str(runtime.bundle), "box"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=True,
        )
    state = json.loads(runtime("state", "box").stdout)
    assert (state["status"], state["id"], state["bundle"]) == ("created", "box", str(runtime.bundle))
    assert (runtime.bundle / "output").read_text() == ""
    assert runtime("start", "box").returncode == 0
    assert runtime.status() == "running"
    refused = runtime("start", "box")
    assert (refused.returncode, "already running" in refused.stderr) == (1, True)
    assert "that is not stopped: running" in runtime("delete", "box").stderr
    assert runtime("kill", "box", "KILL").returncode == 0
    wait_gone(state["pid"])
    assert runtime.status() == "stopped"
    assert "container not running" in runtime("kill", "box").stderr
    assert runtime("delete", "box").returncode == 0
    assert "does not exist" in runtime("state", "box").stderr


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM"])
def test_a_created_container_ends_at_the_signals_that_ask_for_it(runtime: Runtime, name: str) -> None:
    make_created(runtime)
    pid = json.loads((runtime.root / "box/state.json").read_text())["pid"]
    pidfd = os.pidfd_open(pid)
    assert runtime("kill", "box", name).returncode == 0
    assert select.select([pidfd], [], [], 300)[0]
    os.close(pidfd)
    assert runtime.status() == "stopped"
    assert runtime("delete", "box").returncode == 0


def make_created(runtime: Runtime) -> None:
    runtime.write("sleep", "1000")
    subprocess.run(
        runtime.command("create", "-b", str(runtime.bundle), "box"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip


def test_a_created_container_is_deleted_without_force(runtime: Runtime) -> None:
    make_created(runtime)
    assert runtime("delete", "box").returncode == 0


def test_delete_force_of_nothing_succeeds(runtime: Runtime) -> None:
    assert runtime("delete", "-f", "nothing").returncode == 0


def test_a_pid_that_was_used_again_is_not_the_container(runtime: Runtime) -> None:
    pid = runtime.start("sleep", "1000")
    path = runtime.root / "box/state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "start": state["start"] + 1}))
    assert runtime.status() == "stopped"
    assert "container not running" in runtime("kill", "box", "KILL").stderr
    os.kill(pid, 0)
    path.write_text(json.dumps(state))


def test_a_damaged_state_is_said_and_can_be_forced_away(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    (runtime.root / "box/state.json").write_text('{"format": 1')
    assert "is damaged" in runtime("state", "box").stderr
    assert "is damaged" in runtime("delete", "box").stderr
    assert runtime("delete", "-f", "box").returncode == 0
    assert groups() == []


def test_list_shows_containers_as_table_and_json(runtime: Runtime) -> None:
    pid = runtime.start("sleep", "1000")
    header, row = runtime("list").stdout.splitlines()
    assert header.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert (*row.split()[:3], row.split()[-1]) == ("box", str(pid), "running", "root")
    (shown,) = json.loads(runtime("list", "-f", "json").stdout)
    assert (shown["pid"], shown["owner"]) == (pid, "root")


def test_hooks_run_at_their_moments_with_the_state(runtime: Runtime) -> None:
    log = runtime.bundle / "hooks"

    def hook(name: str) -> list[dict[str, Any]]:
        script = f"cat > {log}.state; test -e config.json && echo {name} >> {log}"  # in the bundle, as runc's
        return [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]

    names = ("prestart", "createRuntime", "poststart", "poststop")
    assert runtime.run("true", hooks={name: hook(name) for name in names}).returncode == 0
    assert log.read_text().split() == list(names)
    state = json.loads(Path(f"{log}.state").read_text())
    assert (state["id"], state["status"]) == ("box", "stopped")


def test_a_poststop_hook_that_fails_is_only_logged(runtime: Runtime) -> None:
    log = runtime.bundle / "hooks"

    def hook(script: str) -> dict[str, Any]:
        return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}

    done = runtime.run("true", hooks={"poststop": [hook("exit 1"), hook(f"echo poststop >> {log}")]})
    assert done.returncode == 0
    assert done.stderr.count("level=warning") == 1
    assert log.read_text() == "poststop\n"


# ----------------------------------------------------------------------------------------------------------------- exec


def test_exec_runs_inside_and_passes_its_status(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    done = runtime(
        "exec", "-e", "A=b", "--cwd", "/tmp", "-u", "5:6", "box", "sh", "-c", "id; pwd; echo $A; hostname; exit 9"
    )
    assert (done.returncode, done.stdout) == (9, "uid=5 gid=6\n/tmp\nb\nwherry\n")


def test_exec_is_in_the_containers_cgroup_and_its_ps(runtime: Runtime) -> None:
    pid = runtime.start("sleep", "1000")
    command = runtime.command("exec", "box", "sh", "-c", "echo up; exec sleep 999")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"  # what is killed before its program runs has not been started
        pids = json.loads(runtime("ps", "-f", "json", "box").stdout)
        assert pid in pids and len(pids) == 2
        assert "sleep 999" in runtime("ps", "box").stdout
        runtime("kill", "--all", "box", "KILL")
        assert process.wait(300) == 137


def test_exec_with_a_process_file(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    path = runtime.bundle / "process.json"
    path.write_text(json.dumps({"args": ["id", "-u"], "cwd": "/", "user": {"uid": 12, "gid": 0}, "env": ["PATH=/bin"]}))
    assert runtime("exec", "--process", str(path), "box").stdout == "12\n"


def test_exec_detached_leaves_the_process_and_its_pid(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    pid_file = runtime.bundle / "exec.pid"
    command = runtime.command("exec", "-d", "--pid-file", str(pid_file), "box", "sleep", "998")
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=300)
    pid = int(pid_file.read_text())
    while not (words := Path(f"/proc/{pid}/cmdline").read_bytes()):  # in the middle of its execve
        time.sleep(0.01)
    assert b"sleep" in words
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL  # ours since its parent has gone; a pid namespace waits for it


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["box", "nope"], "executable file not found in $PATH"),
        (["-u", "4294967295", "box", "true"], "--user"),
        (["-u", "root", "box", "true"], "--user"),
        (["--cgroup", "/../x", "box", "true"], "bad sub cgroup path"),
        (["none", "true"], "does not exist"),
        (["box"], "args must not be empty"),
        (["-e", "A", "box", "true"], "invalid environment variable: missing '='"),
        (["-e", "=1", "box", "true"], "invalid environment variable: name cannot be empty"),
    ],
)
def test_a_failed_exec_is_255(runtime: Runtime, words: list[str], text: str) -> None:
    runtime.start("sleep", "1000")
    done = runtime("exec", *words)
    assert (done.returncode, text in done.stderr) == (255, True), done.stderr


def test_exec_in_a_paused_container_is_refused(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    runtime("pause", "box")
    assert runtime.status() == "paused"
    assert "cannot exec in a paused container" in runtime("exec", "box", "true").stderr
    assert runtime("resume", "box").returncode == 0
    assert runtime("exec", "box", "true").returncode == 0
    assert "container not paused" in runtime("resume", "box").stderr


def test_a_paused_container_can_be_killed(runtime: Runtime) -> None:
    pid = runtime.start("sleep", "1000")
    runtime("pause", "box")
    assert runtime("kill", "box", "KILL").returncode == 0
    wait_gone(pid)


# ------------------------------------------------------------------------------------------------------------- terminal


def test_a_terminal_in_the_foreground_is_relayed(runtime: Runtime) -> None:
    runtime.write("sh", "-c", "tty; stty size; read line; echo got $line; exit 5", process_terminal=True)
    pid, master = pty.fork()
    if pid == 0:
        os.execv(runtime.program, runtime.command("run", "-b", str(runtime.bundle), "box"))
    os.write(master, b"hello\r")
    output = read_until_closed(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(master)
    assert "/dev/" in output
    assert "got hello" in output


def test_an_exec_with_a_terminal(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    pid, master = pty.fork()
    if pid == 0:
        os.execv(runtime.program, runtime.command("exec", "-t", "box", "sh", "-c", "tty; exit 4"))
    output = read_until_closed(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    os.close(master)
    assert "/dev/" in output


def read_until_closed(fd: int) -> str:
    output = b""
    try:
        while part := os.read(fd, 4096):
            output += part
    except OSError:
        pass
    return output.decode()


def test_the_console_socket_gets_the_terminal(runtime: Runtime) -> None:
    path = runtime.bundle / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    runtime.write("sh", "-c", "read line; echo got $line", process_terminal=True)
    command = runtime.command("create", "-b", str(runtime.bundle), "--console-socket", str(path), "box")
    creating = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    peer, _ = listener.accept()
    _, ancillary, _, _ = peer.recvmsg(4096, socket.CMSG_LEN(4))
    assert creating.wait(300) == 0
    master = array.array("i", ancillary[0][2])[0]
    runtime("start", "box")
    os.write(master, b"over the socket\n")
    assert "got over the socket" in read_until_closed(master)
    os.close(master)
    peer.close()
    listener.close()


def test_a_detached_terminal_needs_a_socket(runtime: Runtime) -> None:
    done = runtime.run("true", words=("-d",), process_terminal=True)
    assert "cannot allocate tty if runc will detach without setting console socket" in done.stderr
    done = runtime.run("true", words=("--console-socket", "/nowhere"))
    assert "cannot use console socket" in done.stderr


# ------------------------------------------------------------------------------------------------ limits, seccomp,
# devices


def test_memory_and_pids_limits_bite(runtime: Runtime) -> None:
    resources = {"memory": {"limit": 16 << 20, "swap": 16 << 20}, "pids": {"limit": 20}}
    done = runtime.run(
        "sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M count=1; echo status $?", linux_resources=resources
    )
    assert "status 137" in done.stdout
    done = runtime.run(
        "sh", "-c", "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; echo all", linux_resources=resources
    )
    assert "all" not in done.stdout


def test_update_changes_limits_of_a_running_container(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    assert runtime("update", "--memory", "64m", "--memory-swap", "128m", "--pids-limit", "33", "box").returncode == 0
    stats = json.loads(runtime("events", "--stats", "box").stdout)["data"]
    assert stats["memory"]["usage"]["limit"] == 64 << 20
    assert stats["pids"]["limit"] == 33
    assert runtime("update", "-r", "-", "box", input='{"pids": {"limit": 34}, "memory": {"limit": 0}}').returncode == 0
    stats = json.loads(runtime("events", "--stats", "box").stdout)["data"]
    assert (stats["memory"]["usage"]["limit"], stats["pids"]["limit"]) == (64 << 20, 34)
    assert "memory.limit" in runtime("update", "-r", "-", "box", input='{"memory": {"limit": "x"}}').stderr


def test_an_impossible_limit_leaves_nothing(runtime: Runtime) -> None:
    done = runtime.run("true", linux_resources={"cpu": {"cpus": "4096"}})
    assert (done.returncode, "cpu.cpus" in done.stderr) == (1, True)
    assert groups() == []
    assert runtime("list", "-q").stdout == ""


@pytest.mark.requires("libseccomp")
def test_the_seccomp_filter_holds_and_is_compiled_once(runtime: Runtime) -> None:
    section = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    done = runtime.run(
        "sh",
        "-c",
        "/bin/busybox mkdir /tmp/x",
        linux_seccomp=section,
        root={**runtime.config["root"], "readonly": False},
    )
    assert "No space left on device" in done.stderr
    [cached] = (runtime.root / ".seccomp").iterdir()
    assert cached.stat().st_mode & 0o077 == 0
    before = cached.stat().st_mtime_ns
    runtime.run("true", linux_seccomp=section)
    assert cached.stat().st_mtime_ns == before
    cached.write_bytes(b"damaged")
    assert (
        "No space"
        in runtime.run(
            "sh",
            "-c",
            "/bin/busybox mkdir /tmp/x",
            linux_seccomp=section,
            root={**runtime.config["root"], "readonly": False},
        ).stderr
    )


def test_events_report_figures_until_the_container_ends(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    process = subprocess.Popen(
        runtime.command("events", "--interval", "10ms", "box"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "stats"
    runtime("kill", "box", "KILL")
    process.stdout.read()
    assert process.wait(300) == 0
    process.stdout.close()


def wait_until_it_listens(pid: int) -> None:
    """Until the process holds what the kernel wakes it with: an eventfd on cgroup v1, memory.events on v2."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if "eventfd" in (target := os.readlink(f"/proc/{pid}/fd/{fd}")) or target.endswith("memory.events"):
                    return
        time.sleep(0.02)
    raise AssertionError("the process does not listen")


def test_events_report_memory_running_out(runtime: Runtime) -> None:
    runtime.start("sleep", "1000", linux_resources={"memory": {"limit": 16 << 20, "swap": 16 << 20}})
    process = subprocess.Popen(runtime.command("events", "--interval", "1h", "box"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    wait_until_it_listens(process.pid)
    for _ in range(10):  # it holds the eventfd a moment before the kernel knows of it
        assert runtime("exec", "box", "dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1").returncode == 137
        if select.select([process.stdout], [], [], 5)[0]:
            break
    assert json.loads(process.stdout.readline()) == {"type": "oom", "id": "box"}
    process.terminate()
    process.wait(300)
    process.stdout.close()


# --------------------------------------------------------------------------------------------------- mistakes and
# refusals


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["checkpoint", "x"], "container does not exist"),
        (["restore", "-b", "/nonexistent", "x"], "JSON specification file /nonexistent/config.json not found"),
        (["restore", "--no-pivot", "x"], "--no-pivot is not supported"),
        (["frobnicate"], "No help topic for 'frobnicate'"),
        (["run"], "exactly 1 argument(s) needed"),
        (["exec"], "at least 1 argument(s) needed"),
        (["exec", "--nope", "x", "true"], "flag provided but not defined: -nope"),
        (["state", "../etc"], "invalid container ID format"),
        (["state", ".."], "invalid container ID format"),
        (["state", ""], "container id cannot be empty"),
        (["kill", "x", "NOSIGNAL"], "unknown signal"),
        (["run", "--preserve-fds", "x", "y"], "not a whole number"),
        (["run", "-b", "/nonexistent", "x"], "JSON specification file /nonexistent/config.json not found"),
        (["--log-format", "xml", "list"], "invalid log-format"),
        (["update", "--kernel-memory", "1", "x"], "--kernel-memory is not supported"),
    ],
)
def test_mistakes_are_named(runtime: Runtime, words: list[str], text: str) -> None:
    done = runtime(*words)
    assert done.returncode == (3 if "No help topic" in text else 1)
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"ociVersion": 3}', '{"ociVersion":"1.0.0","root":{"path":"x"},"linux":{}}', "\xff", "[" * 50000],
)
def test_a_malformed_config_is_refused(runtime: Runtime, text: str) -> None:
    (runtime.bundle / "config.json").write_text(text, encoding="latin-1")
    done = runtime("run", "-b", str(runtime.bundle), "box")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "level=error" in done.stderr


def test_errors_go_to_the_log_in_its_format(runtime: Runtime) -> None:
    log = runtime.bundle / "log"
    done = runtime("--log", str(log), "--log-format", "json", "state", "none")
    entry = json.loads(log.read_text())
    assert (entry["level"], entry["msg"]) == ("error", "container does not exist: none")
    assert done.stderr == "container does not exist: none\n"


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["help", "run"], ["run", "--help"], ["exec", "-h"], ["--version"], ["features"]]
)
def test_help_and_version(runtime: Runtime, words: list[str]) -> None:
    done = runtime(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


# -------------------------------------------------------------------------------------------------- the host's
# interpreter


def entered(runtime: Runtime) -> int:
    """The pid of an init that waits inside its container, still executing the interpreter."""
    runtime.write("true")
    command = runtime.command("create", "-b", str(runtime.bundle), "--pid-file", str(runtime.bundle / "pid"), "box")
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=300)
    return int((runtime.bundle / "pid").read_text())


@contextlib.contextmanager
def open_directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def with_launcher(runtime: Runtime) -> None:
    assert (runtime.program.parent.parent / "libexec/wherry").is_dir()


def without_launcher(runtime: Runtime) -> None:
    """As on a machine for which there is none."""
    runtime.program = install(runtime.bundle / "prefix", launcher=False)


@pytest.mark.parametrize("way", [with_launcher, without_launcher])
def test_a_directory_as_standard_input_is_the_containers(runtime: Runtime, way: Callable[[Runtime], None]) -> None:
    """As with runc; Python itself does not start with one. Also when numbers are taken by descriptors that are to be preserved."""
    way(runtime)
    runtime.write("sh", "-c", "busybox stat -L -c %i /dev/stdin; ls /proc/self/fd; env")
    run = [
        "sh",
        "-c",
        'exec 3</dev/null 9</dev/zero; exec "$@"',
        "sh",
        *runtime.command("run", "-b", str(runtime.bundle)),
    ]
    wanted = [str(runtime.bundle.stat().st_ino), "0", "1", "2", "3"]
    with open_directory(runtime.bundle) as place:
        done = subprocess.run([*run, "box"], stdin=place, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[:5] == wanted and "WHERRY" not in done.stdout, done.stderr
        done = subprocess.run(
            [*run, "--preserve-fds=1", "box"], stdin=place, capture_output=True, text=True, check=False
        )
        assert done.stdout.splitlines()[:6] == [*wanted, "4"], done.stderr
        runtime.start("sleep", "1000")
        done = runtime("exec", "box", "sh", "-c", "busybox stat -L -c %i /dev/stdin; ls /proc/self/fd", stdin=place)
        assert done.stdout.splitlines() == wanted
        for words in (["list", "-q"], ["state", "box"], ["delete", "-f", "box"]):
            assert runtime(*words, stdin=place).returncode == 0


@pytest.mark.parametrize("way", [with_launcher, without_launcher])
def test_the_interpreter_cannot_be_written_through_a_process_in_a_container(
    runtime: Runtime, way: Callable[[Runtime], None], tmp_path: Path
) -> None:
    """CVE-2019-5736: not even the host's root can, with an interpreter that nothing else executes."""
    way(runtime)
    own = tmp_path / "python3"
    shutil.copy(os.path.realpath(sys.executable), own)
    prefix = tmp_path / "own"
    shutil.copytree(runtime.program.parent.parent, prefix, symlinks=True)
    (prefix / "bin/python3").unlink()
    (prefix / "bin/python3").symlink_to(own)
    runtime.program = prefix / "bin/wherry-runc"
    (prefix / "bin/pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
    pid = entered(runtime)
    assert Path(f"/proc/{pid}/exe").stat().st_ino == own.stat().st_ino
    fd = os.open(f"/proc/{pid}/exe", os.O_PATH)
    runtime("delete", "-f", "box")
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    os.close(fd)
    os.close(os.open(own, os.O_WRONLY))  # the file itself is as writable as ever


def test_importing_costs_little() -> None:
    """The slow modules of the standard library are not on the way of a run."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); from wherry.runtime.cli import main, run, exec; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(REPOSITORY / "src")], capture_output=True, text=True, check=True
    )
    slow = {
        "json",
        "re",
        "enum",
        "typing",
        "argparse",
        "signal",
        "socket",
        "subprocess",
        "dataclasses",
        "ctypes",
        "collections",
        "functools",
        "logging",
    }
    assert set(re.split(r"\s+", done.stdout)).isdisjoint(slow)
