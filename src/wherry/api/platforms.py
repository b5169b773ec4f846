"""Platforms in the query: OCI's JSON object."""

from __future__ import annotations

import msgspec

from wherry.errors import InvalidArgument
from wherry.spec.image import Platform, platform_from_json


def as_platform(text: str) -> Platform:
    """{"os": "linux", "architecture": "arm", "variant": "v7"}."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"failed to parse platform: {error}") from None
    platform = platform_from_json(value, "failed to parse platform")
    if not (platform.os or platform.architecture) and (platform.variant or platform.os_version):
        raise InvalidArgument("optional platform fields provided, but OS and Architecture are missing")
    if not platform.os or not platform.architecture:
        raise InvalidArgument("both OS and Architecture must be provided")
    return platform
