"""A volume as data, and the rules of its name and options. Pure; Docker's words.

Deliberately absent: options that need a mount of the volume's own (NFS, tmpfs, block devices): refused by name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wherry import errors
from wherry.errors import InvalidArgument, NotFound

Json = dict[str, Any]
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_NAME_LIMIT = 255
_OPTIONS = ("type", "o", "device")


@dataclass(frozen=True, slots=True)
class Volume:
    """`created` is RFC 3339. `bind_source` "": the data is the volume's own directory."""

    name: str
    created: str
    labels: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def bind_source(self) -> str:
        return dict(self.options).get("device", "")

    @property
    def is_anonymous(self) -> bool:
        return any(key == ANONYMOUS_LABEL for key, _value in self.labels)

    def describe(self, mountpoint: str) -> Json:
        return {
            "CreatedAt": self.created,
            "Driver": "local",
            "Labels": dict(self.labels) or None,
            "Mountpoint": mountpoint,
            "Name": self.name,
            "Options": dict(self.options) or None,
            "Scope": "local",
        }

    def row(self) -> tuple[str, str, str, str]:
        return self.name, self.created, json.dumps(dict(self.labels)), json.dumps(dict(self.options))

    @staticmethod
    def from_row(name: str, created: str, labels: str, options: str) -> Volume:
        return Volume(name, created, tuple(json.loads(labels).items()), tuple(json.loads(options).items()))


def check_name(name: str) -> str:
    """The name, if it may be one. InvalidArgument."""
    if len(name) == 1:
        raise InvalidArgument("volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.match(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )
    if len(name) > _NAME_LIMIT:
        raise InvalidArgument(f"create {name[:32]}…: a volume name of more than {_NAME_LIMIT} characters")
    return name


def check_driver(driver: str) -> None:
    """NotFound for every driver but the local one."""
    if driver not in ("", "local"):
        raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')


def check_options(options: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """The local driver's options: none, or a bind of a directory of the host. InvalidArgument, NotImplemented."""
    options = options or {}
    for key in options:
        if key not in _OPTIONS:
            raise InvalidArgument(f'invalid option: "{key}"')
    if not options:
        return ()
    kind, flags, device = (options.get(key, "") for key in _OPTIONS)
    if kind not in ("", "none", "bind"):
        raise errors.NotImplemented(f"volume option type={kind} is not supported, only type=none with o=bind")
    if flags not in ("bind", "rbind"):
        raise errors.NotImplemented(f"volume option o={flags} is not supported, only o=bind and o=rbind")
    if not device:
        raise InvalidArgument('missing required option: "device"')
    if not os.path.isabs(device) or "\0" in device:
        raise InvalidArgument(f"volume option device={device!r} is not an absolute path")
    return tuple(options.items())
