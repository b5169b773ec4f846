"""Networks and volumes as Docker's API shows them: thin, implementing `api.backend.NetworkBackend` and `VolumeBackend`. Runs in wherryd."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wherry.engine import pruning
from wherry.engine.services import Services
from wherry.errors import Conflict, InvalidArgument
from wherry.spec.calls import Json, JsonList, Names
from wherry.wire import expressions
from wherry.wire.engine import VolumeCreate


class NetworkObjects:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def list(self, filters: Mapping[str, Names]) -> JsonList:
        for name in filters:
            if name not in ("driver", "id", "label", "name", "scope", "type", "dangling"):
                raise InvalidArgument(f"invalid filter '{name}'")
        fits = _test(filters)
        return [network for network in self._services.networks.list() if fits(network)]

    async def inspect(self, ref: str) -> Json:
        return self._services.networks.inspect(ref, self._without_endpoints())

    async def prune(self, filters: Mapping[str, Names]) -> Json:
        """The predefined networks are never pruned, and there are no others yet."""
        pruning.check(filters)
        pruning.deadline(filters)
        self._services.events.publish("network", "prune", "", {"reclaimed": "0"})
        return {"NetworksDeleted": None}

    def _without_endpoints(self) -> dict[str, dict[str, Json]]:
        """The running containers of "host" and "none", which the network layer does not know."""
        found: dict[str, dict[str, Json]] = {"host": {}, "none": {}}
        for container in self._services.containers.all():
            mode = container.record.host_config.network_mode
            if mode in found and container.is_running:
                summary = {
                    "Name": container.name,
                    "EndpointID": "",
                    "MacAddress": "",
                    "IPv4Address": "",
                    "IPv6Address": "",
                }
                found[mode][container.id] = summary
        return found


def _test(filters: Mapping[str, Names]) -> Callable[[Json], bool]:
    expected = {name: expressions.any_of(filters[name]) for name in ("id", "name") if name in filters}
    return lambda network: _fits(network, filters, expected)


def _fits(network: Json, filters: Mapping[str, Names], expected: Mapping[str, expressions.Search]) -> bool:
    for name, wanted in filters.items():
        match name:
            case "driver":
                hit = network["Driver"] in wanted
            case "id":
                hit = expected["id"](network["Id"])
            case "name":
                hit = expected["name"](network["Name"])
            case "scope":
                hit = network["Scope"] in wanted
            case "type":
                hit = "builtin" in wanted
            case "dangling":
                hit = "false" in wanted or "0" in wanted
            case _:
                hit = False  # the predefined networks have no labels
        if not hit:
            return False
    return True


class VolumeObjects:
    def __init__(self, services: Services) -> None:
        self._services = services

    def _users(self, name: str) -> Names:
        return [
            container.id
            for container in self._services.containers.all()
            if any(point.type == "volume" and point.name == name for point in container.record.mounts)
        ]

    async def create(self, request: VolumeCreate) -> Json:
        existed = self._services.volumes.exists(request.name)
        volume = await self._services.volumes.create(request)
        if not existed:
            self._services.events.publish("volume", "create", volume["Name"], {"driver": "local"})
        return volume

    async def list(self, filters: Mapping[str, Names]) -> Json:
        in_use = {
            point.name
            for container in self._services.containers.all()
            for point in container.record.mounts
            if point.type == "volume"
        }
        return {"Volumes": self._services.volumes.list(filters, in_use), "Warnings": None}

    async def inspect(self, name: str) -> Json:
        return self._services.volumes.inspect(name)

    async def remove(self, name: str, *, force: bool) -> None:
        users = self._users(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        existed = self._services.volumes.exists(name)
        await self._services.volumes.remove(name, force=force)
        if existed:
            self._services.events.publish("volume", "destroy", name, {"driver": "local"})

    @pruning.one_at_a_time
    async def prune(self, filters: Mapping[str, Names]) -> Json:
        in_use = {
            point.name
            for container in self._services.containers.all()
            for point in container.record.mounts
            if point.type == "volume"
        }
        answer: Json = await self._services.volumes.prune(filters, in_use)
        self._services.events.publish("volume", "prune", "", {"reclaimed": str(answer["SpaceReclaimed"])})
        return answer
