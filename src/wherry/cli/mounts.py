"""`-v`, `--mount` and `--tmpfs`: Docker's ways of writing down a mount, as the Engine API wants them. ValueError with Docker's words."""

from __future__ import annotations

import os

from .flags import go_quote
from .units import parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_BARE = frozenset(("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"))


def volumes(specs: Sequence[str]) -> tuple[list[str], list[str]]:
    """`-v` values → (binds, paths of anonymous volumes). Relative sources ("./x") are made absolute."""
    binds: list[str] = []
    anonymous: list[str] = []
    for spec in dict.fromkeys(specs):
        source = _source(spec)
        if not source:
            anonymous.append(spec)
        elif source.startswith("."):
            binds.append(f"{os.path.abspath(source)}:{spec.partition(':')[2]}")
        else:
            binds.append(spec)
    return binds, anonymous


def _source(spec: str) -> str:
    """The source of a `-v` value, "" of an anonymous volume."""
    if not spec:
        raise ValueError("invalid empty volume spec")
    if len(spec) <= 2:
        return ""
    parts = spec.split(":")
    if not all(parts):
        raise ValueError(f"invalid spec: {spec}: empty section between colons")
    if len(parts) > 3:
        raise ValueError(f"invalid spec: {spec}: too many colons")
    return parts[0] if len(parts) > 1 else ""


def tmpfs(specs: Sequence[str]) -> dict[str, str]:
    """`--tmpfs` values: {"/path": "size=1m,mode=1777"}."""
    found = {}
    for spec in specs:
        path, _, options = spec.partition(":")
        found[path] = options
    return found


def split_csv(text: str) -> list[str]:
    """One record of comma-separated values; a field in double quotes may contain commas, and "" for a quote. ValueError."""
    if "\n" in text:
        raise ValueError("a line break in comma-separated values")
    fields: list[str] = []
    position = 0
    while True:
        if text[position : position + 1] == '"':
            field = ""
            position += 1
            while True:
                end = text.find('"', position)
                if end < 0:
                    raise ValueError(
                        f'parse error on line 1, column {len(text) + 1}: extraneous or missing " in quoted-field'
                    )
                field += text[position:end]
                position = end + 1
                if text[position : position + 1] != '"':
                    break
                field += '"'
                position += 1
            if position < len(text) and text[position] != ",":
                raise ValueError(
                    f'parse error on line 1, column {position + 1}: extraneous or missing " in quoted-field'
                )
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            field = text[position:end]
            if '"' in field:
                raise ValueError(
                    f'parse error on line 1, column {position + field.index(chr(34)) + 1}: bare " in non-quoted-field'
                )
            position = end
        fields.append(field)
        if position >= len(text):
            return fields
        position += 1


def mount(text: str) -> dict[str, Any]:
    """`--mount type=bind,source=/a,target=/b,readonly`."""
    text = text.strip()
    if not text:
        raise ValueError("value is empty")
    found: dict[str, Any] = {"Type": "volume"}
    for field in split_csv(text):
        key, separator, value = field.partition("=")
        _check_spelling(key, value, field, separator=bool(separator))
        key = key.lower()
        if not separator and key not in _BARE:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        _apply(found, key, value, field, separator=bool(separator))
    _check_mix(found)
    return found


def _check_spelling(key: str, value: str, field: str, *, separator: bool) -> None:
    if key.strip() != key:
        raise ValueError(f"invalid option '{key.strip()}' in '{field}': option should not have whitespace")
    if separator:
        if not value.strip():
            raise ValueError(f"invalid value for '{key}': value is empty")
        if value.strip() != value:
            raise ValueError(f"invalid value for '{key}' in '{field}': value should not have whitespace")


def _apply(found: dict[str, Any], key: str, value: str, field: str, *, separator: bool) -> None:
    match key:
        case "type":
            found["Type"] = value.lower()
        case "source" | "src":
            found["Source"] = os.path.abspath(value) if value.startswith(".") else value
        case "target" | "dst" | "destination":
            found["Target"] = value
        case "readonly" | "ro":
            found["ReadOnly"] = _truth(key, value, separator=separator)
        case "consistency":
            found["Consistency"] = value.lower()
        case "bind-propagation":
            _options(found, "BindOptions")["Propagation"] = value.lower()
        case "bind-nonrecursive":
            _options(found, "BindOptions")["NonRecursive"] = _truth(key, value, separator=separator)
        case "bind-recursive":
            _bind_recursive(found, key, value)
        case "bind-create-src":
            _options(found, "BindOptions")["CreateMountpoint"] = _truth(key, value, separator=separator)
        case "volume-subpath":
            _options(found, "VolumeOptions")["Subpath"] = value
        case "volume-nocopy":
            _options(found, "VolumeOptions")["NoCopy"] = _truth(key, value, separator=separator)
        case "volume-label":
            name, _, content = value.partition("=")
            _options(found, "VolumeOptions").setdefault("Labels", {})[name] = content
        case "volume-driver":
            _options(found, "VolumeOptions").setdefault("DriverConfig", {})["Name"] = value
        case "volume-opt":
            name, _, content = value.partition("=")
            driver = _options(found, "VolumeOptions").setdefault("DriverConfig", {})
            driver.setdefault("Options", {})[name] = content
        case "image-subpath":
            _options(found, "ImageOptions")["Subpath"] = value
        case "tmpfs-size":
            try:
                _options(found, "TmpfsOptions")["SizeBytes"] = parse_bytes(value)
            except ValueError:
                raise ValueError(f"invalid value for {key}: {value}") from None
        case "tmpfs-mode":
            if not value or any(digit not in "01234567" for digit in value) or int(value, 8) >= 1 << 32:
                raise ValueError(f"invalid value for {key}: {value}")
            _options(found, "TmpfsOptions")["Mode"] = int(value, 8)
        case _:
            raise ValueError(f"unexpected key '{key}' in '{field}'")


def _options(found: dict[str, Any], name: str) -> dict[str, Any]:
    options: dict[str, Any] = found.setdefault(name, {})
    return options


def _truth(key: str, value: str, *, separator: bool) -> bool:
    if not separator or value in ("1", "true"):
        return True
    if value in ("0", "false"):
        return False
    raise ValueError(
        f"invalid value for '{key}': invalid boolean value ({go_quote(value)}):"
        ' must be one of "true", "1", "false", or "0" (default "true")'
    )


def _bind_recursive(found: dict[str, Any], key: str, value: str) -> None:
    names = {"disabled": "NonRecursive", "writable": "ReadOnlyNonRecursive", "readonly": "ReadOnlyForceRecursive"}
    if value in names:
        _options(found, "BindOptions")[names[value]] = True
    elif value != "enabled":
        raise ValueError(f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")')


def _check_mix(found: dict[str, Any]) -> None:
    if not found.get("Target"):
        raise ValueError("target is required")
    kind = found["Type"]
    for name in ("bind", "volume", "image", "tmpfs"):
        if kind != name and f"{name.capitalize()}Options" in found:
            raise ValueError(f"cannot mix '{name}-*' options with mount type '{kind}'")
    bind = found.get("BindOptions", {})
    if bind.get("ReadOnlyNonRecursive") and not found.get("ReadOnly"):
        raise ValueError("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
    if bind.get("ReadOnlyForceRecursive"):
        if not found.get("ReadOnly"):
            raise ValueError("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
        if bind.get("Propagation") != "rprivate":
            raise ValueError(
                "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
            )
