"""Dockerfile instructions that change an image's config: what `docker import --change` (and `commit --change`) takes. Pure.

Source: the Dockerfile reference. Taken are those that Docker takes: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER
VOLUME WORKDIR.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterable
from typing import Any

from wherry.errors import InvalidArgument

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?\Z", re.IGNORECASE)
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h))")
_UNITS = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_SHELL = ["/bin/sh", "-c"]


def apply(run: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """The config `run` with all the instructions applied. InvalidArgument names the one that is wrong."""
    changed = dict(run)
    for text in changes:
        for line in re.sub(r"\\\s*\n", "", text).splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            instruction, _, rest = line.strip().partition(" ")
            _apply_one(changed, instruction.upper(), rest.strip(), line)
    return changed


def _apply_one(run: dict[str, Any], instruction: str, rest: str, line: str) -> None:
    if instruction not in _INSTRUCTIONS:
        raise InvalidArgument(f"{instruction} is not a valid change command")
    if not rest:
        raise InvalidArgument(f"{instruction} requires at least one argument")
    try:
        _INSTRUCTIONS[instruction](run, rest)
    except ValueError as error:
        raise InvalidArgument(f"invalid change {line.strip()!r}: {error}") from None


def _command(rest: str) -> list[str]:
    """The exec form (a JSON list), or the shell form."""
    if rest.startswith("["):
        try:
            listed = json.loads(rest)
        except (ValueError, RecursionError):
            listed = None
        if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
            return listed
    return [*_SHELL, rest]


def _cmd(run: dict[str, Any], rest: str) -> None:
    run["Cmd"] = _command(rest)


def _entrypoint(run: dict[str, Any], rest: str) -> None:
    run["Entrypoint"] = _command(rest)


def _pairs(rest: str, name: str) -> list[tuple[str, str]]:
    """`a=b c="d e"`, or the old form `a b c`."""
    words = shlex.split(rest, posix=True)
    if words and "=" not in words[0]:
        key, space, value = rest.partition(" ")
        if not space:
            raise ValueError(f"{name} must have two arguments")
        return [(key, value.strip())]
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"syntax error: can't find = in {word!r}. Must be of the form: name=value")
        pairs.append((key, value))
    return pairs


def _env(run: dict[str, Any], rest: str) -> None:
    env = dict(item.partition("=")[::2] for item in run.get("Env") or [])
    env.update(_pairs(rest, "ENV"))
    run["Env"] = [f"{key}={value}" for key, value in env.items()]


def _label(run: dict[str, Any], rest: str) -> None:
    run["Labels"] = {**(run.get("Labels") or {}), **dict(_pairs(rest, "LABEL"))}


def _expose(run: dict[str, Any], rest: str) -> None:
    ports = dict(run.get("ExposedPorts") or {})
    for word in rest.split():
        matched = _PORT.match(word)
        low = int(matched[1]) if matched else 0
        high = int(matched[2] or low) if matched else 0
        if matched is None or not 1 <= low <= high <= 65535:
            raise ValueError(f"invalid containerPort: {word}")
        for port in range(low, high + 1):
            ports[f"{port}/{(matched[3] or 'tcp').lower()}"] = {}
    run["ExposedPorts"] = ports


def _volume(run: dict[str, Any], rest: str) -> None:
    listed = _command(rest) if rest.startswith("[") else rest.split()
    if listed[: len(_SHELL)] == _SHELL:
        raise ValueError("not a list of paths")
    if not all(item.strip() for item in listed):
        raise ValueError("VOLUME specified can not be an empty string")
    run["Volumes"] = {**(run.get("Volumes") or {}), **{item: {} for item in listed}}


def _user(run: dict[str, Any], rest: str) -> None:
    run["User"] = rest


def _workdir(run: dict[str, Any], rest: str) -> None:
    run["WorkingDir"] = posixpath.normpath(posixpath.join(run.get("WorkingDir") or "/", rest.strip('"')))


def _stop_signal(run: dict[str, Any], rest: str) -> None:
    if not re.fullmatch(r"(?:SIG)?[A-Z0-9+-]{1,16}", rest, re.IGNORECASE):
        raise ValueError(f"invalid signal: {rest}")
    run["StopSignal"] = rest


def _onbuild(run: dict[str, Any], rest: str) -> None:
    trigger = rest.split(maxsplit=1)[0].upper()
    if trigger in ("ONBUILD", "MAINTAINER", "FROM"):
        raise ValueError(f"{trigger} isn't allowed as an ONBUILD trigger")
    run["OnBuild"] = [*(run.get("OnBuild") or []), rest]


def _healthcheck(run: dict[str, Any], rest: str) -> None:
    check: dict[str, Any] = {}
    options = {
        "interval": "Interval",
        "timeout": "Timeout",
        "start-period": "StartPeriod",
        "start-interval": "StartInterval",
    }
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        name, _, value = option[2:].partition("=")
        rest = rest.strip()
        if name == "retries" and value.isdigit():
            check["Retries"] = int(value)
        elif name in options:
            check[options[name]] = _duration(value)
        else:
            raise ValueError(f"unknown flag: {option}")
    kind, _, command = rest.partition(" ")
    match kind.upper():
        case "NONE" if not command.strip():
            check = {"Test": ["NONE"]}
        case "CMD" if command.strip():
            listed = _command(command.strip())
            check["Test"] = ["CMD-SHELL", command.strip()] if listed[:2] == _SHELL else ["CMD", *listed]
        case _:
            raise ValueError(f'unknown type "{kind}" in HEALTHCHECK (try CMD)')
    run["Healthcheck"] = check


def _duration(text: str) -> int:
    """Go's durations ("1m30s") in nanoseconds."""
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError(f"invalid duration {text!r}")
    return int(sum(float(part[1]) * _UNITS[part[2]] for part in parts))


_INSTRUCTIONS = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
