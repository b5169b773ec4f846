"""The engine may die: the network of a running container goes on, and the next engine takes it over, doubling nothing and losing nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.root.network_lab import (
    INSTANCE,
    OUTSIDE,
    WORLD,
    Lab,
    lab,
    nft,
    tcp_ask,
    tcp_server,
)

from wherry.core.db import Database
from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from wherry.linux import netns
from wherry.linux.rtnetlink import Interfaces
from wherry.network import EndpointRequest, Networks
from wherry.network.host_ports import PortUnavailable
from wherry.network.ports import PortRequest

pytestmark = pytest.mark.requires("nftables")
WEB = PortRequest(80, "tcp", None, range(8080, 8081))
Container = dict[str, Any]


@pytest.fixture
def machine() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture
def orphans(machine: Lab, tmp_path: Path) -> Iterator[list[Container]]:
    """Two running containers, the first with published ports, whose engine was killed with -9."""
    engine = subprocess.Popen(
        [sys.executable, "-m", "tests.root.network_life", str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "src"},
    )
    assert engine.stdout is not None
    containers = json.loads(engine.stdout.readline())
    engine.kill()
    engine.wait()
    engine.stdout.close()
    yield containers
    for container in containers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(container["pid"], signal.SIGKILL)


@contextlib.contextmanager
def namespace_of(container: Container) -> Iterator[int]:
    fd = netns.open_path(f"/proc/{container['pid']}/ns/net")
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def next_engine(root: Path, containers: list[Container]) -> AsyncIterator[Networks]:
    db = Database(str(root / "wherry.db"))
    made = Networks(exec_root=str(root), instance=INSTANCE, db=db)
    await made.open()
    for container in containers:
        await made.restore(container["id"], container["pid"], container["saved"])
    await made.settle()
    try:
        yield made
    finally:
        await made.destroy()
        db.close()


def bridge_ports() -> set[str]:
    with Interfaces() as here:
        bridge = here.link(f"wh{INSTANCE}").index
        return {link.name for link in here.links() if link.master == bridge}


def test_without_the_engine_the_network_and_the_ports_go_on(machine: Lab, orphans: list[Container]) -> None:
    with namespace_of(orphans[0]) as web, namespace_of(orphans[1]) as other:
        with tcp_server(web, ("0.0.0.0", 80)), tcp_server(machine.world, ("0.0.0.0", 7777)):
            assert tcp_ask(machine.world, OUTSIDE, 8080) == b"198.51.100.2 hello"
            assert tcp_ask(machine.machine, "127.0.0.1", 8080) == b"172.17.0.1 hello"
            assert tcp_ask(other, orphans[0]["saved"]["address"], 80) == b"172.17.0.3 hello"
            assert tcp_ask(web, WORLD, 7777) == f"{OUTSIDE} hello".encode()


def test_the_next_engine_takes_over_what_runs_and_removes_what_does_not(
    machine: Lab, orphans: list[Container], tmp_path: Path
) -> None:
    left_behind = bridge_ports() - {container["saved"]["host_link"] for container in orphans}

    async def scenario() -> None:
        async with next_engine(tmp_path, orphans) as made:
            assert made.warnings == []
            first, second = (made.endpoint(container["id"]) for container in orphans)
            assert first is not None and second is not None
            assert first.saved() == orphans[0]["saved"]
            assert not bridge_ports() & left_behind
            with tcp_server(first.netns_fd, ("0.0.0.0", 80)):
                for namespace, host in (
                    (machine.world, OUTSIDE),
                    (machine.machine, "127.0.0.1"),
                    (machine.machine, "::1"),
                ):
                    assert (await asyncio.to_thread(tcp_ask, namespace, host, 8080)).endswith(b" hello")
            taken = {first.address, second.address}
            for number in range(8):
                endpoint = await made.connect(f"{number:064}", EndpointRequest("new"))
                assert endpoint.address not in taken
                taken.add(endpoint.address)
            with pytest.raises(PortUnavailable, match="already allocated"):
                await made.connect("c" * 64, EndpointRequest("new", (WEB,)))
            assert nft("list", "table", "ip", made.table_name).count("8080") == 1
            with pytest.raises(AlreadyExists):
                await made.restore(orphans[0]["id"], orphans[0]["pid"], orphans[0]["saved"])

    uvloop.run(scenario())


def test_the_ports_of_a_container_that_ended_meanwhile_are_free(
    machine: Lab, orphans: list[Container], tmp_path: Path
) -> None:
    os.kill(orphans[0]["pid"], signal.SIGKILL)

    async def scenario() -> None:
        async with next_engine(tmp_path, orphans[1:]) as made:
            assert "8080" not in nft("list", "table", "ip", made.table_name)
            new = await made.connect("c" * 64, EndpointRequest("new", (WEB,)))
            with tcp_server(new.netns_fd, ("0.0.0.0", 80)):
                assert await asyncio.to_thread(tcp_ask, machine.world, OUTSIDE, 8080) == b"198.51.100.2 hello"

    uvloop.run(scenario())


def test_a_host_port_taken_meanwhile_is_a_warning_and_the_container_keeps_it(
    machine: Lab, orphans: list[Container], tmp_path: Path
) -> None:
    async def scenario() -> None:
        with tcp_server(machine.machine, ("127.0.0.1", 8080)):
            async with next_engine(tmp_path, orphans) as made:
                assert any("address already in use" in warning for warning in made.warnings)
                web = made.endpoint(orphans[0]["id"])
                assert web is not None
                with tcp_server(web.netns_fd, ("0.0.0.0", 80)):
                    assert await asyncio.to_thread(tcp_ask, machine.world, OUTSIDE, 8080) == b"198.51.100.2 hello"

    uvloop.run(scenario())


def test_a_clean_stop_leaves_running_containers_their_network(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        db = Database(str(tmp_path / "wherry.db"))
        made = Networks(exec_root=str(tmp_path), instance=INSTANCE, db=db)
        await made.open()
        await made.settle()
        web = await made.connect("a" * 64, EndpointRequest("web", (WEB,)))
        namespace = os.dup(web.netns_fd)
        await made.close()
        try:
            with tcp_server(namespace, ("0.0.0.0", 80)):
                assert await asyncio.to_thread(tcp_ask, machine.world, OUTSIDE, 8080) == b"198.51.100.2 hello"
        finally:
            os.close(namespace)
        db.close()
        async with next_engine(tmp_path, []):
            pass

    uvloop.run(scenario())
    assert nft("list", "ruleset") == ""
    with Interfaces() as here:
        assert {link.name for link in here.links()} == {"lo", "outer", "to-world"}


def test_a_damaged_record_is_refused_and_holds_nothing(machine: Lab, orphans: list[Container], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with next_engine(tmp_path, []) as made:
            for damage in (
                {"address": "nonsense"},
                {"ports": [{"port": 80}]},
                {"address": "10.0.0.1"},
                {"prefix": None},
            ):
                with pytest.raises(InvalidArgument):
                    await made.restore("c" * 64, orphans[0]["pid"], {**orphans[0]["saved"], **damage})
            with pytest.raises(FailedPrecondition, match="is not in the network namespace"):
                await made.restore("c" * 64, os.getpid(), orphans[0]["saved"])
            with namespace_of(orphans[0]) as web:
                held = [fd for fd in os.listdir("/proc/self/fd") if _is_same(int(fd), web)]
                assert held == [str(web)]

    uvloop.run(scenario())


def _is_same(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:  # the descriptor of the listing itself
        return False
