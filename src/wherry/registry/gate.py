"""Who may do what: the question that the server asks before it reads a request's body, and the gate that lets everybody in.

`passwords` and `tokens` are the other gates. Source: RFC 9110 §11; the distribution project's token specification for the names of types and actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Access:
    """`kind` is "repository" or "registry", `action` one of pull, push, delete, or * for the catalog."""

    kind: str
    name: str
    action: str


class Visitor(Protocol):
    """Somebody who was let in."""

    @property
    def name(self) -> str:
        """For the log; "" when nobody asked."""
        ...

    def may(self, access: Access) -> bool: ...


class Gate(Protocol):
    async def admit(self, headers: Mapping[str, str], wanted: Sequence[Access], here: str) -> Visitor:
        """Refused (UNAUTHORIZED, with a challenge; DENIED) unless all that is wanted is allowed. `here`: scheme and authority of the request."""
        ...


@dataclass(frozen=True, slots=True)
class Anybody:
    name: str = ""

    def may(self, access: Access) -> bool:
        return True


class OpenGate:
    """No authentication."""

    async def admit(self, headers: Mapping[str, str], wanted: Sequence[Access], here: str) -> Visitor:
        return Anybody()
