"""Dockerfile instructions applied to an image's config."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.engine.changes import apply
from wherry.errors import InvalidArgument


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
        ("cmd echo $HOME", {"Cmd": ["/bin/sh", "-c", "echo $HOME"]}),
        ('ENTRYPOINT ["/init"]', {"Entrypoint": ["/init"]}),
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
    "change",
    ["RUN x", "FROM x", "COPY a b", "CMD", "ENV", "ENV A", "ENV =1", "LABEL x", "EXPOSE 0", "EXPOSE 70000", "EXPOSE x", "EXPOSE 9-8",
     "VOLUME [\"\"]", "STOPSIGNAL a b", "ONBUILD FROM x", "HEALTHCHECK FOO", "HEALTHCHECK --x=1 CMD a", "HEALTHCHECK --interval=x CMD a", "ENV 'x"],
)  # fmt: skip
def test_an_instruction_that_is_wrong_is_named(change: str) -> None:
    with pytest.raises(InvalidArgument):
        apply({}, [change])


def test_what_docker_does_not_take_as_a_change_is_refused_in_its_words() -> None:
    with pytest.raises(InvalidArgument, match=r"^RUN is not a valid change command$"):
        apply({}, ["RUN x"])
