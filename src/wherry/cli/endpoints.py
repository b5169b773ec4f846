"""`--network` and the flags about a container's place in a network, as the Engine API's NetworkMode and EndpointsConfig."""

from __future__ import annotations

from . import values
from .mounts import split_csv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .flags import Flags


def attachment(text: str) -> dict[str, Any]:
    """`bridge`, or `name=net,alias=a,ip=10.0.0.5,…`. ValueError with Docker's words."""
    if not _is_long(text):
        return {"name": text}
    found: dict[str, Any] = {"name": ""}
    for field in split_csv(text):
        key, separator, value = (part.strip() for part in field.lower().partition("="))
        if not separator or not key:
            raise ValueError(f"invalid field {field}")
        match key:
            case "name" | "mac-address":
                found[key] = value
            case "alias":
                found.setdefault("alias", []).append(value)
            case "ip" | "ip6":
                found[key] = values.ip_address(value)
            case "link-local-ip":
                found.setdefault(key, []).append(values.ip_address(value))
            case "driver-opt":
                name, equals, content = value.partition("=")
                if not equals or not name:
                    raise ValueError("invalid key value pair format in driver options")
                found.setdefault(key, {})[name.strip()] = content.strip()
            case "gw-priority":
                if not value.removeprefix("-").isdecimal():
                    raise ValueError(f"invalid gw-priority ({value}): invalid syntax")
                found[key] = int(value)
            case _:
                raise ValueError(f"invalid field key {key}")
    if not found["name"]:
        raise ValueError("network name/id is not specified")
    return found


def _is_long(text: str) -> bool:
    """Whether somewhere a word, an equals sign and a word stand together (Docker's own test)."""
    for index, character in enumerate(text):
        if character == "=" and 0 < index < len(text) - 1 and _is_word(text[index - 1]) and _is_word(text[index + 1]):
            return True
    return False


def _is_word(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")


def is_user_defined(name: str) -> bool:
    return name not in ("default", "bridge", "host", "none") and not name.startswith("container:")


def build(flags: Flags) -> tuple[str, dict[str, Any]]:
    """(NetworkMode, EndpointsConfig)."""
    attachments = [dict(item) for item in flags.items("network")]
    mode = attachments[0]["name"] if attachments else "default"
    first = attachments[0] if attachments else {"name": "default"}
    _apply_flags(first, flags)
    endpoints: dict[str, Any] = {}
    if not attachments:
        endpoint = _endpoint(first)
        return mode, {"default": endpoint} if endpoint else {}
    kinds = {is_user_defined(item["name"]) for item in attachments}
    for index, item in enumerate(attachments):
        endpoint = _endpoint(item)
        if item["name"] in endpoints:
            raise ValueError(f'network "{item["name"]}" is specified multiple times')
        if index == 0 and len(attachments) == 1 and not endpoint:
            continue
        endpoints[item["name"]] = endpoint
    if len(kinds) > 1:
        raise ValueError("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    return mode, endpoints


_CONFLICTS = (
    ("network-alias", "alias", "--network-alias and per-network alias"),
    ("ip", "ip", "--ip and per-network IPv4 address"),
    ("ip6", "ip6", "--ip6 and per-network IPv6 address"),
    ("mac-address", "mac-address", "--mac-address and per-network MAC address"),
    ("link-local-ip", "link-local-ip", "--link-local-ip and per-network link-local IP addresses"),
)


def _apply_flags(item: dict[str, Any], flags: Flags) -> None:
    """The older flags about networks speak of the first network."""
    for flag, key, words in _CONFLICTS:
        if not flags.given(flag):
            continue
        if item.get(key):
            raise ValueError(f"conflicting options: cannot specify both {words}")
        item[key] = flags.items(flag) if flag in ("network-alias", "link-local-ip") else flags.text(flag)
    if is_user_defined(item["name"]) and flags.items("link"):
        item["link"] = flags.items("link")


def _endpoint(item: dict[str, Any]) -> dict[str, Any]:
    if not item["name"].strip():
        raise ValueError("no name set for network")
    if not is_user_defined(item["name"]):
        if item.get("alias"):
            raise ValueError("network-scoped aliases are only supported for user-defined networks")
        if item.get("link"):
            raise ValueError("links are only supported for user-defined networks")
    found: dict[str, Any] = {}
    for key, name in (
        ("alias", "Aliases"),
        ("link", "Links"),
        ("driver-opt", "DriverOpts"),
        ("gw-priority", "GwPriority"),
    ):
        if item.get(key):
            found[name] = item[key]
    if item.get("mac-address"):
        found["MacAddress"] = values.mac_address(item["mac-address"])
    pairs = (("ip", "IPv4Address"), ("ip6", "IPv6Address"), ("link-local-ip", "LinkLocalIPs"))
    addresses = {name: item[key] for key, name in pairs if item.get(key)}
    if addresses:
        found["IPAMConfig"] = addresses
    return found
