"""Regular expressions as Go's: their syntax, their words, and that none takes long."""

from __future__ import annotations

import pytest

from wherry.errors import InvalidArgument
from wherry.wire import expressions


@pytest.mark.parametrize(
    ("expression", "text", "found"),
    [
        ("ow", "down", True),
        ("^/?up$", "/up", True),
        (r"\pL+\z", "é", True),
        ("[[:digit:]]", "a1", True),
        (r"\Qa.b\E", "axb", False),
        ("(?i)UP", "up", True),
        ("", "", True),
    ],
)
def test_the_syntax_is_gos(expression: str, text: str, found: bool) -> None:
    assert expressions.compile(expression)(text) is found


@pytest.mark.parametrize(
    "expression", ["(a+)+$", "(a|a)*=$", "(a*)*=$", "((a?){30}){30}b", "(.*)*(.*)*(.*)*x", "(\\w*\\w*)*-"]
)
def test_no_expression_takes_longer_than_its_text(expression: str) -> None:
    assert expressions.compile(expression)("a" * 2000 + "!") is False


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("(", "missing closing ): `(`"),
        (")", "unexpected ): `)`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("*a", "missing argument to repetition operator: `*`"),
        ("[a", "missing closing ]: `[a`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("\\", "trailing backslash at end of expression: ``"),
        (r"\q", r"invalid escape sequence: `\q`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?P<n", "invalid named capture: `(?P<n`"),
        ("\ud800", "invalid UTF-8"),
    ],
)
def test_what_is_wrong_is_said_in_gos_words(expression: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        expressions.compile(expression)
    assert str(raised.value) == f"error parsing regexp: {words}"


@pytest.mark.parametrize("expression", ["(((a{0,10}){0,10}){0,10}){0,2}" * 2000, r"\pL{999}" * 50])
def test_an_expression_that_would_fill_the_memory_is_refused(expression: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^error parsing regexp: "):
        expressions.compile(expression)


def test_values_of_a_filter_are_themselves_or_expressions() -> None:
    fits = expressions.any_of(["a(", "^b", "c"])
    assert [text for text in ("a(", "a", "bc", "ab", "xcx") if fits(text)] == ["a(", "bc", "xcx"]
    assert expressions.any_of(["("])("x") is False
