"""A probe's answer."""

from __future__ import annotations

OK, DEGRADED, MISSING = "ok", "degraded", "missing"


class Finding:
    """`status`: ok; degraded – wherry works, but not all of it; missing – the engine cannot work.

    `found` is what there is, `meaning` what follows from it, `remedy` what to do ("" when nothing is wrong).
    """

    __slots__ = ("found", "meaning", "name", "remedy", "status")

    def __init__(self, name: str, status: str, found: str, meaning: str = "", remedy: str = "") -> None:
        self.name = name
        self.status = status
        self.found = found
        self.meaning = meaning
        self.remedy = remedy

    def as_json(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("name", "status", "found", "meaning", "remedy")}


def ok(name: str, found: str) -> Finding:
    return Finding(name, OK, found)


def degraded(name: str, found: str, meaning: str, remedy: str) -> Finding:
    return Finding(name, DEGRADED, found, meaning, remedy)


def missing(name: str, found: str, meaning: str, remedy: str) -> Finding:
    return Finding(name, MISSING, found, meaning, remedy)
