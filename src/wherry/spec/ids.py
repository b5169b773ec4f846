"""The kinds of identifier, so that one is never passed for another."""

from __future__ import annotations

import re
from typing import NewType

ContainerId = NewType("ContainerId", str)
"""64 lower-case hex digits, random."""
ExecId = NewType("ExecId", str)
"""64 lower-case hex digits, random."""
Digest = NewType("Digest", str)
"""`algorithm:hex` of some bytes' content; only sha256 and sha512 are accepted."""
ImageId = NewType("ImageId", str)
"""The digest of an image's config blob, `sha256:…`, as Docker counts it."""
ChainId = NewType("ChainId", str)
"""OCI image-spec, config.md "Layer ChainID": the digest that names a stack of unpacked layers."""

_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")


def is_digest(text: str) -> bool:
    """Whether `text` is a well-formed digest of an algorithm that wherry verifies."""
    return _DIGEST.match(text) is not None
