"""The seccomp notify listener, with an agent on the other side that answers."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runtime_lab import Box, Lab, Result

from wherry.errors import StartError
from wherry.linux import seccomp

pytestmark = pytest.mark.requires("root", "busybox", "libseccomp")

_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
_CONTINUE = 1


class Agent(threading.Thread):
    """Takes `count` processes' listeners, and answers each one's first call with `error`, or lets it go on (0)."""

    def __init__(self, path: Path, error: int = 0, count: int = 1) -> None:
        super().__init__(daemon=True)
        self.path, self.error, self.count = path, error, count
        self.states: list[dict[str, Any]] = []
        self.callers: list[int] = []
        self.answered = threading.Semaphore(0)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()

    def run(self) -> None:
        for _ in range(self.count):
            connection, _ = self._server.accept()
            with connection:
                data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
            self.states.append(json.loads(data))
            fd = array.array("i", ancillary[0][2])[0]
            notice = bytearray(80)
            fcntl.ioctl(fd, _RECEIVE, notice)
            identity, pid = struct.unpack_from("QI", notice)
            self.callers.append(pid)
            answer = struct.pack("QqiI", identity, 0, -self.error, 0 if self.error else _CONTINUE)
            fcntl.ioctl(fd, _SEND, bytearray(answer))
            os.close(fd)
            self.answered.release()

    def close(self) -> None:
        self.join(300)
        self._server.close()


def section(path: Path, *names: str) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(path), "listenerMetadata": "for a test",
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
    }  # fmt: skip


@contextlib.contextmanager
def asked(lab: Lab, agent: Agent, script: str, *, hold: bool = False, **changes: Any) -> Iterator[Box]:
    rules: Any = section(agent.path, "mkdir", "mkdirat")
    config = lab.config("sh", "-c", script, linux={"seccomp": rules}, **changes)
    agent.start()
    box = lab.create(
        config,
        hold=hold,
        seccomp_bpf=seccomp.compile(rules),
        seccomp_flags=seccomp.flags_of(rules),
        bundle="/the/bundle",
    )
    try:
        yield box
    finally:
        lab.remove(box)
        agent.close()


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize(("error", "words"), [(0, "made"), (1, "Operation not permitted"), (17, "File exists")])
def test_the_agent_decides(lab: Lab, tmp_path: Path, error: int, words: str, no_new_privileges: bool) -> None:
    agent = Agent(tmp_path / "agent", error)
    with asked(lab, agent, "mkdir /tmp/x && echo made", noNewPrivileges=no_new_privileges) as box:
        pid = box.pid
        result: Result = box.wait()
    assert words in result.out + result.err
    (state,) = agent.states
    assert state == {
        "ociVersion": "1.0.2", "fds": ["seccompFd"], "pid": pid, "metadata": "for a test",
        "state": {"ociVersion": "1.0.2", "id": f"lab{lab.count}", "status": "creating", "bundle": "/the/bundle", "pid": pid},
    }  # fmt: skip
    assert agent.callers[0] > 0


def test_a_created_container_hands_its_listener_over_when_it_is_started(lab: Lab, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent")
    with asked(lab, agent, "mkdir /tmp/x && echo made", hold=True) as box:
        assert not agent.states
        box.start()
        assert box.wait().out == "made\n"
    assert agent.states[0]["state"]["status"] == "created"


def test_an_exec_has_a_listener_of_its_own(lab: Lab, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent", count=2)
    with asked(lab, agent, "mkdir /tmp/x; sleep 100") as box:
        rules = box.config["linux"]["seccomp"]
        assert agent.answered.acquire(timeout=300)  # it sleeps in accept again when the exec forks
        result = box.exec("sh", "-c", "mkdir /tmp/y && echo $$", seccomp=seccomp.compile(rules))
        assert result.lines
        pid = box.pid
    first, second = agent.states
    assert first["pid"] == pid
    assert second["state"]["status"] == "running"
    assert second["state"]["pid"] == pid
    assert second["pid"] not in (pid, int(result.lines[0]))


def test_a_container_whose_agent_is_not_there_is_not_started(lab: Lab, tmp_path: Path) -> None:
    rules: Any = section(tmp_path / "nobody", "mkdir")
    config = lab.config("true", linux={"seccomp": rules})
    with pytest.raises(StartError, match="failed to connect with seccomp agent"):
        lab.run_config(config, seccomp_bpf=seccomp.compile(rules))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"listenerPath": ""}, "listenerPath"), ({"syscalls": [{"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"}]}, "sendmsg")],
)  # fmt: skip
def test_what_could_never_be_answered_is_refused(lab: Lab, change: dict[str, Any], words: str) -> None:
    rules: Any = {**section(Path("/agent"), "mkdir"), **change}
    with pytest.raises(StartError, match=words):
        lab.run_config(lab.config("true", linux={"seccomp": rules}), seccomp_bpf=seccomp.compile(rules))
