"""The registry's life as a process: from a configuration to a serving socket, and back to nothing.

    own the root → open the sockets → serve → a signal → finish what is under way, for at most `GRACE_SECONDS` → close

**Invariants**: one process owns a root (a lock says so). The first SIGTERM or SIGINT ends it cleanly, the second at once; neither loses what was
answered with 201.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import uvloop
from aiohttp import web

from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.registry.gate import OpenGate
from wherry.registry.repositories import Repositories
from wherry.registry.server import RegistryServer
from wherry.registry.storage import FileStorage

log = logging.getLogger("wherry.registry")

GRACE_SECONDS = 10.0
BACKLOG = 1024
THREADS = 16


@dataclass(frozen=True, slots=True)
class Config:
    """What the command line says. Paths of files are "" where there are none."""

    addr: str
    root: str
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    read_only: bool = False
    access_log: bool = True


def run(config: Config) -> None:
    """Serves until told to stop. The errors that a user can mend: InvalidArgument, FailedPrecondition."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    with contextlib.ExitStack() as stack:
        tls = make_tls(config)
        own_root(config.root, stack)
        listening = listen(config.addr, stack)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, listening, tls))


async def _serve(config: Config, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="io"))
    stopping = _watch_signals(loop)
    repositories = Repositories(config.root, FileStorage(os.path.join(config.root, "blobs")))
    with contextlib.closing(repositories):
        server = RegistryServer(
            repositories,
            OpenGate(),
            read_only=config.read_only,
            access_log=sys.stdout if config.access_log else None,
        )
        runner = web.ServerRunner(server.http(), shutdown_timeout=GRACE_SECONDS)
        await runner.setup()
        try:
            await web.SockSite(runner, listening, ssl_context=tls, backlog=BACKLOG).start()
            say(f"registry serves {config.root} on {url_of(listening, tls)}")
            await stopping.wait()
            say("registry stops")
        finally:
            await runner.cleanup()


def say(line: str) -> None:
    """To whoever started the process: on stderr, beside the log."""
    print(f"wherry: {line}", file=sys.stderr, flush=True)


def url_of(listening: socket.socket, tls: ssl.SSLContext | None) -> str:
    host, port = listening.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def own_root(root: str, stack: contextlib.ExitStack) -> None:
    """Makes the directory, and locks it until the end of the stack."""
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FailedPrecondition(f"--root {root}: {(error.strerror or str(error)).lower()}") from None
    stack.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FailedPrecondition(f"--root {root}: another registry uses it") from None


def parse_addr(addr: str) -> tuple[str, int]:
    """("127.0.0.1", 5000); "" as the host is all addresses."""
    host, colon, port = addr.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f'"{addr}" is not HOST:PORT')
    return host.removeprefix("[").removesuffix("]"), int(port)


def listen(addr: str, stack: contextlib.ExitStack) -> socket.socket:
    host, port = parse_addr(addr)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(
            address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=not host and family == socket.AF_INET6
        )
    except OSError as error:
        raise FailedPrecondition(f"--addr {addr}: {(error.strerror or str(error)).lower()}") from None
    stack.callback(listening.close)
    listening.setblocking(False)
    return listening


def make_tls(config: Config) -> ssl.SSLContext | None:
    """None without a certificate."""
    if not config.tls_cert and not config.tls_key:
        if config.tls_client_ca:
            raise InvalidArgument("--tls-client-ca needs --tls-cert and --tls-key")
        return None
    if not (config.tls_cert and config.tls_key):
        raise InvalidArgument("--tls-cert and --tls-key are needed together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (config.tls_cert, config.tls_key, config.tls_client_ca):
        if path and not os.access(path, os.R_OK):
            raise FailedPrecondition(f"{path}: cannot be read")
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or "no certificate and key in PEM"
        raise FailedPrecondition(f"--tls-cert {config.tls_cert}: {str(reason).replace('_', ' ').lower()}") from None
    if config.tls_client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(config.tls_client_ca)
        except (ssl.SSLError, OSError):
            raise FailedPrecondition(f"--tls-client-ca {config.tls_client_ca}: no certificate in PEM") from None
    return context


def _watch_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """The event is set by the first SIGTERM or SIGINT; the second ends the process."""
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping
