"""wherryd's life: from a configuration to a serving engine, and back to nothing.

    own the roots → open the sockets → compose the engine → serve → a signal → stop in order

**Invariants**: what is acquired is released in reverse order, also when a later step fails. No client is answered before the engine knows every
container. The first SIGTERM or SIGINT ends the engine cleanly: no new requests, containers stopped (or left, with live-restore), state closed. The
second one ends the process at once; the next engine mends what that leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import uvloop

from wherry.api.backend import Backends
from wherry.api.routes import build_api
from wherry.api.server import HttpServer
from wherry.daemon import listen, logs, roots
from wherry.daemon.config import Config
from wherry.daemon.notify import notify
from wherry.daemon.watchdog import LoopWatchdog
from wherry.errors import WherryError

log = logging.getLogger("wherry.daemon")

HTTP_GRACE_SECONDS = 2.0
"""How long requests may still run once containers have been stopped."""


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """An open engine: what the API is served from, and its orderly end."""

    backends: Backends
    stop: Callable[[], Awaitable[None]]
    """Stop the containers, or with live-restore leave them."""
    reload: Callable[[Config], None]
    """Take over what of a new configuration can change while the engine runs. WherryError, and nothing was taken over, when it cannot be."""


Compose = Callable[[Config], AbstractAsyncContextManager[RunningEngine]]


def run(config: Config, engine: Compose, read: Callable[[], Config]) -> int:
    """Serve until told to stop. `read`: the configuration anew, at SIGHUP."""
    logs.configure(config.log_level, config.log_format)
    if os.geteuid() != 0:
        log.critical("wherryd needs to be started with root privileges")
        return 1
    os.umask(0o022)
    os.environ.update(config.proxies)
    faulthandler.register(signal.SIGUSR1)
    try:
        with contextlib.ExitStack() as stack:
            for root in (config.data_root, config.exec_root):
                roots.make_root(root)
                roots.lock_root(root, stack)
            roots.write_pidfile(config.pidfile, stack)
            sockets = listen.open_sockets(config, stack)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(config, sockets, engine, read))
    except WherryError as error:
        log.critical("failed to start: %s", error)
        return 1
    except Exception:
        log.critical("failed", exc_info=True)
        return 1
    return 0


async def serve(config: Config, sockets: Sequence[socket.socket], engine: Compose, read: Callable[[], Config]) -> None:
    """Compose the engine, answer requests on the sockets until a signal, stop."""
    loop = asyncio.get_running_loop()
    stopping = _watch_signals(loop)
    async with contextlib.AsyncExitStack() as stack:
        if config.debug:
            stack.enter_context(LoopWatchdog(loop))
        running = await stack.enter_async_context(engine(config))
        loop.add_signal_handler(signal.SIGHUP, _reload, running, read)
        http = build_api(running.backends).server()
        servers = [await _serve_on(sock, http) for sock in sockets]
        log.info("API listening on %s", ", ".join(config.hosts))
        notify("READY=1")
        await stopping.wait()  # set already if the signal came while the engine was composed
        notify("STOPPING=1")
        for server in servers:
            server.close()
        await running.stop()
        await http.shutdown(HTTP_GRACE_SECONDS)
    log.info("wherryd has stopped")


async def _serve_on(sock: socket.socket, http: HttpServer) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return await loop.create_unix_server(http, sock=sock, backlog=listen.BACKLOG)
    return await loop.create_server(http, sock=sock, backlog=listen.BACKLOG)


def _watch_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """The event is set by the first SIGTERM or SIGINT; the second ends the process."""
    stopping = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        if stopping.is_set():
            log.warning("%s again: leaving now", number.name)
            os._exit(128 + number)
        log.info("%s: stopping", number.name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, log.warning, "SIGHUP: the engine has not come up yet; send it again")
    return stopping


def _reload(running: RunningEngine, read: Callable[[], Config]) -> None:
    """At SIGHUP: what can change while the engine runs; a configuration with a mistake in it changes nothing."""
    try:
        running.reload(read())
    except WherryError as error:
        log.error("SIGHUP: the configuration stays as it was: %s", error)
    else:
        log.info("SIGHUP: configuration reloaded")
