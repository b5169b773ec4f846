"""The parser takes what runc's does, and refuses by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry import errors
from wherry.errors import InvalidArgument
from wherry.runtime.cli import events, kill, main, options
from wherry.runtime.cli.options import Option

TABLE = (
    Option("bundle", "a path", short="b"),
    Option("tty", "a terminal", short="t", kind="switch"),
    Option("env", "a variable", short="e", kind="many"),
    Option("count", "how many", kind="number", default=0),
    Option("no-pivot", "never", kind="refused", default=False),
    Option("criu", "never", kind="refused"),
)


@pytest.mark.parametrize(
    ("words", "name", "value", "rest"),
    [
        (["--bundle", "x", "id"], "bundle", "x", ["id"]),
        (["-b", "x"], "bundle", "x", []),
        (["-bundle=x", "id"], "bundle", "x", ["id"]),
        (["--b=x"], "bundle", "x", []),
        (["--bundle="], "bundle", "", []),
        (["-t", "id"], "tty", True, ["id"]),
        (["--tty=false", "id"], "tty", False, ["id"]),
        (["-e", "A=1", "-e", "B=2", "id"], "env", ["A=1", "B=2"], ["id"]),
        (["--count", "-3"], "count", -3, []),
        (["id", "--tty"], "tty", False, ["id", "--tty"]),
        (["--", "--tty"], "tty", False, ["--tty"]),
        (["-", "x"], "tty", False, ["-", "x"]),
        (["--no-pivot=false", "id"], "no-pivot", False, ["id"]),
        (["-h"], "help", True, []),
    ],
)
def test_words_become_values(words: list[str], name: str, value: object, rest: list[str]) -> None:
    values, left = options.parse(TABLE, words)
    assert (values[name] if name != "no-pivot" else bool(values[name]), left) == (value, rest)


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        (["--nope"], InvalidArgument, "flag provided but not defined: -nope"),
        (["---tty"], InvalidArgument, "not defined"),
        (["--bundle"], InvalidArgument, "flag needs an argument: -bundle"),
        (["--tty=perhaps"], InvalidArgument, "invalid boolean value"),
        (["--count", "many"], InvalidArgument, "not a whole number"),
        (["--count", "9" * 40], InvalidArgument, "not a whole number"),
        (["--no-pivot"], errors.NotImplemented, "--no-pivot is not supported: never"),
        (["--criu", "x"], errors.NotImplemented, "--criu is not supported: never"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        options.parse(TABLE, words)


@given(st.lists(st.text(max_size=6) | st.sampled_from(["-b", "--env", "--tty=1", "--count=2", "--", "-"])))
def test_any_words_parse_or_are_refused(words: list[str]) -> None:
    try:
        _, rest = options.parse(TABLE, words)
    except (InvalidArgument, errors.NotImplemented):
        return
    assert words[len(words) - len(rest) :] == rest


def test_two_tables_do_not_share_their_lists() -> None:
    first, _ = options.parse(TABLE, ["-e", "A"])
    second, _ = options.parse(TABLE, [])
    assert (first["env"], second["env"]) == (["A"], [])


@pytest.mark.parametrize(
    ("text", "number"),
    [("512", 512), ("64m", 64 << 20), ("1.5GiB", 3 << 29), ("2kb", 2048), ("-1", -1), ("1 g", 1 << 30), ("0", 0)],
)
def test_sizes(text: str, number: int) -> None:
    assert options.size("--memory", text) == number


@pytest.mark.parametrize("text", ["", "x", "1x", "-2", "m", "1..5g", "１"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--memory"):
        options.size("--memory", text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN+3", 37), ("RTMAX", 64), ("usr1", 10), ("0", 0)],
)
def test_signals(text: str, number: int) -> None:
    assert kill.parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "65", "999", "-1", "NOPE", "RTMIN+99", "_DFL", "SIG_IGN", "KILL9", "RTMIN+", "SIGSIGKILL"]
)
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown signal"):
        kill.parse_signal(text)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("500ms", 0.5), ("1m", 60), ("1.5s", 1.5)])
def test_durations(text: str, seconds: float) -> None:
    assert events.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "0s", "-1s", "s", "1x"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--interval"):
        events.duration(text)


def test_every_verb_has_usage_examples_and_help(capfd: pytest.CaptureFixture[str]) -> None:
    for verb in main.VERBS:
        assert main.main([verb, "--help"]) == 0
        text = capfd.readouterr().out
        assert f"wherry-runc {verb}" in text
        assert "EXAMPLES" in text
