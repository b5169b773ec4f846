"""Verbs that do one thing to each of several objects: a name is printed when it is done, an error when it is not. Exit code 1 after any error."""

from __future__ import annotations

from wherry.errors import NotFound, WherryError

from .main import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .app import App


def for_each(app: App, names: Iterable[str], act: Callable[[str], object], *, forgive_missing: bool = False) -> int:
    """Runs `act` for each name. With `forgive_missing`, an object that is not there is told but is no failure."""
    failed = 0
    for name in names:
        try:
            act(name)
        except WherryError as error:
            app.err(describe(error) + "\n")
            if not (forgive_missing and isinstance(error, NotFound)):
                failed = 1
        else:
            app.out(name + "\n")
    return failed
