"""The shim's event loop: epoll, one handler per descriptor, and deadlines. A hundred lines in place of asyncio's megabytes.

Runs in the shim. **Invariants**: one thread; a handler may be called once without cause (its descriptor's number was used again within one
round), so every descriptor watched is non-blocking and every handler takes "not ready" for an answer; when nothing happens, nothing runs; who
has done something before a deadline is heard before it passes, however late the machine lets us look.
"""

from __future__ import annotations

from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, epoll
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int], None]

READ = EPOLLIN
WRITE = EPOLLOUT
GONE = EPOLLHUP | EPOLLERR
"""Reported whether asked for or not."""


class Timer:
    """A pending call; `cancel` it or let it happen."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    def __init__(self) -> None:
        self._epoll = epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[Timer] = []
        self._running = False

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Calls `handler(events)` whenever `fd` (non-blocking) is ready for READ or WRITE as asked, or GONE."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Before `fd` is closed. Nothing happens when it is not watched."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(monotonic() + seconds, call)
        self._timers.append(timer)
        return timer

    def run(self, on_fault: Callable[[Exception], None]) -> None:
        """Until `stop`. A handler that raises is a defect: it is told, and loses its descriptor; everything else goes on."""
        self._running = True
        handlers = self._handlers
        while self._running:
            for fd, events in self._epoll.poll(self._until_next()):
                handler = handlers.get(fd)
                if handler is not None:
                    try:
                        handler(events)
                    except Exception as fault:
                        self.forget(fd)
                        on_fault(fault)
            if self._running and self._timers:
                self._run_timers(on_fault)

    def stop(self) -> None:
        self._running = False

    def _until_next(self) -> float:
        """Seconds to the next deadline, -1 for ever."""
        if self._timers:
            self._timers = [timer for timer in self._timers if timer.call is not None]
        return max(min(timer.at for timer in self._timers) - monotonic(), 0) if self._timers else -1

    def _run_timers(self, on_fault: Callable[[Exception], None]) -> None:
        """Makes the calls that are due, in the order of their times."""
        now = monotonic()
        for timer in sorted((timer for timer in self._timers if timer.at <= now), key=lambda timer: timer.at):
            call, timer.call = timer.call, None
            try:
                if call is not None:
                    call()
            except Exception as fault:
                on_fault(fault)
