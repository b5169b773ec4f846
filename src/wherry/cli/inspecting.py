"""`inspect` in all its forms: objects fetched by name, printed as JSON or by a template."""

from __future__ import annotations

from wherry.errors import InvalidArgument, NotFound, WherryError

from .command import CliError
from .main import describe
from .template_functions import json_text, pretty_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .app import App
    from .template import Template


def inspect(app: App, names: Sequence[str], form: str, fetch: Callable[[str], Any]) -> int:
    """Prints what `fetch` gives for each name; names that fail are told at the end, with exit code 1. 64 for a template that is none."""
    if form not in ("", "json"):
        _parse(form)
    objects: list[Any] = []
    problems: list[str] = []
    for name in names:
        try:
            objects.append(fetch(name))
        except NotFound as error:
            problems.append(describe(error))
            if form:
                continue
        except WherryError as error:
            problems.append(describe(error))
            break
    try:
        app.out(_text(objects, form))
    except InvalidArgument:
        app.out("\n")
        raise
    if problems:
        raise CliError("\n".join(problems))
    return 0


def _text(objects: list[Any], form: str) -> str:
    if form == "":
        return pretty_json(objects) + "\n"
    if form == "json":
        return json_text(objects) + "\n"
    from .template import TemplateError

    parsed = _parse(form)
    lines: list[str] = []
    for item in objects:
        try:
            lines.append(parsed.execute(item))
        except TemplateError as error:
            raise InvalidArgument(f"template parsing error: {error}") from None
    return "".join(line + "\n" for line in lines) or "\n"


def _parse(form: str) -> Template:
    from .template import TemplateError, parse

    try:
        return parse(form)
    except TemplateError as error:
        raise CliError(f"template parsing error: {error}", 64) from None
