"""Dockerfile instructions that change an image's config: what `docker import --change` (and `commit --change`) takes. Pure.

Source: the Dockerfile reference. Taken are those that Docker takes: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER
VOLUME WORKDIR. Variables are those of the config's own environment.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable
from typing import Any

from wherry.engine import words
from wherry.errors import InvalidArgument

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?\Z", re.IGNORECASE)
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h))")
_UNITS = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_SHELL = ["/bin/sh", "-c"]


def apply(run: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """The config `run` with all the instructions applied. InvalidArgument names the one that is wrong."""
    changed, has_command = dict(run), False
    for text in changes:
        for line in re.sub(r"\\\s*\n", "", text).splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            instruction, _, rest = line.strip().partition(" ")
            _apply_one(changed, instruction.upper(), rest.strip(), line)
            has_command |= instruction.upper() == "CMD"
            if instruction.upper() == "ENTRYPOINT" and changed["Entrypoint"] and not has_command:
                changed.pop("Cmd", None)  # it was made for another entrypoint
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


def _exec_form(rest: str) -> list[str] | None:
    """A JSON list of strings; None for anything else."""
    if not rest.startswith("["):
        return None
    try:
        listed = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    return listed if isinstance(listed, list) and all(isinstance(item, str) for item in listed) else None


def _command(run: dict[str, Any], rest: str) -> list[str]:
    """The exec form, or the shell form."""
    listed = _exec_form(rest)
    return [*(run.get("Shell") or _SHELL), rest] if listed is None else listed


def _cmd(run: dict[str, Any], rest: str) -> None:
    run["Cmd"] = _command(run, rest)


def _entrypoint(run: dict[str, Any], rest: str) -> None:
    run["Entrypoint"] = _command(run, rest)


def _env_of(run: dict[str, Any]) -> dict[str, str]:
    return {key: value for item in run.get("Env") or [] for key, _, value in [item.partition("=")]}


def _pairs(run: dict[str, Any], rest: str, name: str) -> list[tuple[str, str]]:
    """`a=b c="d e"`, or the old form `a b c`; expanded."""
    env, written = _env_of(run), words.split(rest)
    if "=" not in written[0]:
        key, space, value = rest.partition(" ")
        if not space:
            raise ValueError(f"{name} must have two arguments")
        return [(words.expand(key, env), words.expand(value.strip(), env))]
    pairs = []
    for word in written:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"syntax error: can't find = in {word!r}. Must be of the form: name=value")
        pairs.append((words.expand(key, env), words.expand(value, env)))
    return pairs


def _env(run: dict[str, Any], rest: str) -> None:
    env = _env_of(run)
    env.update(_pairs(run, rest, "ENV"))
    run["Env"] = [f"{key}={value}" for key, value in env.items()]


def _label(run: dict[str, Any], rest: str) -> None:
    run["Labels"] = {**(run.get("Labels") or {}), **dict(_pairs(run, rest, "LABEL"))}


def _expose(run: dict[str, Any], rest: str) -> None:
    ports, env = dict(run.get("ExposedPorts") or {}), _env_of(run)
    for word in [one for written in words.split(rest) for one in words.expand(written, env).split()]:
        matched = _PORT.match(word)
        low = int(matched[1]) if matched else 0
        high = int(matched[2] or low) if matched else 0
        if matched is None or not 1 <= low <= high <= 65535:
            raise ValueError(f"invalid containerPort: {word}")
        for port in range(low, high + 1):
            ports[f"{port}/{(matched[3] or 'tcp').lower()}"] = {}
    run["ExposedPorts"] = ports


def _volume(run: dict[str, Any], rest: str) -> None:
    listed = _exec_form(rest)
    if listed is None and rest.startswith("["):
        raise ValueError("not a list of paths")
    env = _env_of(run)
    found = [words.expand(item, env) for item in (words.split(rest) if listed is None else listed)]
    if not all(item.strip() for item in found):
        raise ValueError("VOLUME specified can not be an empty string")
    run["Volumes"] = {**(run.get("Volumes") or {}), **{item: {} for item in found}}


def _user(run: dict[str, Any], rest: str) -> None:
    run["User"] = words.expand(rest, _env_of(run))


def _workdir(run: dict[str, Any], rest: str) -> None:
    path = words.expand(rest, _env_of(run))
    if not path:
        raise ValueError("WORKDIR is empty")
    run["WorkingDir"] = posixpath.normpath(posixpath.join(run.get("WorkingDir") or "/", path))


def _stop_signal(run: dict[str, Any], rest: str) -> None:
    signal = words.expand(rest, _env_of(run))
    if not re.fullmatch(r"(?:SIG)?[A-Z0-9+-]{1,16}", signal, re.IGNORECASE):
        raise ValueError(f"invalid signal: {signal}")
    run["StopSignal"] = signal


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
            listed = _exec_form(command.strip())
            check["Test"] = ["CMD-SHELL", command.strip()] if listed is None else ["CMD", *listed]
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
