"""The engine's nftables table: address translation for the bridge, published ports as elements of maps, and what may be forwarded.

Runs in wherryd; one thread of its own holds the libnftables context. `docs/decisions/published-ports.md` says why it is made so.

**Invariants**: everything is in one table of the instance's own, so that removing the table undoes it all; every change is one transaction; a port is
one element, however many there are. Nothing of another table is changed or overruled: `accept` here does not overrule a `drop` elsewhere.
What the table must hold is known here at any time (`_elements`): when the kernel's differs (somebody ran `nft flush ruleset`), it is written anew.

Deliberately absent: iptables, IPv6 (the proxy serves it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network

from wherry.linux.nftables import Nftables, NftError
from wherry.network.ports import PublishedPort
from wherry.network.rules import delete_commands, element, ruleset


class Firewall:
    """The table `name` of family ip. `open` first; FailedPrecondition there when libnftables is missing, NftError when the kernel lacks a feature."""

    def __init__(self, name: str, bridge: str, subnet: IPv4Network, *, guard_forwarding: bool) -> None:
        self._name = name
        self._rules = ruleset(name, bridge, subnet, guard_forwarding=guard_forwarding)
        self._elements: set[str] = set()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="nft")
        self._nft: Nftables | None = None

    async def open(self) -> None:
        """Writes the rules; elements that an earlier engine left stay until `settle`."""
        await self._call(self._open)

    async def settle(self) -> None:
        """Elements that nobody has published or restored go."""
        await self._call(self._rewrite)

    async def publish(self, ports: Iterable[PublishedPort], target: IPv4Address) -> None:
        """From its return on, connections to these ports of the host go to the container. IPv6 ports are left to the proxy."""
        elements = _elements(ports, target)
        if elements:
            await self._call(self._add, elements)

    async def withdraw(self, ports: Iterable[PublishedPort], target: IPv4Address) -> None:
        elements = _elements(ports, target)
        if elements:
            await self._call(self._delete, elements)

    async def close(self, *, remove: bool) -> None:
        """`remove`: the table too; otherwise it works on without the engine."""
        await self._call(self._close, remove)
        self._executor.shutdown(wait=False)

    async def _call(self, function: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    # ---- below: in the executor's thread

    def _run(self, commands: str) -> None:
        if self._nft is None:
            self._nft = Nftables()
        self._nft.run(commands)

    def _open(self) -> None:
        try:
            self._run(self._rules)
        except NftError:  # a table of an older layout
            self._run(delete_commands(self._name) + self._rules)

    def _rewrite(self) -> None:
        elements = "".join(f"add element ip {self._name} {item}\n" for item in sorted(self._elements))
        self._run(f"{self._rules}flush map ip {self._name} ports\nflush map ip {self._name} ports_any\n{elements}")

    def _add(self, elements: list[str]) -> None:
        try:
            self._run("".join(f"add element ip {self._name} {item}\n" for item in elements))
        except NftError:  # the table is gone, or an element of a dead engine is in the way
            self._elements.update(elements)
            try:
                self._rewrite()
            except NftError:
                self._elements.difference_update(elements)
                raise
        self._elements.update(elements)

    def _delete(self, elements: list[str]) -> None:
        self._elements.difference_update(elements)
        try:
            self._run("".join(f"delete element ip {self._name} {item}\n" for item in elements))
        except NftError:
            self._rewrite()

    def _close(self, remove: bool) -> None:
        try:
            if remove:
                self._run(delete_commands(self._name))
        finally:
            if self._nft is not None:
                self._nft.close()
                self._nft = None


def _elements(ports: Iterable[PublishedPort], target: IPv4Address) -> list[str]:
    return [element(port, target) for port in ports if port.host_ip.version == 4]
