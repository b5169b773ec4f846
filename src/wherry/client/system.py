"""The engine itself: version, information, disk use, events."""

from __future__ import annotations

from .containers import _filters
from .registries import encoded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from .session import Session

    Json = dict[str, Any]
    Filters = Mapping[str, Sequence[str]]


class System:
    """`Client.system`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def ping(self) -> str:
        """The engine's newest API version; ConnectionFailed when there is no engine."""
        response = self._session.open("GET", "/_ping")
        response.read()
        return response.headers.get("api-version", "")

    def version(self) -> Json:
        answer: Json = self._session.call("GET", "/version")
        return answer

    def info(self) -> Json:
        answer: Json = self._session.call("GET", "/info")
        return answer

    def disk_usage(self) -> Json:
        answer: Json = self._session.call("GET", "/system/df")
        return answer

    def fsck(self, *, repair: bool = False, auths: Mapping[str, Mapping[str, str]] | None = None) -> Iterator[Json]:
        """Verifies the store while it is iterated: progress, {"problem": {"Kind", "Object", "Text", "Mended"}} of each, at last {"summary": …}.
        `auths`: logins for the registries to fetch from again, by their names in references."""
        headers = {"X-Registry-Config": encoded(auths)} if auths else None
        response = self._session.open("POST", "/wherry/fsck", query={"repair": repair or None}, headers=headers)
        yield from self._session.progress(response)

    def events(
        self, *, since: str | None = None, until: str | None = None, filters: Filters | None = None
    ) -> Iterator[Json]:
        """Events as they happen, from `since` to `until` (unix seconds); without `until` they do not end."""
        query = {"since": since, "until": until, "filters": _filters(filters)}
        return self._session.stream(self._session.open("GET", "/events", query=query))
