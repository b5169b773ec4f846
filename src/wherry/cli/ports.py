"""`-p` and `--expose`: Docker's ways of writing down ports, as the Engine API wants them. ValueError with Docker's words."""

from __future__ import annotations

from .values import is_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

Bindings = dict[str, list[dict[str, str]]]


def publish(specs: Sequence[str]) -> Bindings:
    """`[[ip:]host:]container[/proto]`, ranges, and `published=…,target=…` → {"80/tcp": [{"HostIp", "HostPort"}]}."""
    found: Bindings = {}
    for spec in specs:
        for port, address, host_port in _mappings(_standard(spec)):
            found.setdefault(port, []).append({"HostIp": address, "HostPort": host_port})
    return found


def expose(specs: Sequence[str]) -> list[str]:
    """`80`, `8000-8010/udp` → ["80/tcp", …]."""
    found: list[str] = []
    for spec in specs:
        port, _, protocol = spec.partition("/")
        try:
            if ":" in spec:
                raise ValueError(f"invalid port format for --expose: {spec}")
            protocol = _protocol(protocol)
            first, last = _range(port)
        except ValueError as error:
            raise ValueError(f"invalid range format for --expose: {error}") from None
        found += [f"{number}/{protocol}" for number in range(first, last + 1)]
    return found


def _standard(spec: str) -> str:
    if "=" not in spec:
        return spec
    parameters = {"protocol": "tcp", "published": "", "target": ""}
    for parameter in spec.split(","):
        key, separator, value = parameter.partition("=")
        if not separator or not key:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{parameter}')")
        parameters[key] = value
    return f"{parameters['published']}:{parameters['target']}/{parameters['protocol']}"


def _mappings(spec: str) -> list[tuple[str, str, str]]:
    """[(container port/proto, host address, host port or range)]."""
    parts = spec.split(":")
    address, host, container = ":".join(parts[:-2]), parts[-2] if len(parts) > 1 else "", parts[-1]
    container, _, protocol = container.partition("/")
    if not container:
        raise ValueError(f"no port specified: {spec}<empty>")
    protocol = _protocol(protocol)
    if address.startswith("["):
        if not address.endswith("]"):
            raise ValueError(f"invalid IP address {address}: missing ']' in address")
        address = address[1:-1]
    if address and not is_ip(address):
        raise ValueError(f"invalid IP address: {address}")
    try:
        first, last = _range(container)
    except ValueError:
        raise ValueError(f"invalid containerPort: {container}") from None
    host_first = host_last = 0
    if host:
        try:
            host_first, host_last = _range(host)
        except ValueError:
            raise ValueError(f"invalid hostPort: {host}") from None
        if last - first != host_last - host_first and last != first:
            raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    found = []
    for offset in range(last - first + 1):
        host_port = str(host_first + offset) if host else ""
        if host and first == last and host_first != host_last:
            host_port = f"{host_first}-{host_last}"
        found.append((f"{first + offset}/{protocol}", address, host_port))
    return found


def _protocol(text: str) -> str:
    protocol = text.lower() or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise ValueError(f"invalid proto: {protocol}")
    return protocol


def _range(text: str) -> tuple[int, int]:
    first_text, separator, last_text = text.partition("-")
    first = _number(first_text)
    last = _number(last_text) if separator else first
    if last < first:
        raise ValueError(f"invalid port range: {text}")
    return first, last


def _number(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or int(text) > 65535:
        raise ValueError(f"invalid port '{text}'")
    return int(text)
