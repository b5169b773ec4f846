"""The registry's life as a process: from a configuration to a serving socket, and back to nothing.

    own the root → open the sockets → serve → a signal → finish what is under way, for at most `GRACE_SECONDS` → close

**Invariants**: one process owns a root (a lock says so). The first SIGTERM or SIGINT ends it cleanly, the second at once; neither loses what was
answered with 201.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import uvloop
from aiohttp import web

from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.registry.cache import Cache
from wherry.registry.collector import Collector, Policy
from wherry.registry.gate import Gate, OpenGate
from wherry.registry.issuer import Issuer
from wherry.registry.listener import Listener
from wherry.registry.metrics import Metrics
from wherry.registry.passwords import PasswordGate, Passwords
from wherry.registry.repositories import Repositories
from wherry.registry.server import ROUTES, RegistryServer
from wherry.registry.storage import FileStorage, Storage
from wherry.registry.tokens import TokenGate, TokenSettings, load_keys, own_key
from wherry.registry.upstream import Upstream, check_url

log = logging.getLogger("wherry.registry")

GRACE_SECONDS = 10.0
BACKLOG = 1024
THREADS = 16


@dataclass(frozen=True, slots=True)
class Config:
    """What the command line says. Paths of files are "" where there are none."""

    addr: str
    root: str
    storage: str = ""
    """URL of an object store for the blobs; "" keeps them in the root."""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    read_only: bool = False
    access_log: bool = True
    htpasswd: str = ""
    anonymous_pull: bool = False
    token: bool = False
    """Bearer tokens: of the server at `token_realm`, or of this one, for those in `htpasswd`."""
    token_realm: str = ""
    token_service: str = "wherry-registry"
    token_issuer: str = "wherry-registry"
    token_keys: str = ""
    url: str = ""
    """Where clients find the registry, when that is not where it listens: behind a proxy that ends TLS."""
    proxy: str = ""
    proxy_username: str = ""
    proxy_password: str = ""
    metrics_addr: str = ""
    policy: Policy = field(default_factory=Policy)


def run(config: Config) -> None:
    """Serves until told to stop. The errors that a user can mend: InvalidArgument, FailedPrecondition."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a client takes a descriptor or three
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    with contextlib.ExitStack() as stack:
        tls = make_tls(config)
        if config.proxy:
            check_url(config.proxy)
        own_root(config.root, stack)
        gate, extra = make_gate(config)
        listening = listen("addr", config.addr, stack)
        metrics = listen("metrics-addr", config.metrics_addr, stack) if config.metrics_addr else None
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, Doors(listening, tls, metrics), gate, extra))


Extra = dict[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]]
"""Paths beside the API, and who answers there."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the registry listens."""

    registry: socket.socket
    tls: ssl.SSLContext | None
    metrics: socket.socket | None


async def _serve(config: Config, doors: Doors, gate: Gate, extra: Extra) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="io"))
    stopping = _watch_signals(loop)
    async with contextlib.AsyncExitStack() as stack:
        repositories = stack.enter_context(contextlib.closing(Repositories(config.root, make_storage(config))))
        metrics = Metrics(lambda: len(repositories.uploads))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        routes, source = ROUTES, ""
        if config.proxy:
            upstream = Upstream(config.proxy, config.proxy_username, config.proxy_password)
            stack.push_async_callback(upstream.close)
            cache = Cache(repositories, upstream, tasks, metrics.cached)
            stack.callback(cache.stop)
            routes, source = cache.routes, upstream.host
        if not config.read_only:
            collector = Collector(repositories, config.policy, report=metrics.collected)
            stack.callback(tasks.create_task(collector.run()).cancel)
        server = RegistryServer(
            repositories,
            gate,
            routes=routes,
            read_only=config.read_only,
            source=source,
            extra=extra,
            observe=metrics.observe,
            access_log=sys.stdout if config.access_log else None,
        )
        if doors.metrics is not None:
            await _open(stack, Listener(_only("/metrics", metrics.answer), access_log=None), doors.metrics, None)
            say(f"metrics at {url_of(doors.metrics, None)}/metrics")
        site = await _open(stack, server.http(), doors.registry, doors.tls)
        what = f"caches {config.proxy} in" if config.proxy else "serves"
        say(f"registry {what} {config.root} on {url_of(doors.registry, doors.tls)}")
        await stopping.wait()
        say("registry stops")
        await site.stop()
        await server.drain(GRACE_SECONDS)


async def _open(
    stack: contextlib.AsyncExitStack, server: web.Server, door: socket.socket, tls: ssl.SSLContext | None
) -> web.SockSite:
    """Serves until the end of the stack."""
    runner = web.ServerRunner(server, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.SockSite(runner, door, ssl_context=tls, backlog=BACKLOG)
    await site.start()
    return site


def _only(
    path: str, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    async def handle(http: web.BaseRequest) -> web.StreamResponse:
        return await answer(http) if http.path == path else web.Response(status=404)

    return handle


def make_storage(config: Config) -> Storage:
    if not config.storage:
        return FileStorage(os.path.join(config.root, "blobs"))
    from wherry.registry.object_storage import ObjectStorage

    return ObjectStorage(config.storage)


def make_gate(config: Config) -> tuple[Gate, Extra]:
    """Who decides who is let in, and the token server's path if that is here."""
    passwords = Passwords(config.htpasswd) if config.htpasswd else None
    if config.url and (not config.token or config.token_realm):
        raise InvalidArgument("--url says where this registry's own tokens are had: it needs --token")
    if config.token or config.token_realm:
        settings = TokenSettings(config.token_realm, config.token_service, config.token_issuer)
        if config.token_realm:
            if not config.token_keys or passwords is not None:
                raise InvalidArgument(
                    "--token-realm needs --token-keys, and excludes --htpasswd: the token server knows the users"
                )
            return TokenGate(settings, load_keys(config.token_keys)), {}
        if passwords is None:
            raise InvalidArgument("--token needs --htpasswd, or --token-realm and --token-keys of another token server")
        if config.url:
            settings = replace(settings, realm=f"{check_url(config.url)}/token")
        key = own_key(os.path.join(config.root, "token.key"))
        issuer = Issuer(settings, key, passwords, anonymous_pull=config.anonymous_pull)
        return TokenGate(settings, [key.public_key()]), {"/token": issuer.answer}
    if passwords is not None:
        return PasswordGate(passwords, anonymous_pull=config.anonymous_pull), {}
    if config.anonymous_pull:
        raise InvalidArgument("--anonymous-pull needs --htpasswd: without, everybody may do everything")
    return OpenGate(), {}


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
        raise FailedPrecondition(f"--root {root}: {_reason(error)}") from None
    stack.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FailedPrecondition(f"--root {root}: another registry uses it") from None


def _reason(error: OSError) -> str:
    """In the system's words alone; asyncio and socket add their own."""
    known = error.errno is not None and not isinstance(error, socket.gaierror)
    return (os.strerror(error.errno or 0) if known else error.strerror or str(error)).lower()


def parse_addr(addr: str) -> tuple[str, int]:
    """("127.0.0.1", 5000); "" as the host is all addresses."""
    host, colon, port = addr.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f'"{addr}" is not HOST:PORT')
    return host.removeprefix("[").removesuffix("]"), int(port)


def listen(flag: str, addr: str, stack: contextlib.ExitStack) -> socket.socket:
    host, port = parse_addr(addr)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(
            address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=not host and family == socket.AF_INET6
        )
    except OSError as error:
        raise FailedPrecondition(f"--{flag} {addr}: {_reason(error)}") from None
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
