"""A machine of its own for the network tests: a network namespace that stands in for the host, and one beside it, the world outside.

The test's main thread moves into the machine's namespace for the duration of the test, so bridges, nftables tables and sysctls of the product never
meet those of the real host. Sockets elsewhere are made by a thread that enters the namespace and leaves the socket behind.

    world 198.51.100.2 ──veth── 198.51.100.1 machine ──bridge── containers
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TypeVar

from tests import leaks

from wherry.core.db import Database
from wherry.linux import netns
from wherry.linux.rtnetlink import Interfaces
from wherry.network import BridgeConfig, Networks

T = TypeVar("T")
WORLD, OUTSIDE = "198.51.100.2", "198.51.100.1"
"""The world's address, and the machine's own on that side."""
TIMEOUT = 300
INSTANCE = "c0ffee"


@dataclass(frozen=True)
class Lab:
    machine: int
    world: int


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    leaks.watch_instance(INSTANCE)
    home = netns.current()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, home)
        netns.unshare()
        cleanup.callback(netns.enter, home)
        machine = netns.current()
        cleanup.callback(os.close, machine)
        world = run_in(machine, _new_namespace)
        cleanup.callback(os.close, world)
        with Interfaces() as inside:
            inside.set_link(1, up=True)
            inside.add_bridge(
                "outer", mac="02:00:00:00:00:01", mtu=1500
            )  # the machine's side hangs on it, as on a switch
            outer = inside.link("outer").index
            inside.set_link(outer, up=True)
            inside.add_address(outer, IPv4Interface(f"{OUTSIDE}/24"))
            inside.add_veth(
                "to-world",
                mtu=1500,
                master=outer,
                group=0,
                peer="wire",
                peer_index=2,
                peer_mac="02:00:00:00:00:02",
                netns_fd=world,
            )
        run_in(world, _set_up_world)
        yield Lab(machine, world)


def _new_namespace() -> int:
    netns.unshare()
    return netns.current()


def _set_up_world() -> None:
    with Interfaces() as interfaces:
        interfaces.set_link(1, up=True)
        interfaces.set_link(2, up=True)
        interfaces.add_address(2, IPv4Interface(f"{WORLD}/24"))


def route_world_to(lab: Lab, network: IPv4Network) -> None:
    """A neighbour that sends packets for the containers' network to the machine."""

    def add() -> None:
        with Interfaces() as interfaces:
            interfaces.add_route(2, gateway=IPv4Address(OUTSIDE), destination=network)

    run_in(lab.world, add)


def run_in(namespace: int, function: Callable[[], T]) -> T:
    """The function's answer, from a thread inside the namespace."""

    def inside() -> T:
        netns.enter(namespace)
        return function()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(inside).result()


@contextlib.contextmanager
def tcp_server(namespace: int, address: tuple[str, int], family: int = socket.AF_INET) -> Iterator[None]:
    """Answers each connection with the peer's address as it sees it, a space, and what it was sent until end of file."""

    def listen() -> socket.socket:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
        return listening

    def serve() -> None:
        while True:
            try:
                accepted, peer = listening.accept()
            except OSError:
                return
            with accepted:
                accepted.settimeout(TIMEOUT)
                with contextlib.suppress(OSError):
                    data = _read_all(accepted)
                    accepted.sendall(f"{peer[0]} ".encode() + data)

    listening = run_in(namespace, listen)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        listening.close()


@contextlib.contextmanager
def udp_server(namespace: int, address: tuple[str, int]) -> Iterator[None]:
    """Answers each datagram with the sender's address as it sees it, a space, and the datagram."""

    def bind() -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(address)
        return bound

    def serve() -> None:
        while True:
            data, peer = bound.recvfrom(65536)
            if not data:
                return
            bound.sendto(f"{peer[0]} ".encode() + data, peer)

    bound = run_in(namespace, bind)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        run_in(namespace, lambda: _poke(address))  # wakes the thread
        thread.join()
        bound.close()


def _poke(address: tuple[str, int]) -> None:
    with Interfaces() as interfaces:
        interfaces.set_link(1, up=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", ("127.0.0.1", address[1]))


def tcp_ask(namespace: int, host: str, port: int, data: bytes = b"hello") -> bytes:
    """Connects from inside the namespace, sends, closes its side, reads to the end. OSError when there is no connection."""

    def ask() -> bytes:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as connected:
            connected.settimeout(TIMEOUT)
            connected.connect((host, port))
            connected.sendall(data)
            connected.shutdown(socket.SHUT_WR)
            return _read_all(connected)

    return run_in(namespace, ask)


def udp_ask(namespace: int, host: str, port: int, data: bytes = b"hello") -> bytes:
    """A datagram and the answer to it; a connected socket, so that an answer from another address does not count."""

    def ask() -> bytes:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as connected:
            connected.connect((host, port))
            return udp_exchange(connected, data)

    return run_in(namespace, ask)


def udp_exchange(connected: socket.socket, data: bytes) -> bytes:
    """The answer, which ends with `data`. A datagram can be lost (a bridge forwards once the kernel has looked at the new carrier), so it is
    sent again."""
    connected.settimeout(1)
    for _ in range(TIMEOUT):
        connected.send(data)
        with contextlib.suppress(TimeoutError):
            while not (answer := connected.recv(65536)).endswith(data):
                pass
            return answer
    raise TimeoutError(f"no answer to {data!r}")


def can_connect(namespace: int, host: str, port: int, timeout: float = 0.5) -> bool:
    def attempt() -> bool:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as one:
            one.settimeout(timeout)
            return one.connect_ex((host, port)) == 0

    return run_in(namespace, attempt)


@contextlib.asynccontextmanager
async def networks(root: Path, config: BridgeConfig | None = None) -> AsyncIterator[Networks]:
    """One life of the engine's network layer in the calling thread's namespace; at its end everything of the instance goes."""
    db = Database(str(root / "wherry.db"))
    made = Networks(exec_root=str(root), instance=INSTANCE, db=db, config=config)
    try:
        await made.open()
        await made.settle()
        assert config or made.warnings == []
        yield made
    finally:
        await made.destroy()
        db.close()


def nft(*words: str) -> str:
    """The machine's tables as nft tells them (the calling thread must be in the machine's namespace)."""
    return subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout


def _read_all(connected: socket.socket) -> bytes:
    parts = []
    while part := connected.recv(65536):
        parts.append(part)
    return b"".join(parts)
