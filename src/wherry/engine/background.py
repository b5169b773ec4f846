"""Work that outlives the call that began it, kept in one place so that none is forgotten when the engine stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("wherry.engine")


class Background:
    """Owns tasks. A task that fails is logged with its name and does not disturb the others."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def running(self, kind: str) -> set[asyncio.Task[None]]:
        """The tasks whose names begin so."""
        return {task for task in self._tasks if task.get_name().startswith(kind)}

    @staticmethod
    async def _guard(work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s failed", name)

    async def drain(self) -> None:
        """Wait until everything that was begun is done, also what it begins in turn."""
        while self._tasks:
            await asyncio.wait(self._tasks)
