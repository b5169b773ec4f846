from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from wherry.engine.events import QUEUE_BOUND, Events, matches


def collect(events: Events, count: int, **options: Any) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        found = []
        async for event in events.listen(**{"since_ns": None, "until_ns": None, "filters": {}, **options}):
            found.append(event)
            if len(found) == count:
                break
        return found

    return asyncio.run(run())


def test_past_events_come_from_since_on_and_end_at_until() -> None:
    events = Events()
    for second in range(1, 5):
        events.publish("container", f"a{second}", "id", {}, time_ns=second * 10**9)
    found = collect(events, 99, since_ns=2 * 10**9, until_ns=3 * 10**9)
    assert [event["Action"] for event in found] == ["a2", "a3"]


def test_listening_begins_with_the_call() -> None:
    async def run() -> str:
        events = Events()
        stream = events.listen(since_ns=None, until_ns=None, filters={})
        events.publish("container", "start", "id", {})
        event = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        return str(event["Action"])

    assert asyncio.run(run()) == "start"


def test_what_happened_in_time_is_told_to_who_is_late_and_what_happened_later_is_not() -> None:
    async def run() -> list[str]:
        events = Events()
        stream = events.listen(since_ns=None, until_ns=(until := time.time_ns()), filters={})
        events.publish("container", "create", "id", {}, time_ns=until - 1)
        events.publish("container", "start", "id", {}, time_ns=until)
        events.publish("container", "die", "id", {}, time_ns=until + 1)
        return [event["Action"] async for event in stream]

    assert asyncio.run(run()) == ["create", "start"]


def test_a_listener_that_does_not_read_is_dropped_and_nobody_waits() -> None:
    async def run() -> int:
        events = Events()
        stream = events.listen(since_ns=None, until_ns=None, filters={})
        for _ in range(QUEUE_BOUND + 5):
            events.publish("container", "start", "id", {})
        count = 0
        async for _ in stream:
            count += 1
        return count

    assert asyncio.run(run()) <= QUEUE_BOUND


EVENT = {
    "Type": "container",
    "Action": "exec_create: sh",
    "Actor": {"ID": "abcdef", "Attributes": {"name": "web", "image": "busybox:latest", "tier": "front"}},
    "scope": "local",
    "time": 1,
    "timeNano": 1,
}


@pytest.mark.parametrize(
    ("filters", "hit"),
    [
        ({}, True),
        ({"type": ["container"]}, True),
        ({"type": ["image"]}, False),
        ({"event": ["exec_create"]}, True),
        ({"event": ["start", "die"]}, False),
        ({"container": ["web"]}, True),
        ({"container": ["abc"]}, True),
        ({"container": ["other"]}, False),
        ({"image": ["busybox"]}, True),
        ({"image": ["busybox:latest"]}, True),
        ({"label": ["tier=front"]}, True),
        ({"label": ["tier=back"]}, False),
        ({"volume": ["web"]}, False),
    ],
)
def test_filters(filters: dict[str, list[str]], hit: bool) -> None:
    assert matches(EVENT, filters) is hit
