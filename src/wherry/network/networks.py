"""`Networks`: what the engine asks for a container's network.

Runs in wherryd, on its event loop. Order of calls: `open`, then `restore` for each container that still runs, then `settle`; from then on `connect`,
`isolated`, `disconnect`; at the end `close`. docs/flows/network.md tells it step by step.

**Invariants**: an address belongs to one namespace until the kernel has said that its veth is gone. What `connect` has begun and cannot finish it
undoes. The engine's death takes nothing from a running container; what a dead engine left is taken over or removed by `settle`, never doubled.
Only interfaces, tables and addresses of this instance are touched.

Deliberately absent: user-defined networks, links between containers, IPv6 inside containers.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, TypeVar

from wherry.errors import AlreadyExists, FailedPrecondition, SyscallError, WherryError
from wherry.linux import netns
from wherry.linux.netlink import NetlinkError, NetlinkSocket
from wherry.linux.nftables import NftError
from wherry.linux.rtnetlink import RTM_DELLINK, RTNLGRP_LINK, Interfaces, Link
from wherry.network.bridge import configure_kernel, open_bridge
from wherry.network.catalog import PREDEFINED, BridgeFacts, Catalog, Database
from wherry.network.firewall import Firewall
from wherry.network.forwarding import ForwardingSwitch
from wherry.network.host_ports import BoundPort, HostPorts, PortUnavailable
from wherry.network.ipam import AddressPool, mac_of
from wherry.network.model import BridgeConfig, Endpoint, EndpointRequest, Json
from wherry.network.proxy import TcpProxy, UdpProxy, proxy_for
from wherry.network.sandboxes import Attachment, Pool, Sandbox, SandboxMaker

_LINK_NAME_LENGTH = 15
T = TypeVar("T")


@dataclass(slots=True)
class _Connected:
    endpoint: Endpoint
    proxies: list[TcpProxy | UdpProxy] = field(default_factory=list)


class Networks:
    """The networks of one instance. `instance`: "" or six hex digits, part of the names of the bridge and of the nftables table."""

    def __init__(self, *, exec_root: str, instance: str, db: Database, config: BridgeConfig | None = None) -> None:
        self._config = config or BridgeConfig()
        self._instance = instance
        self.bridge_name = f"wh{instance}" if instance else "wherry0"
        self.table_name = f"wherry_{instance}" if instance else "wherry"
        self._group = int.from_bytes(hashlib.sha256(self.bridge_name.encode()).digest()[:4], "big") | 1
        self._forwarding = ForwardingSwitch(exec_root)
        self._catalog = Catalog(db)
        self._ports = HostPorts(self._config.host_ip)
        self._endpoints: dict[str, _Connected] = {}
        self._leaving: dict[str, IPv4Address] = {}
        """Links that are to vanish, and the addresses that are free when they have."""
        self._settled = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="netns")
        self.warnings: list[str] = []
        """What does not work on this machine, for `info`."""

    # ---- life

    async def open(self) -> None:
        """Makes or takes over the bridge and the table. SyscallError, FailedPrecondition when there can be no bridge."""
        await self._catalog.open()
        self._maker = await self._in_thread(SandboxMaker)
        link, self._bridge = await self._in_thread(
            lambda: open_bridge(self._maker.host, self.bridge_name, self._config.address, self._config.mtu)
        )
        self._bridge_index = link.index
        self._addresses = AddressPool(self._bridge)
        self.warnings += await self._in_thread(lambda: configure_kernel(self.bridge_name))
        guard = await self._in_thread(self._forwarding.switch_on)
        if not self._forwarding.is_on:
            self.warnings.append("IPv4 forwarding is disabled")
        self._firewall = await self._open_firewall(guard_forwarding=guard)
        self._links = NetlinkSocket(groups=[RTNLGRP_LINK])
        asyncio.get_running_loop().add_reader(self._links.fileno(), self._on_link_events)
        make = self._maker.make
        self._bridged = Pool(
            self._config.pool_size, self._executor, make, self._prepare_attachment, self._discard_attachment
        )
        self._isolated = Pool(self._config.pool_size, self._executor, make, lambda: None, lambda _attachment: None)

    async def _open_firewall(self, *, guard_forwarding: bool) -> Firewall | None:
        if not self._config.use_nftables:
            self.warnings.append("nftables is not used: containers reach no other network, IPv4 ports are proxied")
            return None
        firewall = Firewall(self.table_name, self.bridge_name, self._bridge.network, guard_forwarding=guard_forwarding)
        try:
            self.warnings += await firewall.open()
        except (FailedPrecondition, NftError) as error:
            await firewall.close(remove=False)
            self.warnings.append(f"containers reach no other network and published ports are slow: {error}")
            return None
        return firewall

    async def settle(self) -> None:
        """Every running container is restored: what else a dead engine left goes, and the pools are filled."""
        if self._firewall is not None:
            await self._firewall.settle()
        owned = {held.endpoint.host_link for held in self._endpoints.values()}
        await self._in_thread(lambda: self._delete_strays(owned))
        self._bridged.open()
        self._isolated.open()
        self._settled.set()

    async def close(self, *, remove: bool | None = None) -> None:
        """Ends this engine's part. `remove`: bridge, table and forwarding too; None: when no container is connected.

        Otherwise running containers keep their network and their IPv4 ports.
        """
        if remove is None:
            remove = not self._endpoints
        asyncio.get_running_loop().remove_reader(self._links.fileno())
        self._links.close()
        sandboxes = self._bridged.close() + self._isolated.close()
        for held in self._endpoints.values():
            self._close_proxies(held)
            os.close(held.endpoint.netns_fd)
        self._endpoints.clear()
        if self._firewall is not None:
            await self._firewall.close(remove=remove)
        if remove:
            await self._in_thread(self._delete_links)
        for sandbox in sandboxes:
            os.close(sandbox.netns_fd)
        await self._in_thread(self._maker.close)
        self._executor.shutdown(wait=False)

    async def destroy(self) -> None:
        """`close`, and nothing of the instance is left, connected or not."""
        await self.close(remove=True)

    # ---- containers

    async def connect(self, container_id: str, request: EndpointRequest) -> Endpoint:
        """A namespace on the default bridge, its ports published. AlreadyExists, PortUnavailable, FailedPrecondition (no address left).

        Waits for `settle`: until then the address or the port may be a running container's.
        """
        await self._settled.wait()
        if container_id in self._endpoints:
            raise AlreadyExists(f"endpoint with name {request.name} already exists in network bridge")
        sandbox = await (self._make_with_mac(request.mac) if request.mac else self._bridged.take())
        address = sandbox.address
        assert address is not None
        endpoint_id = secrets.token_hex(32)
        try:
            bound = self._ports.reserve(request.ports, address) if request.ports else []
        except BaseException as error:
            self._give_back(sandbox, reusable=not request.mac)
            if isinstance(error, PortUnavailable):
                raise PortUnavailable(
                    f"driver failed programming external connectivity on endpoint {request.name} ({endpoint_id}): {error}"
                ) from None
            raise
        endpoint = Endpoint(
            container_id=container_id,
            name=request.name,
            network_id=self._catalog.id("bridge"),
            endpoint_id=endpoint_id,
            sandbox_id=secrets.token_hex(32),
            netns_fd=sandbox.netns_fd,
            address=address,
            prefix=self._bridge.network.prefixlen,
            gateway=self._bridge.ip,
            mac=sandbox.mac,
            host_link=sandbox.host_link,
            ports=tuple(item.published for item in bound),
        )
        self._endpoints[container_id] = held = _Connected(endpoint)
        if bound:
            try:
                await self._publish(held, bound)
            except BaseException:
                await self.disconnect(container_id)
                raise
        return endpoint

    async def isolated(self) -> int:
        """A descriptor, the caller's own, of a namespace with nothing but loopback."""
        return (await self._isolated.take()).netns_fd

    async def restore(self, container_id: str, pid: int, saved: Mapping[str, Any]) -> Endpoint:
        """Takes over the endpoint of a running container from what `Endpoint.saved` gave a former engine.

        A host port that somebody else has taken meanwhile is left to nftables, with a warning. InvalidArgument, AlreadyExists, SyscallError.
        """
        endpoint = Endpoint.from_saved(saved, -1)
        endpoint = replace(endpoint, netns_fd=netns.open_path(f"/proc/{pid}/ns/net"))
        try:
            if os.path.sameopenfile(endpoint.netns_fd, self._maker.home):
                raise FailedPrecondition(f"process {pid} is not in the network namespace of container {endpoint.name}")
            if container_id in self._endpoints:
                raise AlreadyExists(f"container {container_id} is connected already")
            self._addresses.reserve(endpoint.address)
        except BaseException:
            os.close(endpoint.netns_fd)
            raise
        self._endpoints[container_id] = held = _Connected(endpoint)
        bound = []
        for port in endpoint.ports:
            try:
                bound.append(self._ports.reserve_again(port, endpoint.address))
            except PortUnavailable as error:
                self.warnings.append(f"container {endpoint.name}: {error}")
        await self._publish(held, bound)
        return endpoint

    async def disconnect(self, container_id: str) -> None:
        """Takes the container's ports and namespace away. Its veth goes with the namespace, in the kernel's own time. Unknown: nothing to do."""
        held = self._endpoints.pop(container_id, None)
        if held is None:
            return
        self._close_proxies(held)
        endpoint = held.endpoint
        try:
            if endpoint.ports and self._firewall is not None:
                await self._firewall.withdraw(endpoint.ports, endpoint.address)
        finally:
            self._release(Sandbox(endpoint.netns_fd, endpoint.address, endpoint.mac, endpoint.host_link))

    def endpoint(self, container_id: str) -> Endpoint | None:
        held = self._endpoints.get(container_id)
        return held.endpoint if held else None

    # ---- descriptions

    @property
    def gateway(self) -> IPv4Address:
        """The host's address as containers on the default bridge see it (`host-gateway`)."""
        return self._bridge.ip

    def network_id(self, name: str) -> str:
        """ "" for what is no predefined network ("container:…")."""
        return self._catalog.id(name) if name in PREDEFINED else ""

    def list(self, containers: Mapping[str, Mapping[str, Json]] | None = None) -> list[Json]:
        return [self.inspect(name, containers) for name in PREDEFINED]

    def inspect(self, ref: str, containers: Mapping[str, Mapping[str, Json]] | None = None) -> Json:
        """Docker's description of "bridge", "host" or "none", by name, id or unique beginning of the id. NotFound.

        `containers`: for "host" and "none", which know no endpoints, summaries by container id that the engine has.
        """
        name = self._catalog.resolve(ref)
        attached = dict((containers or {}).get(name, {}))
        facts = None
        if name == "bridge":
            host_ip = str(self._config.host_ip or "0.0.0.0")
            facts = BridgeFacts(self.bridge_name, self._bridge, self._config.mtu, host_ip)
            attached = {held.endpoint.container_id: held.endpoint.summary() for held in self._endpoints.values()}
        return self._catalog.describe(name, facts, attached)

    # ---- parts of the above

    async def _publish(self, held: _Connected, bound: Sequence[BoundPort]) -> None:
        endpoint = held.endpoint
        for item in bound:
            held.proxies.append(proxy_for(item.published.protocol, item.socket, endpoint.address, item.published.port))
        for proxy in held.proxies:
            await proxy.start()
        if self._firewall is not None:
            await self._firewall.publish(endpoint.ports, endpoint.address)

    def _close_proxies(self, held: _Connected) -> None:
        for proxy in held.proxies:
            proxy.close()
        for port in held.endpoint.ports:
            self._ports.forget(port)

    async def _make_with_mac(self, mac: str) -> Sandbox:
        attachment = self._prepare_attachment(mac)
        making = asyncio.ensure_future(self._in_thread(lambda: self._maker.make(attachment)))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._drop_unwanted)
            raise
        except WherryError:
            self._discard_attachment(attachment)
            raise

    def _drop_unwanted(self, made: asyncio.Future[Sandbox]) -> None:
        if not made.cancelled() and made.exception() is None:
            self._release(made.result())

    def _prepare_attachment(self, mac: str = "") -> Attachment:
        address = self._addresses.take()
        prefix = f"wv{self._instance}"
        return Attachment(
            address=IPv4Interface((address, self._bridge.network.prefixlen)),
            mac=mac or mac_of(address),
            gateway=self._bridge.ip,
            host_link=prefix + secrets.token_hex(8)[: _LINK_NAME_LENGTH - len(prefix)],
            bridge_index=self._bridge_index,
            mtu=self._config.mtu,
            group=self._group,
        )

    def _discard_attachment(self, attachment: Attachment | None) -> None:
        if attachment is not None:
            self._addresses.free(attachment.address.ip)

    def _give_back(self, sandbox: Sandbox, *, reusable: bool) -> None:
        if reusable:
            self._bridged.put_back(sandbox)
        else:
            self._release(sandbox)

    def _release(self, sandbox: Sandbox) -> None:
        if sandbox.address is not None:
            self._leaving[sandbox.host_link] = sandbox.address
        os.close(sandbox.netns_fd)

    def _on_link_events(self) -> None:
        try:
            gone = [Link(body).name for kind, body in self._links.receive_events() if kind == RTM_DELLINK]
        except SyscallError as error:
            if error.errno != errno.ENOBUFS:
                raise
            with Interfaces() as host:  # this thread's own socket
                present = {link.name for link in host.links()}
            gone = [name for name in self._leaving if name not in present]
        for name in gone:
            address = self._leaving.pop(name, None)
            if address is not None:
                self._addresses.free(address)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    # ---- in the thread of the sandboxes

    def _delete_strays(self, owned: set[str]) -> None:
        for link in self._maker.host.links():
            if link.master == self._bridge_index and link.group == self._group and link.name not in owned:
                self._unless_gone(self._maker.host.delete_link, link.name)

    def _delete_links(self) -> None:
        self._unless_gone(self._maker.host.delete_group, self._group)
        self._unless_gone(self._maker.host.delete_link, self.bridge_name)
        self._forwarding.switch_back(self._maker.host.links())

    @staticmethod
    def _unless_gone(delete: Callable[[T], None], which: T) -> None:
        try:
            delete(which)
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
