"""Terminals: the CLI runs on a pseudo-terminal, as a person's does."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from types import TracebackType

import pytest

from tests.e2e.harness import BUSYBOX, Engine, wait_until

DETACH = b"\x10\x11"  # Ctrl-P Ctrl-Q
PROMPT = "/ # "
REDRAWN = re.compile(r"[^\n]*\r(?=[^\r\n])|\x1b\[J")
"""A line that is written anew, as a shell's at SIGWINCH."""
CURSOR_QUERY = "\x1b[6n"  # busybox's line editor asks the terminal where the cursor is, and does not wait for an answer


class Terminal:
    """The docker CLI on a pseudo-terminal of its own, with what it has printed so far."""

    def __init__(self, engine: Engine, *words: str, rows: int = 24, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns, tell=False)
        self.process = subprocess.Popen(
            ["docker", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=engine.client_environment,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str | bytes) -> None:
        os.write(self._master, text.encode() if isinstance(text, str) else text)

    def read_until(self, pattern: str, seconds: float = 300.0) -> str:
        """→ everything printed since the last call, once `pattern` is in it."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                pytest.fail(f"{pattern!r} not printed within {seconds} s; printed: {self.seen!r}")
            try:
                self.seen += os.read(self._master, 65536).decode(errors="replace")
                self.seen = REDRAWN.sub("", self.seen.replace(CURSOR_QUERY, ""))
            except OSError:
                pytest.fail(f"ended before {pattern!r}; printed: {self.seen!r}")
        result, self.seen = self.seen, ""
        return result

    def ask(self, command: str) -> str:
        """Type a command at the shell's prompt; → what it printed. (The shell may have shown its prompt more than once before.)"""
        self.type(command + "\r")
        printed = self.read_until(f"{re.escape(command)}\r\n(?s:.*){PROMPT}$")
        return printed.rpartition(f"{command}\r\n")[2].rsplit("\r\n", 1)[0]

    def ends_with(self, seconds: float = 300.0) -> int:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self._master, 65536).decode(errors="replace")
                except OSError:
                    break
        return self.process.wait(timeout=seconds)


def shell(engine: Engine, *flags: str) -> Terminal:
    terminal = Terminal(engine, "run", "-it", "--network=none", *flags, BUSYBOX, "sh")
    terminal.read_until(PROMPT + "$")
    return terminal


def test_a_shell_on_a_terminal(engine: Engine) -> None:
    with shell(engine, "--rm") as terminal:
        assert terminal.ask("tty") == "/dev/pts/0"
        assert terminal.ask("test -t 0 && test -t 1 && test -t 2 && echo all") == "all"
        assert terminal.ask("echo $TERM") == "xterm"
        terminal.type("exit 3\r")
        assert terminal.ends_with() == 3


def test_the_terminal_has_the_client_s_size_and_follows_it(engine: Engine) -> None:
    terminal = Terminal(engine, "run", "-it", "--rm", "--network=none", BUSYBOX, "sh", rows=33, columns=101)
    with terminal:
        terminal.read_until(PROMPT + "$")
        wait_until("the first size arrived", lambda: terminal.ask("stty size") == "33 101")
        terminal.resize(40, 120)
        wait_until("the new size arrived", lambda: terminal.ask("stty size") == "40 120")


def test_control_c_interrupts_the_program_inside(engine: Engine) -> None:
    with shell(engine, "--rm") as terminal:
        terminal.type("echo asleep; sleep 1000\r")
        terminal.read_until("\r\nasleep\r\n")
        terminal.type(b"\x03")
        terminal.read_until(PROMPT + "$")
        assert terminal.ask("echo $?") == "130"


def test_control_d_ends_the_shell(engine: Engine) -> None:
    with shell(engine, "--rm") as terminal:
        terminal.type(b"\x04")
        assert terminal.ends_with() == 0


def test_detach_and_attach_again(engine: Engine) -> None:
    with shell(engine, "--name=left") as terminal:
        assert terminal.ask("MINE=kept; echo set") == "set"
        terminal.type(DETACH)
        assert terminal.ends_with() == 0
    assert engine.state("left")["Running"]
    with Terminal(engine, "attach", "left") as terminal:
        terminal.type("\r")
        terminal.read_until(PROMPT + "$")
        assert terminal.ask("echo $MINE") == "kept"
        terminal.type("exit 5\r")
        assert terminal.ends_with() == 5


def test_the_keys_to_detach_are_a_choice(engine: Engine) -> None:
    with shell(engine, "--name=left", "--detach-keys=ctrl-a,x") as terminal:
        terminal.type(b"\x01x")
        assert terminal.ends_with() == 0
    assert engine.state("left")["Running"]


def test_a_prefix_of_the_detach_keys_goes_through(engine: Engine) -> None:
    script = "stty raw -echo; echo ready; head -c 4 | od -An -tx1"
    with Terminal(engine, "run", "-it", "--rm", "--network=none", BUSYBOX, "sh", "-c", script) as terminal:
        terminal.read_until("ready")
        terminal.type(b"\x10AB\x11")
        terminal.read_until("10 41 42 11")
        assert terminal.ends_with() == 0


def test_exec_on_a_terminal(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=box", "--network=none", BUSYBOX, "sleep", "1000")
    with Terminal(engine, "exec", "-it", "box", "sh", rows=20, columns=70) as terminal:
        terminal.read_until(PROMPT + "$")
        wait_until("the size arrived", lambda: terminal.ask("stty size") == "20 70")
        terminal.resize(21, 71)
        wait_until("the new size arrived", lambda: terminal.ask("stty size") == "21 71")
        terminal.type("exit 9\r")
        assert terminal.ends_with() == 9


def test_exec_detaches(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=box", "--network=none", BUSYBOX, "sleep", "1000")
    with Terminal(engine, "exec", "-it", "box", "sh") as terminal:
        terminal.read_until(PROMPT + "$")
        terminal.type(DETACH)
        terminal.ends_with()
    assert engine.state("box")["Running"]
    assert "sh" in engine.output("top", "box", "-o", "pid,comm")


def test_a_terminal_without_a_client_keeps_its_output_in_the_log(engine: Engine) -> None:
    engine.docker("run", "-dt", "--name=quiet", "--network=none", BUSYBOX, "sh", "-c", "echo one; tty; echo two")
    engine.docker("wait", "quiet")
    assert engine.docker("logs", "quiet").stdout.replace("\r\n", "\n") == "one\n/dev/pts/0\ntwo\n"


def test_run_it_needs_a_terminal(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "-it", BUSYBOX, "true", stdin="", check=False)
    assert done.returncode == 1
    assert "the input device is not a TTY" in done.stderr


def test_a_megabyte_through_the_terminal(engine: Engine) -> None:
    with Terminal(engine, "run", "-it", "--rm", "--network=none", BUSYBOX, "seq", "1", "100000") as terminal:
        printed = ""
        while not printed.endswith("100000\r\n"):
            printed += terminal.read_until("\n$")
        assert printed.split() == [str(n) for n in range(1, 100001)]
        assert terminal.ends_with() == 0
