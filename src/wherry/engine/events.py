"""The engine's events: what happened to which object, for `docker events`.

Runs in wherryd. The last 256 are remembered (as dockerd does); each listener has its own bounded queue, so that one who does not read is
dropped and nobody waits for him. Deliberately absent: persistence; events of an engine's earlier life are not repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from wherry.errors import InvalidArgument

Json = dict[str, Any]

REMEMBERED = 256
FILTERS = frozenset(
    (
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    )
)
QUEUE_BOUND = 10_000


class _Listener:
    __slots__ = ("dropped", "queue")

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Json] = asyncio.Queue(QUEUE_BOUND)
        self.dropped = False


class Events:
    def __init__(self) -> None:
        self._recent: deque[Json] = deque(maxlen=REMEMBERED)
        self._listeners: set[_Listener] = set()

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def publish(
        self, type: str, action: str, actor_id: str, attributes: Mapping[str, str], *, time_ns: int | None = None
    ) -> None:
        """`type`: container, image, network, volume, daemon. `action`: Docker's verb, e.g. "start" or "exec_create: sh"."""
        now = time_ns or time.time_ns()
        event: Json = {
            "Type": type,
            "Action": action,
            "Actor": {"ID": actor_id, "Attributes": dict(attributes)},
            "scope": "local",
            "time": now // 1_000_000_000,
            "timeNano": now,
        }
        if type in ("container", "image"):  # the fields of API versions before 1.22, which clients still print
            event["status"] = action
            event["id"] = actor_id
        if type == "container":
            event["from"] = attributes.get("image", "")
        self._recent.append(event)
        for listener in self._listeners:
            try:
                listener.queue.put_nowait(event)
            except asyncio.QueueFull:
                listener.dropped = True

    def listen(
        self, *, since_ns: int | None, until_ns: int | None, filters: Mapping[str, list[str]]
    ) -> AsyncIterator[Json]:
        """Remembered events from `since_ns` on, then live ones until `until_ns`. Listening begins with this call. InvalidArgument for an
        unknown filter."""
        for name in filters:
            if name not in FILTERS:
                raise InvalidArgument(f"invalid filter '{name}'")
        past = [event for event in self._recent if since_ns is not None and event["timeNano"] >= since_ns]
        if since_ns is None and until_ns is not None:
            past = list(self._recent)
        listener = _Listener()
        self._listeners.add(listener)
        return self._stream(listener, past, until_ns, filters)

    async def _stream(
        self, listener: _Listener, past: list[Json], until_ns: int | None, filters: Mapping[str, list[str]]
    ) -> AsyncIterator[Json]:
        try:
            for event in past:
                if (until_ns is None or event["timeNano"] <= until_ns) and matches(event, filters):
                    yield event
            while not listener.dropped and (live := await _next(listener.queue, until_ns)) is not None:
                if until_ns is not None and live["timeNano"] > until_ns:
                    return
                if matches(live, filters):
                    yield live
        finally:
            self._listeners.discard(listener)


async def _next(queue: asyncio.Queue[Json], until_ns: int | None) -> Json | None:
    """What happened before `until_ns` is told, however late it is; then None."""
    while queue.empty():
        remaining = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
        if remaining is not None and remaining <= 0:
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(remaining):
                return await queue.get()
    return queue.get_nowait()


def matches(event: Json, filters: Mapping[str, list[str]]) -> bool:
    """Docker's rule: every filter must hold, by any of its values."""
    actor_id: str = event["Actor"]["ID"]
    attributes: dict[str, str] = event["Actor"]["Attributes"]
    for name, wanted in filters.items():
        if not wanted:
            continue
        match name:
            case "type":
                hit = event["Type"] in wanted
            case "event":
                hit = any(event["Action"] == value or event["Action"].split(":")[0] == value for value in wanted)
            case "container" | "image" | "volume" | "network" | "daemon":
                hit = _is_actor(event, name, wanted)
            case "label":
                hit = all(_has_label(attributes, value) for value in wanted)
            case "scope":
                hit = event["scope"] in wanted
            case _:
                hit = actor_id in wanted
        if not hit:
            return False
    return True


def _is_actor(event: Json, type: str, wanted: list[str]) -> bool:
    attributes: dict[str, str] = event["Actor"]["Attributes"]
    actor_id: str = event["Actor"]["ID"]
    if type == "image" and event["Type"] == "container":
        names = {attributes.get("image", "")}
    elif event["Type"] == type:
        names = {attributes.get("name", ""), actor_id}
    elif type in attributes:
        names = {attributes[type]}
    else:
        return False
    return any(
        value in names or (len(value) >= 2 and actor_id.startswith(value) and event["Type"] == type) for value in wanted
    ) or (type == "image" and any(_without_tag(name) in wanted for name in names))


def _without_tag(name: str) -> str:
    name, _, tag = name.partition("@")[0].rpartition(":")
    return name if name and "/" not in tag else f"{name}:{tag}".removeprefix(":")


def _has_label(attributes: dict[str, str], wanted: str) -> bool:
    key, separator, value = wanted.partition("=")
    return key in attributes and (not separator or attributes[key] == value)
