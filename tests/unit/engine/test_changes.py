"""Dockerfile instructions applied to an image's config."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine.changes import apply
from wherry.errors import InvalidArgument


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
        ("cmd echo $HOME", {"Cmd": ["/bin/sh", "-c", "echo $HOME"]}),
        ('ENTRYPOINT ["/init"]', {"Entrypoint": ["/init"], "Cmd": None}),
        ("CMD []", {"Cmd": []}),
        ("CMD", {"Cmd": ["/bin/sh", "-c"]}),
        ("CMD ['a']", {"Cmd": ["/bin/sh", "-c", "['a']"]}),
        ('CMD ["a"] b', {"Cmd": ["/bin/sh", "-c", '["a"] b']}),
        ("CMD [NaN]", {"Cmd": ["/bin/sh", "-c", "[NaN]"]}),
        ('CMD\t["\\u0041", "\\ud800"]', {"Cmd": ["A", "\ufffd"]}),
        ("CMD a \\", {"Cmd": ["/bin/sh", "-c", "a"]}),
        ("CMD a \\\n# between\n\n  b", {"Cmd": ["/bin/sh", "-c", "a   b"]}),
        ("ENTRYPOINT []", {"Entrypoint": None, "Cmd": None}),
        ("ENTRYPOINT", {"Entrypoint": None, "Cmd": None}),
        ('ENTRYPOINT [""]', {"Entrypoint": [""], "Cmd": None}),
        ('VOLUME ["/a"', {"Volumes": {"[/a": {}}}),
        (
            "EXPOSE 0 127.0.0.1:8080:80 9000-9001:90-91/udp",
            {"ExposedPorts": {p: {} for p in ("0/tcp", "80/tcp", "90/udp", "91/udp")}},
        ),
        ("LABEL a=b\\", {"Labels": {"a": "b"}}),
        ("HEALTHCHECK -- CMD a", {"Healthcheck": {"Test": ["CMD-SHELL", "a"]}}),
        (
            "HEALTHCHECK --interval=.5s --timeout=+1s --retries=0 CMD a",
            {"Healthcheck": {"Test": ["CMD-SHELL", "a"], "Interval": 500_000_000, "Timeout": 1_000_000_000}},
        ),
        ("ENV A=1 B=\"two words\" C='3'", {"Env": ["P=/bin", "A=1", "B=two words", "C=3"]}),
        ("ENV P new value", {"Env": ["P=new value"]}),
        (
            "EXPOSE 80 53/udp 8000-8002/TCP",
            {"ExposedPorts": {p: {} for p in ("80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp")}},
        ),
        ('LABEL a=1 "b c"=2', {"Labels": {"a": "1", "b c": "2"}}),
        ("USER app:app", {"User": "app:app"}),
        ('VOLUME ["/a", "/b"]', {"Volumes": {"/a": {}, "/b": {}}}),
        ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ("WORKDIR /a", {"WorkingDir": "/a"}),
        ("WORKDIR x/../y", {"WorkingDir": "/y"}),
        ("STOPSIGNAL SIGINT", {"StopSignal": "SIGINT"}),
        ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x",
            {"Healthcheck": {"Interval": 90_000_000_000, "Retries": 3, "Test": ["CMD-SHELL", "curl x"]}},
        ),
        ('HEALTHCHECK CMD ["a"]', {"Healthcheck": {"Test": ["CMD", "a"]}}),
        ("# nothing\n\nUSER \\\n x", {"User": "x"}),
    ],
)
def test_an_instruction_changes_its_field_only(change: str, result: dict[str, Any]) -> None:
    base = {"Env": ["P=/bin"], "Kept": 1}
    assert apply(base, [change]) == {**base, **result}
    assert base == {"Env": ["P=/bin"], "Kept": 1}


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("ENV P=$P:/opt Q=$P", {"Env": ["P=/bin:/opt", "A=1", "Q=/bin"]}),
        ("ENV P ${P}:$A  x", {"Env": ["P=/bin:1  x", "A=1"]}),
        ("ENV X=2 Y=$X", {"Env": ["P=/bin", "A=1", "X=2", "Y="]}),
        ("ENV Q='$A' R=\"$A\" S=\\$A", {"Env": ["P=/bin", "A=1", "Q=$A", "R=1", "S=$A"]}),
        ("ENV X=${A:+y} Y=${no:+z}w Z=${no:-$A}", {"Env": ["P=/bin", "A=1", "X=y", "Y=w", "Z=1"]}),
        ("ENV X=$ Y=a$$b Z=$1a", {"Env": ["P=/bin", "A=1", "X=$", "Y=ab", "Z=a"]}),
        ('ENV X="a\\"b" Y=a\\ b Z="a\\\\b"', {"Env": ["P=/bin", "A=1", 'X=a"b', "Y=a b", "Z=a\\b"]}),
        ('ENV X=\'a"b\'c"d" é=é$A', {"Env": ["P=/bin", "A=1", 'X=a"bcd', "é=é1"]}),
        ("LABEL $A='$A'", {"Labels": {"1": "$A"}}),
        ("EXPOSE 8$A/udp $no", {"ExposedPorts": {"81/udp": {}}}),
        ('VOLUME ["/v$A"]', {"Volumes": {"/v1": {}}}),
        ('WORKDIR "/a $A"', {"WorkingDir": "/a 1"}),
        ("USER '$A'$A", {"User": "$A1"}),
        ('CMD ["$A"]', {"Cmd": ["$A"]}),
        ("HEALTHCHECK CMD x $A", {"Healthcheck": {"Test": ["CMD-SHELL", "x $A"]}}),
        ("ONBUILD RUN x $A", {"OnBuild": ["RUN x $A"]}),
    ],
)
def test_variables_are_the_configs_own_environment(change: str, result: dict[str, Any]) -> None:
    base = {"Env": ["P=/bin", "A=1"]}
    assert apply(base, [change]) == {**base, **result}


def test_a_new_entrypoint_takes_the_old_ones_command_away() -> None:
    base = {"Cmd": ["old"]}
    assert apply(base, ['ENTRYPOINT ["/e"]']) == {"Entrypoint": ["/e"], "Cmd": None}
    assert apply(base, ["CMD []", 'ENTRYPOINT ["/e"]']) == {"Entrypoint": ["/e"], "Cmd": None}
    assert apply(base, ['ENTRYPOINT ["/e"]', 'CMD ["new"]']) == {"Entrypoint": ["/e"], "Cmd": ["new"]}
    assert apply(base, ['CMD ["new"]', 'ENTRYPOINT ["/e"]']) == {"Entrypoint": ["/e"], "Cmd": ["new"]}


def test_the_shell_form_is_for_the_images_own_shell() -> None:
    assert apply({"Shell": ["/bin/ash", "-ec"]}, ["CMD x"])["Cmd"] == ["/bin/ash", "-ec", "x"]


@given(
    st.sampled_from(("ENV X=", "HEALTHCHECK --", "VOLUME ", "CMD [")), st.text(alphabet="a$A{}:+-?'\"\\ =", max_size=40)
)
def test_any_words_are_read_or_refused(start: str, text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        apply({"Env": ["A=1"]}, [start + text])


@pytest.mark.parametrize("start", ["ENV a=", "HEALTHCHECK --", "EXPOSE ", "VOLUME "])
@pytest.mark.parametrize("piece", ["'a", '"a', "'a\"", "\\", "-- ", "${A"])
def test_long_words_are_read_once(start: str, piece: str) -> None:
    with contextlib.suppress(InvalidArgument):
        apply({}, [start + piece * 50_000 + "\\"])


@pytest.mark.parametrize(
    "change",
    ["ENV X=${A", "ENV X=${no:?msg}", "ENV X=${A#1}", "ENV X=${A:0}", "ENV X=${}", "ENV X=" + "${A+" * 100_000, 'LABEL "m=x"', "ENV X='",
     "WORKDIR $no",
     "RUN x", "FROM x", "COPY a b", "ENV", "ENV A", "ENV =1", "LABEL x", "EXPOSE 1:2:3:4", "EXPOSE 70000", "EXPOSE x", "EXPOSE 9-8",
     "VOLUME [\"\"]", "STOPSIGNAL a b", "ONBUILD FROM x", "HEALTHCHECK FOO", "HEALTHCHECK --x=1 CMD a", "HEALTHCHECK --interval=x CMD a", "ENV 'x"],
)  # fmt: skip
def test_an_instruction_that_is_wrong_is_named(change: str) -> None:
    with pytest.raises(InvalidArgument):
        apply({}, [change])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("", "file with no instructions"),
        ("# only this", "file with no instructions"),
        ("bogus x", "bogus is not a valid change command"),
        ('CMD ["a", 1]', "when using JSON array syntax, arrays must be comprised of strings only"),
        ("VOLUME [null]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ("USER", "USER requires exactly one argument"),
        ('WORKDIR ""', "cannot normalize nothing"),
        ("CMD --x=1 a", "unknown flag: --x"),
        ("STOPSIGNAL SIGFOO", "invalid signal: SIGFOO"),
        ("ENV =b", "ENV names can not be blank"),
        ("LABEL a", "LABEL must have two arguments"),
        ('ENV a="x', 'failed to process "\\"x": unexpected end of statement while looking for matching double-quote'),
        ("ENV a=${NO?}", 'failed to process "${NO?}": NO: is not allowed to be unset'),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("EXPOSE 80/foo", "invalid proto: foo"),
        ("HEALTHCHECK CMD []", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK --interval=1us CMD a", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --interval=-1s CMD a", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --interval=1s --interval=2s CMD a", "duplicate flag specified: --interval"),
        ("HEALTHCHECK --interval 5s CMD a", "missing a value on flag: --interval"),
        ("HEALTHCHECK --retries=-1 CMD a", "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --retries=x CMD a", 'strconv.ParseInt: parsing "x": invalid syntax'),
    ],
)
def test_what_is_wrong_is_said_in_dockerds_words(change: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        apply({}, [change])
    assert str(raised.value) == words


def test_changes_are_lines_of_one_file() -> None:
    assert apply({}, ["CMD a \\", "b"]) == {"Cmd": ["/bin/sh", "-c", "a b"]}
    assert apply({"Cmd": ["x"]}, []) == {"Cmd": ["x"]}
