"""`docker ps`: which containers, in which order. Pure. Source: the filters of GET /containers/json."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wherry.engine.records import Container, Status
from wherry.engine.services import Services
from wherry.errors import InvalidArgument, NotFound
from wherry.wire import expressions

FILTERS = frozenset(
    (
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    )
)
_CONSTANT = {
    "health": {"starting": False, "healthy": False, "unhealthy": False, "none": True},
    "is-task": {"true": False, "1": False, "false": True, "0": True},
    "isolation": {"": True, "default": True, "process": False, "hyperv": False},
}
"""Whether a value of these filters fits: to every container alike, as none has a health check, is of a service, or of Windows."""
_STATES = {status.value for status in Status}


def select(services: Services, *, all: bool, limit: int | None, filters: Mapping[str, list[str]]) -> list[Container]:
    """Newest first. InvalidArgument for an unknown filter or value, in Docker's words."""
    for name, values in filters.items():
        if name not in FILTERS:
            raise InvalidArgument(f"invalid filter '{name}'")
        if name == "status":
            for value in values:
                if value not in _STATES:
                    raise InvalidArgument(f"invalid filter 'status={value}'")
        for value in values if name in _CONSTANT else ():
            if value not in _CONSTANT[name]:
                raise InvalidArgument(f"invalid filter '{name}={value}'")
        if name == "exited" and not _are_numbers(values):
            raise InvalidArgument(f"invalid filter 'exited={values[0]}'")
    found = sorted(services.containers.all(), key=lambda container: -container.record.created_ns)
    only_running = not all and limit is None and not (filters.get("status") or filters.get("exited"))
    if only_running:
        found = [container for container in found if container.is_running or container.status is Status.RESTARTING]
    for name, values in filters.items():
        if values:
            test = _test(services, name, values)
            found = [container for container in found if test(container)]
    return found[:limit] if limit is not None else found


def _are_numbers(values: list[str]) -> bool:
    return all(value.removeprefix("-").isdecimal() for value in values)


def _test(services: Services, name: str, values: list[str]) -> Callable[[Container], bool]:
    match name:
        case "id":
            has_id = expressions.any_of(values)
            return lambda container: has_id(container.id)
        case "name":
            has_name = expressions.any_of(values)
            return lambda container: has_name(container.name) or has_name(f"/{container.name}")
        case "label":
            return lambda container: all(_has_label(container.record.config.labels or {}, value) for value in values)
        case "status":
            return lambda container: container.status.value in values
        case "exited":
            codes = {int(value) for value in values}
            return lambda container: container.status is Status.EXITED and container.record.state.exit_code in codes
        case "before" | "since":
            pivots = [_created(services, value) for value in values]
            if name == "before":
                return lambda container: all(container.record.created_ns < pivot for pivot in pivots)
            return lambda container: all(container.record.created_ns > pivot for pivot in pivots)
        case "ancestor":
            wanted = {image_id for value in values if (image_id := _image_id(services, value))}
            return lambda container: container.record.image in wanted or container.record.image_ref in values
        case "network":
            return lambda container: any(
                value
                in (
                    container.record.host_config.network_mode,
                    services.networks.network_id(container.record.host_config.network_mode),
                )
                for value in values
            )
        case "volume":
            return lambda container: any(
                value in (point.name, point.destination, point.source)
                for point in container.record.mounts
                for value in values
            )
        case "expose" | "publish":
            return lambda container: _has_port(container, values, published=name == "publish")
        case _:
            fits = any(_CONSTANT[name][value] for value in values)
            return lambda _container: fits


def _has_label(labels: dict[str, str], wanted: str) -> bool:
    key, separator, value = wanted.partition("=")
    return key in labels and (not separator or labels[key] == value)


def _created(services: Services, ref: str) -> int:
    return services.containers.get(ref).record.created_ns


def _image_id(services: Services, ref: str) -> str | None:
    try:
        return services.images.get(ref).id
    except NotFound:
        return None


def _has_port(container: Container, values: list[str], *, published: bool) -> bool:
    if published:
        have = {(port.port, port.protocol) for port in container.endpoint.ports} if container.endpoint else set()
    else:
        have = set()
        for spec in container.record.config.exposed_ports or {}:
            number, _, protocol = spec.partition("/")
            have.add((int(number), protocol or "tcp"))
    for value in values:
        text, _, protocol = value.partition("/")
        low, _, high = text.partition("-")
        if not low.isdecimal() or (high and not high.isdecimal()):
            raise InvalidArgument(f"invalid filter '{value}'")
        if any(int(low) <= port <= int(high or low) and kind == (protocol or "tcp") for port, kind in have):
            return True
    return False
