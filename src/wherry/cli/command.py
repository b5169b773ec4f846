"""What a verb's module declares: its arguments, flags and examples; and the ways a verb ends."""

from __future__ import annotations

from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .app import App
    from .flags import Flag, Flags


class Command:
    """A verb. `run(app, flags, arguments)` returns the exit code; `at_least` and `at_most` bound the number of arguments.

    `fails_with` is the exit code of a failure: 1, or 125 for the verbs whose other codes are the container's own.
    """

    __slots__ = ("arguments", "at_least", "at_most", "examples", "fails_with", "flags", "interspersed", "run")

    def __init__(
        self,
        run: Callable[[App, Flags, list[str]], int],
        *,
        arguments: str = "",
        flags: Sequence[Flag] = (),
        at_least: int = 0,
        at_most: int | None = None,
        interspersed: bool = True,
        fails_with: int = 1,
        examples: Sequence[str] = (),
    ) -> None:
        self.run = run
        self.arguments = arguments
        self.flags = flags
        self.at_least = at_least
        self.at_most = at_most
        self.interspersed = interspersed
        self.fails_with = fails_with
        self.examples = examples

    def usage(self, path: str) -> str:
        """One line: "wherry run [OPTIONS] IMAGE [COMMAND] [ARG...]"."""
        options = " [OPTIONS]" if any(not flag.hidden for flag in self.flags) else ""
        return f"wherry {path}{options}{' ' + self.arguments if self.arguments else ''}"

    def check_count(self, path: str, arguments: Sequence[str]) -> str:
        """What is wrong with the number of arguments, in Docker's words; "" if nothing."""
        low, high, count = self.at_least, self.at_most, len(arguments)
        if high == 0:
            return f"'wherry {path}' accepts no arguments" if count else ""
        if low == high:
            return "" if count == low else f"'wherry {path}' requires {low} {_plural(low)}"
        if count < low:
            return f"'wherry {path}' requires at least {low} {_plural(low)}"
        if high is not None and count > high:
            if low == 0:
                return f"'wherry {path}' requires at most {high} {_plural(high)}"
            return f"'wherry {path}' requires at least {low} and at most {high} {_plural(high)}"
        return ""


def _plural(count: int) -> str:
    return "argument" if count == 1 else "arguments"


class CliError(WherryError):
    """A verb fails: the text for stderr ("" for none) and the exit code."""

    def __init__(self, message: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
