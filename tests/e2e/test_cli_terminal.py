"""`wherry` on a terminal: raw mode and back, window size, detach keys, signals, closing of stdin."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import BUSYBOX, Engine
from tests.e2e.parity import WHERRY, environment

SECONDS = 300.0


class Terminal:
    """A pseudo-terminal with a `wherry` on it, and the person in front of it."""

    def __init__(self, engine: Engine, *words: str, size: tuple[int, int] = (24, 80)) -> None:
        self.master, slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [*WHERRY, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment(engine), "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call, no lock
        )
        self.slave = slave
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read_until(self, mark: str) -> str:
        """What is shown up to and with `mark`; it must come."""
        deadline = time.monotonic() + SECONDS
        while mark.encode() not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                pytest.fail(f"not shown: {mark!r}; shown so far: {self.seen!r}")
            with contextlib.suppress(OSError):
                self.seen += os.read(self.master, 65536)
        shown, _, self.seen = self.seen.partition(mark.encode())
        return (shown + mark.encode()).decode(errors="replace")

    def wait(self) -> int:
        return self.process.wait(SECONDS)

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def screen(engine: Engine) -> Iterator[Any]:
    """Opens terminals on the engine: `screen("run", …)`."""
    with contextlib.ExitStack() as stack:

        def open_terminal(*words: str, size: tuple[int, int] = (24, 80)) -> Terminal:
            terminal = Terminal(engine, *words, size=size)
            stack.callback(terminal.close)
            return terminal

        yield open_terminal


RUN = ("run", "--rm", "--network=none")


def test_a_shell_runs_on_the_terminal_and_leaves_it_as_it_was(screen: Any) -> None:
    terminal = screen(*RUN, "-it", BUSYBOX, "sh")
    terminal.read_until("# ")
    assert not terminal.attributes()[3] & termios.ICANON, "the terminal is raw while the shell runs"
    terminal.type("tty; exit 5\n")
    terminal.read_until("/dev/")
    assert terminal.wait() == 5
    assert terminal.attributes() == terminal.before


def test_the_terminal_inside_has_this_windows_size_and_follows_it(screen: Any) -> None:
    script = "trap 'stty size' WINCH; trap 'exit 0' INT; stty size; while :; do sleep 0.1; done"
    terminal = screen(*RUN, "-it", BUSYBOX, "sh", "-c", script, size=(40, 100))
    terminal.read_until("40 100")
    terminal.resize(30, 90)
    terminal.read_until("30 90")
    terminal.type("\x03")
    assert terminal.wait() == 0


def test_ctrl_c_goes_to_the_process_inside(screen: Any) -> None:
    terminal = screen(
        *RUN, "-it", BUSYBOX, "sh", "-c", "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.1; done"
    )
    terminal.read_until("ready")
    terminal.type("\x03")
    terminal.read_until("caught")
    assert terminal.wait() == 7


@pytest.mark.parametrize(("flags", "keys"), [((), "\x10\x11"), (("--detach-keys", "ctrl-x,y"), "\x18y")])
def test_the_detach_keys_leave_the_container_running(
    flags: tuple[str, ...], keys: str, screen: Any, engine: Engine
) -> None:
    terminal = screen("run", "--network=none", "--name", "left", "-it", *flags, BUSYBOX, "sh")
    terminal.read_until("# ")
    terminal.type(keys)
    assert terminal.wait() == 0
    assert terminal.attributes() == terminal.before
    assert engine.state("left")["Running"]
    again = screen("attach", "left")
    again.type("exit 6\n")
    again.read_until("exit 6")
    assert again.wait() == 6


def test_exec_on_a_terminal(screen: Any, engine: Engine) -> None:
    engine.docker("run", "-d", "--network=none", "--name", "host", BUSYBOX, "sleep", "1000")
    terminal = screen("exec", "-it", "host", "sh", size=(33, 77))
    terminal.read_until("# ")
    terminal.type("stty size; exit 8\n")
    terminal.read_until("33 77")
    assert terminal.wait() == 8
    assert terminal.attributes() == terminal.before


def test_a_start_that_fails_leaves_the_terminal_as_it_was(screen: Any) -> None:
    terminal = screen(*RUN, "-it", BUSYBOX, "/nonsense")
    terminal.read_until("no such file or directory")
    assert terminal.wait() == 127
    assert terminal.attributes() == terminal.before


def test_a_table_fits_the_terminal(screen: Any, engine: Engine) -> None:
    engine.docker("run", "-d", "--network=none", "--name", "a-name-of-some-length", BUSYBOX, "sleep", "1000")
    terminal = screen("ps", size=(24, 95))
    shown = terminal.read_until("a-name-of-some-length")
    assert terminal.wait() == 0
    assert all(len(line) <= 95 for line in shown.splitlines())


def started(engine: Engine, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*WHERRY, *words],
        env=environment(engine),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


TRAP = "trap 'echo got it; exit 9' TERM; trap 'echo usr' USR1; echo ready; while :; do sleep 0.1; done"


def test_signals_are_passed_on_to_the_container(engine: Engine) -> None:
    process = started(engine, *RUN, BUSYBOX, "sh", "-c", TRAP)
    assert read_line(process) == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert read_line(process) == "usr\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (9, "got it\n", "")


def test_a_third_interrupt_ends_the_command(engine: Engine) -> None:
    script = "trap 'echo int' INT; echo ready; while :; do sleep 0.1; done"
    process = started(engine, "run", "--name", "stays", "--network=none", BUSYBOX, "sh", "-c", script)
    assert read_line(process) == "ready\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        assert read_line(process) == "int\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (1, "\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
    assert engine.state("stays")["Running"]


def test_without_sig_proxy_a_signal_ends_the_command_alone(engine: Engine) -> None:
    process = started(
        engine, "run", "--name", "stays", "--network=none", "--sig-proxy=false", BUSYBOX, "sh", "-c", TRAP
    )
    assert read_line(process) == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGTERM
    assert engine.state("stays")["Running"]


def test_stdin_is_pumped_whole_and_its_end_is_seen(engine: Engine) -> None:
    data = "0123456789abcdef" * (1 << 16)
    done = subprocess.run(
        [*WHERRY, *RUN, "-i", BUSYBOX, "cat"],
        env=environment(engine),
        input=data,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout == data, done.stderr) == (0, True, "")


def test_a_process_that_does_not_read_its_stdin_still_ends(engine: Engine) -> None:
    done = subprocess.run(
        [*WHERRY, *RUN, "-i", BUSYBOX, "sh", "-c", "exit 3"],
        env=environment(engine),
        input="x" * (1 << 22),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 3


def test_an_exec_ends_though_stdin_stays_open(engine: Engine) -> None:
    engine.docker("run", "-d", "--network=none", "--name", "host", BUSYBOX, "sleep", "1000")
    process = started(engine, "exec", "-i", "host", "sh", "-c", "exit 4")
    assert process.wait(SECONDS) == 4


def test_logs_follow_until_the_container_ends(engine: Engine) -> None:
    engine.docker(
        "run", "-d", "--network=none", "--name", "talks", BUSYBOX, "sh", "-c", "echo one; sleep 0.5; echo two >&2"
    )
    process = started(engine, "logs", "-f", "talks")
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (0, "one\n", "two\n")


def test_events_are_shown_as_they_happen(engine: Engine) -> None:
    since = str(time.time_ns() / 1e9)
    process = started(engine, "events", "--since", since, "--filter", "container=seen", "--format", "{{.Action}}")
    engine.docker("run", "--rm", "--network=none", "--name", "seen", BUSYBOX, "true")
    seen = []
    while not seen or seen[-1] != "destroy":
        line = read_line(process)
        assert line, seen
        seen.append(line.strip())
    process.terminate()
    process.communicate(timeout=SECONDS)
    known = ["create", "start", "die", "destroy"]
    assert [action for action in seen if action in known] == known
