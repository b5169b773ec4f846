"""The life of wherryd around an engine in memory: sockets, readiness, signals, end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import FrameType

import pytest
import uvloop
from tests.unit.api.fake_backends import Fakes

from wherry.daemon.config import Config
from wherry.daemon.listen import open_sockets
from wherry.daemon.notify import notify
from wherry.daemon.serve import RunningEngine, serve
from wherry.daemon.watchdog import LoopWatchdog


class FakeEngine:
    def __init__(self) -> None:
        self.steps: list[str] = []

    @asynccontextmanager
    async def compose(self, config: Config) -> AsyncIterator[RunningEngine]:
        async def stop() -> None:
            self.steps.append("stop")

        self.steps.append("open")
        try:
            yield RunningEngine(Fakes().backends, stop, lambda config: None)
        finally:
            self.steps.append("close")


def test_an_engine_serves_from_readiness_to_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    path = str(tmp_path / "w.sock")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    async def scenario() -> None:
        with ExitStack() as stack:
            config = Config(hosts=(f"unix://{path}", "tcp://127.0.0.1:0"), debug=True, allow_plain_tcp=True)
            sockets = open_sockets(config, stack)
            port = sockets[1].getsockname()[1]
            async with asyncio.TaskGroup() as group:
                group.create_task(serve(config, sockets, engine.compose, Config))
                assert await asyncio.get_running_loop().sock_recv(manager, 100) == b"READY=1"
                for connect in (asyncio.open_unix_connection(path), asyncio.open_connection("127.0.0.1", port)):
                    reader, writer = await connect
                    writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
                    assert (await reader.read()).endswith(b"OK")
                    writer.close()
                os.kill(os.getpid(), signal.SIGTERM)
                assert await asyncio.get_running_loop().sock_recv(manager, 100) == b"STOPPING=1"
        assert engine.steps == ["open", "stop", "close"]

    with manager:
        uvloop.run(scenario())


def test_without_a_service_manager_nothing_is_notified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonesuch")
    notify("READY=1")


def test_a_blocked_loop_is_reported_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    found = threading.Event()

    class Reporting(LoopWatchdog):
        def _report(self, frame: FrameType | None) -> None:
            super()._report(frame)
            found.set()

    async def what_a_handler_must_never_do() -> None:
        """Block the loop for all of the watchdog's life: whenever it looks, the loop is here."""
        with Reporting(asyncio.get_running_loop(), limit=0.001) as watchdog:
            assert found.wait(60)
        assert watchdog.blocks == 1

    asyncio.run(what_a_handler_must_never_do())
    assert "the event loop is blocked" in caplog.text
    assert "in what_a_handler_must_never_do" in caplog.text


def test_the_watchdog_ends_while_the_loop_is_busy_ending_it() -> None:
    async def scenario() -> None:
        for _ in range(50):
            with LoopWatchdog(asyncio.get_running_loop(), limit=0.0005):
                await asyncio.sleep(0.001)

    asyncio.run(scenario())
