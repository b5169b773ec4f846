"""What a registry answers when it does not give what was asked for: an error that keeps status and code.

Source: distribution-spec, "Error Codes".
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import aiohttp

from wherry.errors import WherryError

_WORDS = {
    "UNAUTHORIZED": "unauthorized",
    "DENIED": "denied",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "NAME_UNKNOWN": "name unknown",
    "NAME_INVALID": "name invalid",
    "BLOB_UNKNOWN": "blob unknown to registry",
    "TOOMANYREQUESTS": "toomanyrequests",
    "UNSUPPORTED": "unsupported",
    "UNKNOWN": "unknown",
}
_BY_STATUS = {401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN", 429: "TOOMANYREQUESTS"}
MAX_MESSAGE = 2000


class RegistryError(WherryError):
    """`code` is one of the specification's (upper case), `status` HTTP's. The text is "code in words: message", as Docker prints it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        words = _WORDS.get(code, code.lower().replace("_", " "))
        super().__init__(f"{words}: {message}" if message else words)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = ""
        """The Retry-After header, as it came."""

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (408, 429, 500, 502, 503, 504)

    def later(self, seconds: float) -> RegistryError:
        """The same as an end: nobody waits so long."""
        asked = f"the registry asks to try again in {seconds:.0f} seconds"
        return RegistryError(self.status, self.code, f"{self.message}: {asked}" if self.message else asked)


async def beginning(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """At most `limit` bytes of an answer's body, all that there are up to it: `read(limit)` of its stream gives what has come so far."""
    data = b""
    async for piece in answer.content.iter_any():
        data += piece
        if len(data) >= limit:
            break
    return data[:limit]


def registry_error(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> RegistryError:
    """From an answer. `body` need not be what the specification says."""
    error = _read(status, body)
    error.retry_after = (headers or {}).get("Retry-After", "")
    return error


def _read(status: int, body: bytes) -> RegistryError:
    try:
        document = json.loads(body)
        errors = document.get("errors") if isinstance(document, dict) else None
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            first = errors[0]
            return RegistryError(status, _clean(first.get("code")) or "UNKNOWN", _clean(first.get("message")))
        if isinstance(document, dict) and isinstance(document.get("details"), str):  # Docker Hub's token server
            return RegistryError(status, _BY_STATUS.get(status, "UNKNOWN"), _clean(document["details"]))
    except (ValueError, RecursionError):
        pass
    text = _clean(body[:200].decode("utf-8", "replace")) if status >= 500 else ""
    return RegistryError(status, _BY_STATUS.get(status, "UNKNOWN"), text or f"unexpected status code {status}")


def _clean(text: object) -> str:
    """A registry's words as they may be printed on a terminal."""
    if not isinstance(text, str):
        return ""
    return "".join(character if character.isprintable() else " " for character in text[:MAX_MESSAGE]).strip()
