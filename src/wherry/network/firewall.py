"""The engine's nftables table: address translation for the bridge, published ports as elements of maps, and what may be forwarded.

Runs in wherryd; one thread of its own holds the libnftables context. `docs/decisions/published-ports.md` says why it is made so.

**Invariants**: everything is in one table of the instance's own, so that removing the table undoes it all; every change is one transaction; a port is
one element, however many there are. `accept` here does not overrule a `drop` elsewhere: `foreign` makes the one exception in another's table.
What the table must hold is known here at any time (`_elements`): when it is deleted (somebody ran `nft flush ruleset`), it is written anew.

Deliberately absent: iptables, IPv6 (the proxy serves it).
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network

from wherry.errors import SyscallError
from wherry.linux import conntrack
from wherry.linux.netlink import NETFILTER, NetlinkSocket, attributes, text
from wherry.linux.nftables import Nftables, NftError
from wherry.network.foreign import Listing, allow_commands, dropping_chains, withdraw_commands
from wherry.network.ports import PublishedPort
from wherry.network.rules import delete_commands, element, ruleset

log = logging.getLogger(__name__)
_NFNLGRP_NFTABLES = 7
_NFT_MSG_DELTABLE = 10 << 8 | 2
_NFTA_TABLE_NAME = 1
_NFGEN_LENGTH = 4
_FILTER_TABLE = "list table ip filter"


class Firewall:
    """The table `name` of family ip. `open` first; FailedPrecondition there when libnftables is missing, NftError when the kernel lacks a feature."""

    def __init__(self, name: str, bridge: str, subnet: IPv4Network, *, guard_forwarding: bool) -> None:
        self._name = name
        self._bridge = bridge
        self._rules = ruleset(name, bridge, subnet, guard_forwarding=guard_forwarding)
        self._elements: set[str] = set()
        self._dropping: list[str] = []
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="nft")
        self._nft: Nftables | None = None
        self._watch: NetlinkSocket | None = None

    async def open(self) -> list[str]:
        """Writes the rules; elements that an earlier engine left stay until `settle`. → warnings."""
        await self._call(self._open)
        self._watch = NetlinkSocket(NETFILTER, groups=[_NFNLGRP_NFTABLES])
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._on_events)
        return [f"the nftables chain {chain!r} may drop the containers' packets" for chain in self._dropping]

    async def settle(self) -> None:
        """Elements that nobody has published or restored go."""
        await self._call(self._rewrite)

    async def publish(self, ports: Iterable[PublishedPort], target: IPv4Address) -> None:
        """From its return on, connections to these ports of the host go to the container. IPv6 ports are left to the proxy."""
        elements = _elements(ports, target)
        if elements:
            await self._call(self._add, elements)

    async def withdraw(self, ports: Iterable[PublishedPort], target: IPv4Address) -> None:
        """The opposite; connections through these ports are forgotten by the kernel, a moment later."""
        elements = _elements(ports, target)
        if elements:
            await self._call(self._delete, elements)
            self._executor.submit(self._forget_connections, target)

    async def close(self, *, remove: bool) -> None:
        """`remove`: the table too; otherwise it works on without the engine."""
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None
        await self._call(self._close, remove)
        self._executor.shutdown(wait=False)

    def _on_events(self) -> None:
        """Somebody has deleted the table (`nft flush ruleset`, the restart of a firewall service): it is written anew."""
        assert self._watch is not None
        try:
            events = self._watch.receive_events()
        except SyscallError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return  # more events than the buffer held: what was among them the next change of a port shows
        if any(kind == _NFT_MSG_DELTABLE and self._is_ours(body) for kind, body in events):
            log.warning("the nftables table %s was deleted; it is written anew", self._name)
            self._executor.submit(self._rewrite_quietly)

    def _is_ours(self, body: bytes) -> bool:
        return text(attributes(body[_NFGEN_LENGTH:]).get(_NFTA_TABLE_NAME, b"")) == self._name

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
        self._dropping = dropping_chains(self._list("list chains"))
        self._run(allow_commands(self._list(_FILTER_TABLE), self._bridge))

    def _list(self, command: str) -> Listing:
        """What nft lists, {} when there is no such thing."""
        assert self._nft is not None
        try:
            found = json.loads(self._nft.run(command, json=True) or "{}")
        except NftError:
            return {}
        return found if isinstance(found, dict) else {}

    @staticmethod
    def _forget_connections(target: IPv4Address) -> None:
        try:
            conntrack.forget_replies_from(target)
        except SyscallError as error:  # the flows end by their timeouts then
            log.debug("connections to %s are not forgotten: %s", target, error)

    def _rewrite(self) -> None:
        elements = "".join(f"add element ip {self._name} {item}\n" for item in sorted(self._elements))
        self._run(f"{self._rules}flush map ip {self._name} ports\nflush map ip {self._name} ports_any\n{elements}")

    def _rewrite_quietly(self) -> None:
        try:
            self._rewrite()
        except NftError as error:
            log.error("%s", error)

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
                self._run(withdraw_commands(self._list(_FILTER_TABLE), self._bridge))
        finally:
            if self._nft is not None:
                self._nft.close()
                self._nft = None


def _elements(ports: Iterable[PublishedPort], target: IPv4Address) -> list[str]:
    return [element(port, target) for port in ports if port.host_ip.version == 4]
