"""Which version of the Engine API a request speaks: `/v1.NN/…`, or the newest when it does not say.

The words of the two refusals are Docker's: clients show them, and some match on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wherry.errors import InvalidArgument

Version = tuple[int, int]

_PREFIX = re.compile(r"/v([0-9.]+)(?=/|\Z)")
_NUMBER = re.compile(r"(\d{1,9})\.(\d{1,9})\Z")


class UnsupportedVersion(InvalidArgument):
    """The client's version is outside of what is spoken. `plain`: so old that it expects text, not JSON."""

    def __init__(self, message: str, *, plain: bool) -> None:
        super().__init__(message)
        self.plain = plain


def parse_version(text: str) -> Version:
    """ "1.50" → (1, 50)."""
    match = _NUMBER.match(text)
    if match is None:
        raise InvalidArgument(f"invalid API version: {text}")
    return int(match[1]), int(match[2])


def format_version(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


@dataclass(frozen=True, slots=True)
class Versions:
    """The lowest and the highest version that is spoken."""

    minimum: Version
    maximum: Version

    def negotiate(self, path: str) -> tuple[Version, str]:
        """The version and the path without its prefix; UnsupportedVersion."""
        match = _PREFIX.match(path)
        if match is None:
            return self.maximum, path
        version = parse_version(match[1])
        if version < self.minimum:
            raise UnsupportedVersion(
                f"client version {match[1]} is too old. Minimum supported API version is {format_version(self.minimum)},"
                " please upgrade your client to a newer version",
                plain=version < (1, 24),
            )
        if version > self.maximum:
            raise UnsupportedVersion(
                f"client version {match[1]} is too new. Maximum supported API version is {format_version(self.maximum)}",
                plain=False,
            )
        return version, path[match.end() :]
