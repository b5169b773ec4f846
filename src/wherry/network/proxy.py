"""The userland proxy: serves on a published port's socket what nftables does not translate, which is IPv6 and machines without nftables.

Runs in wherryd, on its event loop. The container sees the bridge's own address as the client, as with Docker's proxy.

**Invariants**: a stream is passed on with its half-closes; a side that does not read stops the other (no unbounded buffer). No more
than `_CONNECTIONS` are open, and UDP clients are remembered for `_UDP_IDLE` seconds and no more than `_UDP_CLIENTS` of a port at
a time. Closing a proxy closes its socket and all it carries.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import OrderedDict
from ipaddress import IPv4Address
from typing import ClassVar

_CHUNK = 1 << 16
_CONNECTIONS = 2048
"""At a time, over all ports of the engine; more are closed at once. Each costs two descriptors of wherryd's."""
_UDP_IDLE = 90.0
_UDP_CLIENTS = 1024
_IN_PKTINFO = struct.Struct("=i4s4s")
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50


class TcpProxy:
    """Accepts on a listening socket, which it owns, and passes each connection on."""

    _connections: ClassVar[int] = 0

    def __init__(self, listening: socket.socket, target: IPv4Address, port: int) -> None:
        self._listening = listening
        self._target = (str(target), port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listening, limit=_CHUNK)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._listening.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if TcpProxy._connections >= _CONNECTIONS:
            writer.transport.abort()
            return
        TcpProxy._connections += 1
        self._open.add(writer)
        inner: asyncio.StreamWriter | None = None
        try:
            inner_reader, inner = await asyncio.open_connection(*self._target, limit=_CHUNK)
            self._open.add(inner)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, inner))
                both.create_task(_pump(inner_reader, writer))
        except* OSError:
            pass  # either side hung up, or nobody listens: the client sees its connection end
        finally:
            TcpProxy._connections -= 1
            for one in (writer, inner):
                if one is not None:
                    self._open.discard(one)
                    one.transport.abort() if one.transport.is_closing() else one.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


class UdpProxy:
    """Receives on a bound socket, which it owns; each client gets a socket of its own towards the container.

    Answers leave from the address that the client had sent to (packet info, ip(7) and ipv6(7)).
    """

    def __init__(self, bound: socket.socket, target: IPv4Address, port: int) -> None:
        self._bound = bound
        self._target = (str(target), port)
        self._clients: OrderedDict[tuple[object, bytes], tuple[socket.socket, float]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        if self._bound.family == socket.AF_INET6:
            self._bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            self._bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        asyncio.get_running_loop().add_reader(self._bound, self._from_client)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._bound)
        self._bound.close()
        if self._timer is not None:
            self._timer.cancel()
        while self._clients:
            self._drop_oldest()

    def _from_client(self) -> None:
        try:
            data, control, _flags, client = self._bound.recvmsg(_CHUNK, 64)
        except OSError:
            return
        info = next((bytes(value) for _level, _kind, value in control), b"")
        known = self._clients.pop((client, info), None)
        try:
            inner = known[0] if known else self._new_client(client, info)
            self._clients[client, info] = (inner, asyncio.get_running_loop().time())
            inner.send(data)
        except OSError:
            pass  # a datagram may be lost

    def _new_client(self, client: object, info: bytes) -> socket.socket:
        while len(self._clients) >= _UDP_CLIENTS:
            self._drop_oldest()
        loop = asyncio.get_running_loop()
        inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            inner.connect(self._target)
            loop.add_reader(inner, self._from_container, inner, client, info)
        except BaseException:
            inner.close()
            raise
        if self._timer is None:
            self._timer = loop.call_later(_UDP_IDLE, self._expire)
        return inner

    def _from_container(self, inner: socket.socket, client: object, info: bytes) -> None:
        try:
            data = inner.recv(_CHUNK)
            self._bound.sendmsg([data], _source(self._bound.family, info), 0, client)  # type: ignore[arg-type]
        except OSError:
            pass  # ECONNREFUSED from inside, or the client is gone

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._clients:
            _inner, last = next(iter(self._clients.values()))
            if loop.time() - last < _UDP_IDLE:
                self._timer = loop.call_later(_UDP_IDLE - (loop.time() - last), self._expire)
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _key, (inner, _last) = self._clients.popitem(last=False)
        asyncio.get_running_loop().remove_reader(inner)
        inner.close()


def _source(family: int, info: bytes) -> list[tuple[int, int, bytes]]:
    """Ancillary data that sends from the address on which `info`'s datagram came in."""
    if family == socket.AF_INET6 and len(info) == 20:
        return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, info)]
    if family == socket.AF_INET and len(info) == _IN_PKTINFO.size:
        _index, local, _destination = _IN_PKTINFO.unpack(info)
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, local, b"\0" * 4))]
    return []


def proxy_for(protocol: str, bound: socket.socket, target: IPv4Address, port: int) -> TcpProxy | UdpProxy:
    return TcpProxy(bound, target, port) if protocol == "tcp" else UdpProxy(bound, target, port)
