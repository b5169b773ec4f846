"""Dockerfile instructions that change an image's config: what `docker commit --change` and `docker import --change` take. Pure.

Source: the Dockerfile reference; what dockerd answers to each form. Taken are those that Docker takes: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK
LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR. Variables are those of the config's own environment. Deliberately absent: parser directives
("# escape=`"): they are comments.
"""

from __future__ import annotations

import ipaddress
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from wherry.engine import signals, words
from wherry.errors import InvalidArgument

_CONTINUED = re.compile(r"(?:(?<=[^\\])|^)\\[ \t]*\Z")
_BLANK = re.compile(r"[\t\v\f\r ]+")
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_SHELL = ["/bin/sh", "-c"]
_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}
_MILLISECOND = 1_000_000


def apply(run: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """The config `run` with all the instructions applied. InvalidArgument, in dockerd's words, for the first that is wrong."""
    listed = list(changes)
    if not listed:
        return dict(run)
    changed, has_command, instructions = dict(run), False, list(_instructions("\n".join(listed)))
    if not instructions:
        raise InvalidArgument("file with no instructions")
    for one in instructions:
        if one.name.upper() not in _APPLY:
            raise InvalidArgument(f"{one.name} is not a valid change command")
        try:
            _APPLY[one.name.upper()](changed, one)
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        if one.name.upper() == "CMD":
            has_command |= bool(changed["Cmd"])
        elif one.name.upper() == "ENTRYPOINT" and not has_command:
            changed["Cmd"] = None  # it was made for another entrypoint
    return changed


@dataclass(frozen=True, slots=True)
class _Instruction:
    name: str
    flags: tuple[str, ...]
    rest: str

    def only(self, *known: str) -> dict[str, str]:
        """Its flags by name. ValueError for one that is not known, has no value, or is there twice."""
        given: dict[str, str] = {}
        for flag in self.flags:
            name, equals, value = flag.partition("=")
            if name[2:] not in known:
                raise ValueError(f"unknown flag: {name}")
            if name[2:] in given:
                raise ValueError(f"duplicate flag specified: {name}")
            if not equals:
                raise ValueError(f"missing a value on flag: {name}")
            given[name[2:]] = value
        return given

    def one(self) -> str:
        if not self.rest:
            raise ValueError(f"{self.name.upper()} requires exactly one argument")
        self.only()
        return self.rest

    def some(self) -> str:
        if not self.rest:
            raise ValueError(f"{self.name.upper()} requires at least one argument")
        return self.rest


def _instructions(text: str) -> Iterator[_Instruction]:
    """Lines, each with those that it is continued on; comments and empty lines among them are passed over."""
    pending: str | None = None
    for line in text.split("\n"):
        read = line.rstrip("\r").lstrip() if pending is None else line.rstrip("\r")
        if line.lstrip().startswith("#") or not read.strip():
            continue
        joined = (pending or "") + _CONTINUED.sub("", read)
        if _CONTINUED.search(read):
            pending = joined
        else:
            pending = None
            yield _instruction(joined)
    if pending:
        yield _instruction(pending)


def _instruction(line: str) -> _Instruction:
    name, *rest = _BLANK.split(line.strip(), maxsplit=1)
    flags, remaining = words.flags(rest[0]) if rest else ((), "")
    return _Instruction(name, flags, remaining.strip())


def _exec_form(text: str) -> list[str] | None:
    """A JSON list of strings; None for what is no JSON list. ValueError for a list of anything else."""
    if not text.startswith("["):
        return None
    try:
        listed = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in listed):
        raise ValueError("when using JSON array syntax, arrays must be comprised of strings only")
    return [item.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for item in listed]


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _command(run: dict[str, Any], one: _Instruction) -> list[str]:
    """The exec form, or the shell form."""
    one.only()
    listed = _exec_form(one.rest)
    if listed is not None:
        return listed
    return [*(run.get("Shell") or _SHELL), *([one.rest] if one.rest else [])]


def _cmd(run: dict[str, Any], one: _Instruction) -> None:
    run["Cmd"] = _command(run, one)


def _entrypoint(run: dict[str, Any], one: _Instruction) -> None:
    run["Entrypoint"] = (_command(run, one) or None) if one.rest else None


def _env_of(run: dict[str, Any]) -> dict[str, str]:
    return {key: value for item in run.get("Env") or [] for key, _, value in [item.partition("=")]}


def _pairs(run: dict[str, Any], one: _Instruction) -> list[tuple[str, str]]:
    """`a=b c="d e"`, or the old form `a b c`; expanded."""
    name, env, written = one.name.upper(), _env_of(run), words.split(one.some())
    one.only()
    if "=" in written[0]:
        pairs = [(key, equals, value) for word in written for key, equals, value in [word.partition("=")]]
        for key, equals, _ in pairs:
            if not equals:
                raise ValueError(f"Syntax error - can't find = in {words.quote(key)}. Must be of the form: name=value")
    else:
        key, *value = _BLANK.split(one.rest, maxsplit=1)
        if not value:
            raise ValueError(f"{name} must have two arguments")
        pairs = [(key, " ", value[0])]
    if not all(key for key, _, _ in pairs):
        raise ValueError(f"{name} names can not be blank")
    return [(words.expand(key, env), words.expand(value, env)) for key, _, value in pairs]


def _env(run: dict[str, Any], one: _Instruction) -> None:
    env = _env_of(run)
    env.update(_pairs(run, one))
    run["Env"] = [f"{key}={value}" for key, value in env.items()]


def _label(run: dict[str, Any], one: _Instruction) -> None:
    run["Labels"] = {**(run.get("Labels") or {}), **dict(_pairs(run, one))}


