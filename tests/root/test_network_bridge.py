"""The default bridge on a real kernel: containers reach each other and the world, and nothing is left when the engine has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from tests.root.network_lab import WORLD, Lab, lab, nft, tcp_ask, tcp_server

from wherry.core.db import Database
from wherry.linux.rtnetlink import Interfaces
from wherry.network.model import BridgeConfig, EndpointRequest
from wherry.network.networks import Networks

pytestmark = pytest.mark.requires("nftables")


@pytest.fixture
def machine() -> Iterator[Lab]:
    with lab() as made:
        yield made


@asynccontextmanager
async def networks(path: Path, config: BridgeConfig | None = None) -> AsyncIterator[Networks]:
    db = Database(str(path / "wherry.db"))
    made = Networks(exec_root=str(path), instance="c0ffee", db=db, config=config)
    await made.open()
    await made.settle()
    try:
        yield made
    finally:
        await made.destroy()
        db.close()


def test_two_containers_reach_each_other_and_the_world_through_nat(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect("a" * 64, EndpointRequest("one"))
            two = await made.connect("b" * 64, EndpointRequest("two"))
            with tcp_server(two.netns_fd, ("0.0.0.0", 80)):
                answer = await asyncio.to_thread(tcp_ask, one.netns_fd, str(two.address), 80)
                assert answer == f"{one.address} hello".encode()
            with tcp_server(machine.world, ("0.0.0.0", 7777)):
                assert await asyncio.to_thread(tcp_ask, one.netns_fd, WORLD, 7777) == b"198.51.100.1 hello"
            await made.disconnect("a" * 64)

    uvloop.run(scenario())
    with Interfaces() as left:
        assert {link.name for link in left.links()} == {"lo", "outer", "to-world"}
    assert "wherry" not in nft("list", "ruleset")
