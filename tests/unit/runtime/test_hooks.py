"""Hooks: parsed before the fork, told the state, their failures put into words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wherry.errors import InvalidArgument, StartError
from wherry.runtime import hooks


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_state_is_what_the_specification_says() -> None:
    state = json.loads(hooks.state({"ociVersion": "1.0.2", "annotations": {"a": "b"}}, "c1", "creating", 42, "/bundle"))
    assert state == {
        "ociVersion": "1.0.2",
        "id": "c1",
        "status": "creating",
        "pid": 42,
        "bundle": "/bundle",
        "annotations": {"a": "b"},
    }


def test_a_hook_gets_state_arguments_and_its_own_environment_only(tmp_path: Path) -> None:
    path = script(tmp_path / "hook", f'cat > {tmp_path}/state; echo "$0 $1 $X" > {tmp_path}/said; env > {tmp_path}/env')
    parsed = hooks.parse({"prestart": [{"path": path, "args": ["zero", "one"], "env": ["X=y"]}]})
    hooks.run(parsed["prestart"], b'{"id":"c1"}')
    assert (tmp_path / "state").read_text() == '{"id":"c1"}'
    assert (tmp_path / "said").read_text().split()[1:] == ["one", "y"]
    assert "HOME=" not in (tmp_path / "env").read_text()


def test_failures_name_the_hook_and_what_it_said(tmp_path: Path) -> None:
    good, bad = script(tmp_path / "good", "exit 0"), script(tmp_path / "bad", "echo because >&2; exit 9")
    with pytest.raises(StartError, match="error running poststop hook #1: exit status 9, stderr: because"):
        hooks.run(hooks.parse({"poststop": [{"path": good}, {"path": bad}]})["poststop"], b"{}")
    with pytest.raises(StartError, match=r"exit status 127, stderr: execve /no/such: no such file"):
        hooks.run(hooks.parse({"poststop": [{"path": "/no/such"}]})["poststop"], b"{}")
    with pytest.raises(StartError, match="signal: terminated"):
        killed = script(tmp_path / "killed", "kill -TERM $$")
        hooks.run(hooks.parse({"poststop": [{"path": killed}]})["poststop"], b"{}")


def test_a_hook_that_reads_nothing_and_talks_much_does_not_block(tmp_path: Path) -> None:
    path = script(tmp_path / "hook", "exec 0</dev/null; head -c 1000000 /dev/zero >&2")
    hooks.run(hooks.parse({"prestart": [{"path": path}]})["prestart"], b"x" * 1_000_000)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"prestart": [{"path": "relative"}]}, "relative"),
        ({"prestart": [{"path": "/x", "timeout": 0}]}, "timeout"),
        ({"sometime": [{"path": "/x"}]}, "sometime"),
    ],
)
def test_what_is_wrong_is_named(section: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        hooks.parse(section)  # type: ignore[arg-type]
