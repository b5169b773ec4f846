"""Registries, as the Engine API has them: whether a login is right."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .session import Session


def encoded(login: Mapping[str, object]) -> str:
    """As the Engine API takes a login, or several by their registries, in a header: base64url of a JSON object."""
    from binascii import b2a_base64

    from wherry.wire.fastjson import dumps

    text = b2a_base64(dumps(dict(login)), newline=False).decode("ascii")
    return text.replace("+", "-").replace("/", "_")


class Registries:
    """`Client.registries`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def authenticate(self, login: Mapping[str, str]) -> dict[str, Any]:
        """{"Status": …, "IdentityToken": …}. `login`: serveraddress, username and password, or identitytoken. An error when it is refused."""
        answer: dict[str, Any] = self._session.call("POST", "/auth", json=dict(login))
        return answer
