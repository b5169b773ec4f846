"""`--log-driver` and `--log-opt`: what is accepted, and what it means for the shim that writes and for who reads. Pure. Runs in wherryd.

Source: Docker's json-file driver and its `attrs`: labels and variables of the container, and the tag, which it adds to every record and
`docker logs --details` shows. Deliberately absent, and refused by name: other drivers, compression, writing without waiting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from wherry import errors
from wherry.engine.records import Record
from wherry.errors import InvalidArgument
from wherry.wire import expressions
from wherry.wire.engine import HostConfig

LOG_DRIVERS = {"", "json-file", "none"}
_JSON_FILE_OPTIONS = {
    "compress",
    "env",
    "env-regex",
    "labels",
    "labels-regex",
    "max-buffer-size",
    "max-file",
    "max-size",
    "mode",
    "tag",
}
_PLACEHOLDER = re.compile(r"\{\{ *\.(\w+) *\}\}")
_TAG_FIELDS = frozenset(("DaemonName", "FullID", "ID", "ImageFullID", "ImageID", "ImageName", "Name"))
_DAEMON_NAME = "docker"


def check(host: HostConfig) -> None:
    """InvalidArgument in dockerd's words; NotImplemented naming what wherry does not do."""
    log = host.log_config
    if log is None:
        return
    if log.type not in LOG_DRIVERS:
        raise InvalidArgument(f"logger: no log driver named '{log.type}' is registered")
    options = log.config or {}
    for option in options:
        if log.type == "none" or option not in _JSON_FILE_OPTIONS:
            raise InvalidArgument(f"unknown log opt '{option}' for {log.type or 'json-file'} log driver")
    mode = options.get("mode", "blocking")
    if mode not in ("blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if mode == "non-blocking":
        raise errors.NotImplemented("wherry does not support the log option mode=non-blocking yet")
    if "max-buffer-size" in options:
        raise InvalidArgument(
            f"logger: max-buffer-size option is only supported with 'mode=non-blocking', mode is {mode!r}"
        )
    compress = options.get("compress", "false").lower()
    if compress not in ("1", "t", "true", "0", "f", "false"):
        raise InvalidArgument(f"invalid value for the log option compress: {compress!r}")
    if compress in ("1", "t", "true"):
        raise errors.NotImplemented("wherry does not support the log option compress=true yet")
    for pattern in (options[option] for option in ("labels-regex", "env-regex") if option in options):
        try:
            expressions.compile(pattern)
        except InvalidArgument as error:
            raise InvalidArgument(f"failed to initialize logging driver: {error}") from None
    unread = _PLACEHOLDER.sub(lambda match: "" if match[1] in _TAG_FIELDS else match[0], options.get("tag", ""))
    if "{{" in unread:
        known = ", ".join(f"{{{{.{name}}}}}" for name in sorted(_TAG_FIELDS))
        raise InvalidArgument(f"log option tag: {unread[unread.index('{{') :][:100]} is not one of {known}")
    limits(host)


def limits(host: HostConfig) -> tuple[int | None, int]:
    """The json-file driver's max-size (bytes; None: no limit) and max-file."""
    options = (host.log_config.config if host.log_config else None) or {}
    size_text, file_text = options.get("max-size", "-1"), options.get("max-file", "1")
    size = None if size_text == "-1" else _parse_size(size_text)
    if not file_text.isdecimal() or int(file_text) < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    return size, int(file_text)


def _parse_size(text: str) -> int:
    lower = text.lower().removesuffix("b").removesuffix("i")
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    number, unit = (lower[:-1], units[lower[-1]]) if lower[-1:] in units else (lower, 1)
    try:
        size = int(float(number) * unit)
    except ValueError:
        raise InvalidArgument(f"invalid size: '{text}'") from None
    if size <= 0:
        raise InvalidArgument(f"invalid size: '{text}'")
    return size


def attributes(record: Record) -> dict[str, str]:
    """What each record of the container's log carries besides its line."""
    log, config = record.host_config.log_config, record.config
    options = (log.config if log else None) or {}
    if not options:
        return {}
    found = _chosen(config.labels or {}, options.get("labels", ""), options.get("labels-regex", ""))
    variables = dict(item.partition("=")[::2] for item in config.env or [])
    found |= _chosen(variables, options.get("env", ""), options.get("env-regex", ""))
    if tag := options.get("tag"):
        found["tag"] = _PLACEHOLDER.sub(lambda match: _tag_field(record, match[1]), tag)
    return found


def _chosen(values: Mapping[str, str], names: str, pattern: str) -> dict[str, str]:
    wanted = {name for name in names.split(",") if name}
    matching = expressions.compile(pattern) if pattern else None
    return {key: value for key, value in values.items() if key in wanted or (matching and matching(key))}


def _tag_field(record: Record, field: str) -> str:
    image = record.image.removeprefix("sha256:")
    return {
        "DaemonName": _DAEMON_NAME,
        "FullID": record.id,
        "ID": record.id[:12],
        "ImageFullID": record.image,
        "ImageID": image[:12],
        "ImageName": record.image_ref,
        "Name": record.name,
    }[field]
