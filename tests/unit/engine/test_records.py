from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.engine.test_oci_config import record

from wherry.core.db import Database
from wherry.engine.records import Container
from wherry.engine.store import ContainerStore
from wherry.errors import Conflict, InvalidArgument, NotFound
from wherry.spec.ids import ContainerId


def container(id: str, name: str) -> Container:
    made = record()
    made.id, made.name = ContainerId(id.ljust(64, "0")), name
    return Container(made)


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    async def write() -> None:
        database = Database(str(tmp_path / "wherry.db"))
        store = ContainerStore(database)
        store.load()
        one = container("abc", "one")
        store.reserve("one", one.id)
        await store.add(one)
        one.record.state.exit_code = 7
        await store.save(one)
        database.close()

    asyncio.run(write())
    database = Database(str(tmp_path / "wherry.db"))
    store = ContainerStore(database)
    (found,) = store.load()
    assert found.record.state.exit_code == 7 and store.get("one") is found
    database.close()


def test_names_ids_and_prefixes() -> None:
    async def run() -> None:
        database = Database(":memory:")
        store = ContainerStore(database)
        store.load()
        for made in (container("abc", "one"), container("abd", "two"), container("one", "three")):
            store.reserve(made.name, made.id)
            await store.add(made)
        assert store.get("abc").name == "one"
        assert store.get("/two").name == "two"
        assert store.get("one").name == "one", "a name goes before a prefix"
        with pytest.raises(InvalidArgument, match="multiple IDs found with provided prefix: ab"):
            store.get("ab")
        for ref in ("zz", ""):
            with pytest.raises(NotFound, match="No such container"):
                store.get(ref)
        with pytest.raises(Conflict, match='The container name "/one" is already in use'):
            store.reserve("one", ContainerId("f" * 64))
        await store.rename(store.get("one"), "uno")
        assert store.get("uno").id.startswith("abc") and not store.is_taken("one")
        await store.delete(store.get("uno"))
        assert not store.is_taken("uno")
        database.close()

    asyncio.run(run())


def test_waiters_are_answered_by_condition() -> None:
    async def run() -> None:
        from wherry.engine.records import Waiter

        made = container("abc", "one")
        loop = asyncio.get_running_loop()
        first, second = Waiter("next-exit", loop.create_future()), Waiter("removed", loop.create_future())
        made.waiters = [first, second]
        made.wake(("next-exit", "not-running"), 3)
        assert first.future.result() == 3 and not second.future.done() and made.waiters == [second]

    asyncio.run(run())
