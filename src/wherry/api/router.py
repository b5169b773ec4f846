"""From method and path to handler: three dictionary look-ups, whatever the number of routes.

A template is `/containers/json` or has one `{…}` as its second segment: `/containers/{id}/json`. The resources in `SLASHED` have names that
contain slashes (images: `registry:5000/team/app`); there the name is everything between the first segment and the suffix.

**Invariant**: the path is split at its slashes before it is percent-decoded, so an encoded slash never changes which route is meant.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from wherry.api.errors import MethodNotAllowed
from wherry.api.query import unescape
from wherry.errors import NotFound

if TYPE_CHECKING:
    from wherry.api.call import Call

Handler = Callable[["Call"], Awaitable[web.StreamResponse]]

SLASHED = frozenset({"images", "plugins", "distribution"})


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    template: str
    handler: Handler


_Methods = dict[str, Handler]


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, _Methods] = {}
        self._named: dict[str, _Methods] = {}
        for route in routes:
            parts = route.template.lstrip("/").split("/")
            named = len(parts) > 1 and parts[1].startswith("{")
            if named:
                parts[1] = "*"
            table = (self._named if named else self._exact).setdefault("/".join(parts), {})
            if route.method in table:
                raise ValueError(f"two routes for {route.method} {route.template}")
            table[route.method] = route.handler

    def resolve(self, method: str, path: str) -> tuple[Handler, str]:
        """The handler, and the decoded name in the path ("" where the template has none). NotFound, MethodNotAllowed."""
        path = path[1:] if path.startswith("/") else path
        allowed: set[str] = set()
        methods = self._exact.get(path)
        if methods is not None:
            handler = methods.get(method)
            if handler is not None:
                return handler, ""
            allowed.update(methods)
        parts = path.split("/")
        if len(parts) > 1:
            for key, raw_name in self._candidates(parts):
                methods = self._named.get(key)
                if methods is None or not raw_name:
                    continue
                handler = methods.get(method)
                if handler is not None:
                    return handler, unescape(raw_name)
                allowed.update(methods)
        if allowed:
            raise MethodNotAllowed(tuple(sorted(allowed)))
        raise NotFound("page not found")

    @staticmethod
    def _candidates(parts: list[str]) -> Iterable[tuple[str, str]]:
        first = parts[0]
        if first not in SLASHED:
            name = parts[1]
            parts[1] = "*"
            yield "/".join(parts), name
            return
        if len(parts) > 2:
            yield f"{first}/*/{parts[-1]}", "/".join(parts[1:-1])
        yield f"{first}/*", "/".join(parts[1:])
