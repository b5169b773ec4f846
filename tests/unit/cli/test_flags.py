"""Flags mean what they mean to Docker's parser, and are refused in its words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli.flags import Flag, FlagError, Flags, go_quote, parse

TABLE = (
    Flag("all", short="a"),
    Flag("proxy", default=True),
    Flag("name", "string", short="n"),
    Flag("env", "list", short="e"),
    Flag("count", "int", short="c", default=-1),
    Flag("weight", "uint16"),
    Flag("memory", "bytes", short="m"),
    Flag("cpus", "decimal"),
    Flag("wait", "duration"),
    Flag("filter", "filter", short="f"),
    Flag("sysctl", "map"),
    Flag("platform", "strings"),
    Flag("gpus", "string", refused="give the devices with --device"),
)


def parsed(*words: str, interspersed: bool = True) -> tuple[Flags, list[str]]:
    values, rest, wants_help = parse(TABLE, words, interspersed=interspersed)
    assert not wants_help
    return values, rest


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--name", "x"], "name", "x"),
        (["--name=x"], "name", "x"),
        (["--name="], "name", ""),
        (["-n", "x"], "name", "x"),
        (["-nx"], "name", "x"),
        (["-n=x"], "name", "x"),
        (["-an", "x"], "name", "x"),
        (["-anx"], "name", "x"),
        (["-a"], "all", True),
        (["--all=false"], "all", False),
        (["--proxy=F"], "proxy", False),
        (["-a=0"], "all", False),
        (["--name", "-a"], "name", "-a"),
        (["--name", "--"], "name", "--"),
        (["-e", "A=1", "--env=B", "-eC"], "env", ["A=1", "B", "C"]),
        (["-c", "-5"], "count", -5),
        (["-c0x10"], "count", 16),
        (["-c010"], "count", 8),
        ([], "count", -1),
        (["--weight", "65535"], "weight", 65535),
        (["-m", "1.5g"], "memory", 3 << 29),
        (["--cpus", "1.5"], "cpus", 1_500_000_000),
        (["--wait", "1m30s"], "wait", 90_000_000_000),
        (["-f", "a=b", "-f", "A=c=d", "-f", "x=y", "-f", ""], "filter", {"a": ["b", "c=d"], "x": ["y"]}),
        (["--sysctl", "a=b", "--sysctl", "c"], "sysctl", {"a": "b", "c": ""}),
        (["--platform", "a,b", "--platform", "c"], "platform", ["a", "b", "c"]),
    ],
)
def test_a_value_is_read_in_every_way_to_write_it(words: list[str], name: str, value: object) -> None:
    values, rest = parsed(*words)
    assert values.value(name) == value
    assert values.given(name) == bool(words)
    assert rest == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-ax"], "unknown shorthand flag: 'x' in -ax"),
        (["--name"], "flag needs an argument: --name"),
        (["-n"], "flag needs an argument: 'n' in -n"),
        (["-an"], "flag needs an argument: 'n' in -an"),
        (["--=x"], "bad flag syntax: --=x"),
        (["---name"], "bad flag syntax: ---name"),
        (["-a=x"], 'invalid argument "x" for "-a, --all" flag: strconv.ParseBool: parsing "x": invalid syntax'),
        (["-c", "x"], 'invalid argument "x" for "-c, --count" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (
            ["-c", str(1 << 63)],
            f'invalid argument "{1 << 63}" for "-c, --count" flag: strconv.ParseInt: parsing "{1 << 63}": value out of range',
        ),
        (
            ["--weight", "-1"],
            'invalid argument "-1" for "--weight" flag: strconv.ParseUint: parsing "-1": invalid syntax',
        ),
        (
            ["--weight", "65536"],
            'invalid argument "65536" for "--weight" flag: strconv.ParseUint: parsing "65536": value out of range',
        ),
        (["-m", "5x"], 'invalid argument "5x" for "-m, --memory" flag: invalid suffix: \'x\''),
        (["--cpus", "x"], 'invalid argument "x" for "--cpus" flag: failed to parse x as a rational number'),
        (["--wait", "5"], 'invalid argument "5" for "--wait" flag: time: missing unit in duration "5"'),
        (["-f", "x"], 'invalid argument "x" for "-f, --filter" flag: bad format of filter (expected name=value)'),
        (["--gpus", "all"], "--gpus is not supported by wherry: give the devices with --device"),
    ],
)
def test_a_wrong_command_line_is_refused_in_dockers_words(words: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parsed(*words)
    assert str(caught.value) == message


def test_flags_stand_before_and_after_arguments() -> None:
    values, rest = parsed("one", "-a", "two", "--", "-n", "--all")
    assert values.on("all")
    assert rest == ["one", "two", "-n", "--all"]


def test_without_interspersing_the_first_argument_ends_the_flags() -> None:
    values, rest = parsed("-a", "busybox", "ls", "-a", "--nope", interspersed=False)
    assert values.on("all")
    assert rest == ["busybox", "ls", "-a", "--nope"]


def test_a_single_dash_is_an_argument() -> None:
    assert parsed("-")[1] == ["-"]


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["-a", "--help"], ["x", "-h"]])
def test_help_is_asked_for(words: list[str]) -> None:
    assert parse(TABLE, words)[2]


def test_two_command_lines_do_not_share_lists() -> None:
    parsed("-e", "A=1")
    assert parsed()[0].items("env") == []


@given(st.lists(st.text(min_size=1), max_size=6))
def test_every_command_line_is_parsed_or_refused(words: list[str]) -> None:
    try:
        parse(TABLE, words)
    except FlagError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", '"plain"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("tab\tline\n", '"tab\\tline\\n"'),
        ("\x00\x7f", '"\\x00\\x7f"'),
        ("é中", '"é中"'),
        ("\u200b", '"\\u200b"'),
        ("\udcff", '"\\xff"'),
    ],
)
def test_strings_are_quoted_as_go_quotes_them(text: str, quoted: str) -> None:
    assert go_quote(text) == quoted
