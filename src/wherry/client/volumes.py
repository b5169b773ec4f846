"""Volumes and networks, as the Engine API has them."""

from __future__ import annotations

from .containers import _filters
from .session import segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from .session import Session

    Json = dict[str, Any]
    Filters = Mapping[str, Sequence[str]]


class Volumes:
    """`Client.volumes`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Json:
        body: Json = {"DriverOpts": dict(options or {}), "Labels": dict(labels or {})}
        if name:
            body["Name"] = name
        if driver:
            body["Driver"] = driver
        answer: Json = self._session.call("POST", "/volumes/create", json=body)
        return answer

    def list(self, filters: Filters | None = None) -> Json:
        """{"Volumes": […], "Warnings": […]}."""
        answer: Json = self._session.call("GET", "/volumes", query={"filters": _filters(filters)})
        return answer

    def inspect(self, name: str) -> Json:
        answer: Json = self._session.call("GET", f"/volumes/{segment(name)}")
        return answer

    def remove(self, name: str, *, force: bool = False) -> None:
        self._session.call("DELETE", f"/volumes/{segment(name)}", query={"force": force or None})

    def prune(self, filters: Filters | None = None) -> Json:
        answer: Json = self._session.call("POST", "/volumes/prune", query={"filters": _filters(filters)})
        return answer


class Networks:
    """`Client.networks`: reading. Creating networks is not part of wherry yet."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self, filters: Filters | None = None) -> list[Json]:
        answer: list[Json] = self._session.call("GET", "/networks", query={"filters": _filters(filters)})
        return answer

    def inspect(self, ref: str, *, verbose: bool = False) -> Json:
        answer: Json = self._session.call("GET", f"/networks/{segment(ref)}", query={"verbose": verbose or None})
        return answer