def _expose(run: dict[str, Any], one: _Instruction) -> None:
    ports, env = dict(run.get("ExposedPorts") or {}), _env_of(run)
    written = _BLANK.split(one.some())
    one.only()
    for word in written:
        for spec in words.expand(word, env).split():
            ports.update({port: {} for port in _ports(spec)})
    run["ExposedPorts"] = ports


def _ports(spec: str) -> list[str]:
    """The container's part of [[address:]host:]port[-port][/protocol]; the others are only looked at, as by dockerd."""
    outer, _, inner = spec.rpartition(":")
    address, _, host = outer.rpartition(":")
    port, _, protocol = inner.partition("/")
    if not port:
        raise ValueError(f"no port specified: {spec}<empty>")
    if protocol.lower() not in ("", "tcp", "udp", "sctp"):
        raise ValueError(f"invalid proto: {protocol.lower()}")
    if address:
        try:
            ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise ValueError(f"invalid IP address: {address}") from None
    low, high = _range(port, "containerPort")
    if host:
        host_low, host_high = _range(host, "hostPort")
        if high > low and host_high - host_low != high - low:
            raise ValueError(f"invalid ranges specified for container and host Ports: {port} and {host}")
    return [f"{number}/{protocol.lower() or 'tcp'}" for number in range(low, high + 1)]


def _range(text: str, what: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    numbers = [int(part) for part in ((low, high) if dash else (low, low)) if re.fullmatch(r"[0-9]{1,9}", part)]
    if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= 65535:
        raise ValueError(f"invalid {what}: {text}")
    return numbers[0], numbers[1]


def _volume(run: dict[str, Any], one: _Instruction) -> None:
    listed = _exec_form(one.rest)
    if listed is None:
        listed = _BLANK.split(one.rest) if one.rest else []
    if not listed:
        raise ValueError("VOLUME requires at least one argument")
    one.only()
    env = _env_of(run)
    found = [words.expand(item.strip(), env) for item in listed]
    if not all(found):
        raise ValueError("VOLUME specified can not be an empty string")
    run["Volumes"] = {**(run.get("Volumes") or {}), **{item: {} for item in found}}


def _user(run: dict[str, Any], one: _Instruction) -> None:
    run["User"] = words.expand(one.one(), _env_of(run))


def _workdir(run: dict[str, Any], one: _Instruction) -> None:
    path = words.expand(one.one(), _env_of(run))
    if not path:
        raise ValueError("cannot normalize nothing")
    joined = posixpath.normpath(posixpath.join("/", run.get("WorkingDir") or "", path))
    run["WorkingDir"] = "/" + joined.lstrip("/")


def _stop_signal(run: dict[str, Any], one: _Instruction) -> None:
    signal = words.expand(one.one(), _env_of(run))
    try:
        signals.parse(signal)
    except InvalidArgument:
        raise ValueError(f"invalid signal: {signal}") from None
    run["StopSignal"] = signal


def _onbuild(run: dict[str, Any], one: _Instruction) -> None:
    trigger = _BLANK.split(one.some(), maxsplit=1)[0].upper()
    one.only()
    if trigger == "ONBUILD":
        raise ValueError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise ValueError(f"{trigger} isn't allowed as an ONBUILD trigger")
    run["OnBuild"] = [*(run.get("OnBuild") or []), one.rest]


def _healthcheck(run: dict[str, Any], one: _Instruction) -> None:
    kind, *after = re.split(r"\s+", one.some(), maxsplit=1)
    if kind.upper() == "NONE":
        if after:
            raise ValueError("HEALTHCHECK NONE takes no arguments")
        run["Healthcheck"] = {"Test": ["NONE"]}
        return
    given = one.only(*_TIMES, "retries")
    if kind.upper() != "CMD":
        raise ValueError(f"Unknown type {words.quote(kind.upper())} in HEALTHCHECK (try CMD)")
    command = after[0] if after else ""
    listed = _exec_form(command)
    if not (command if listed is None else listed):
        raise ValueError("Missing command after HEALTHCHECK CMD")
    check: dict[str, Any] = {"Test": ["CMD-SHELL", command] if listed is None else ["CMD", *listed]}
    for name, field in _TIMES.items():
        length = _duration(given[name]) if given.get(name) else 0
        if length and length < _MILLISECOND:
            raise ValueError(f"Interval {words.quote(name)} cannot be less than 1ms")
        if length:
            check[field] = length
    retries = _whole(given["retries"]) if given.get("retries") else 0
    if retries < 0:
        raise ValueError(f"--retries cannot be negative ({retries})")
    if retries:
        check["Retries"] = retries
    run["Healthcheck"] = check


def _whole(text: str) -> int:
    """Go's ParseInt with 32 bits."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError(f"strconv.ParseInt: parsing {words.quote(text)}: invalid syntax")
    if len(text) > 11 or not -(1 << 31) <= int(text) < 1 << 31:
        raise ValueError(f"strconv.ParseInt: parsing {words.quote(text)}: value out of range")
    return int(text)


def _duration(text: str) -> int:
    """Go's durations ("1m30s", ".5s", "-1s", "0") in nanoseconds."""
    sign, digits = (-1 if text.startswith("-") else 1), re.sub(r"\A[+-]", "", text)
    if digits == "0":
        return 0
    parts = list(_DURATION.finditer(digits))
    total = sum(float(part[1]) * _UNITS[part[2]] for part in parts)
    if not parts or "".join(part[0] for part in parts) != digits or total >= 1 << 63:
        raise ValueError(f"time: invalid duration {words.quote(text)}")
    return sign * int(total)


_APPLY: dict[str, Callable[[dict[str, Any], _Instruction], None]] = {
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
