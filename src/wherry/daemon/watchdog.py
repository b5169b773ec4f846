"""The detector of a blocked event loop, in debug mode: says which line holds wherryd's one loop, while it does.

A thread waits for the loop's heartbeat. If it is late, the stack of the loop's thread is logged, once for each block. Not in production: the
heartbeat wakes an idle engine.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from types import FrameType

log = logging.getLogger("wherry.daemon")

LIMIT_SECONDS = 0.1


class LoopWatchdog:
    """`with LoopWatchdog(loop): …` on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float = LIMIT_SECONDS) -> None:
        self._loop = loop
        self._limit = limit
        self._watched = threading.get_ident()
        self._beat = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)
        self.blocks = 0
        """How often the loop was found blocked."""

    def __enter__(self) -> LoopWatchdog:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._closing.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closing.wait(self._limit):
            self._beat.clear()
            try:
                self._loop.call_soon_threadsafe(self._beat.set)
            except RuntimeError:  # the loop is closed
                return
            if self._beat.wait(self._limit) or self._closing.is_set():
                continue
            self.blocks += 1
            self._report(sys._current_frames().get(self._watched))
            while not self._beat.wait(self._limit) and not self._closing.is_set():
                pass

    def _report(self, frame: FrameType | None) -> None:
        where = "".join(traceback.format_stack(frame, limit=12)) if frame is not None else "(no frame)"
        log.warning("the event loop is blocked for more than %.0f ms at:\n%s", self._limit * 1000, where)
