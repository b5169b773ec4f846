"""What wherry-runc keeps on disk: names that are safe, states that are read back, damage that is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, WherryError
from wherry.runtime import state as states


@pytest.fixture
def state(tmp_path: Path) -> states.State:
    made = states.make(str(tmp_path / "root"), "box")
    made.pid, made.start, made.oci_version = os.getpid(), states.start_time(os.getpid()) or 0, "1.0.2"
    made.bundle, made.created, made.cgroup_paths = "/b", "2026-01-01T00:00:00Z", {"memory": "/sys/fs/cgroup/memory/x"}
    Path(made.directory, "config.json").write_text('{"annotations": null}')
    made.save()
    return made


def test_what_is_saved_is_loaded(state: states.State, tmp_path: Path) -> None:
    loaded = states.load(str(tmp_path / "root"), "box")
    assert all(getattr(loaded, name) == getattr(state, name) for name in states.State.__slots__)


def test_only_the_owner_may_look(state: states.State) -> None:
    assert os.stat(state.directory).st_mode & 0o777 == 0o700
    assert os.stat(f"{state.directory}/state.json").st_mode & 0o777 == 0o600


def test_an_id_is_taken_once(state: states.State, tmp_path: Path) -> None:
    with pytest.raises(AlreadyExists, match="already exists"):
        states.make(str(tmp_path / "root"), "box")


def test_a_fifo_means_created_and_no_process_means_stopped(state: states.State) -> None:
    os.mkfifo(f"{state.directory}/{states.FIFO}")
    assert state.status() == states.CREATED
    state.start += 1
    assert state.status() == states.STOPPED
    assert state.pidfd() is None


def test_a_zombie_is_stopped(state: states.State) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert states.start_time(pid) is None
    os.waitpid(pid, 0)


def test_the_report_has_what_the_specification_asks_for(state: states.State) -> None:
    os.mkfifo(f"{state.directory}/{states.FIFO}")
    report = state.report(state.config())
    assert {
        "ociVersion": "1.0.2",
        "id": "box",
        "status": "created",
        "pid": os.getpid(),
        "bundle": "/b",
    }.items() <= report.items()
    assert "annotations" not in report


def test_every_container_but_half_made_ones_is_listed(state: states.State, tmp_path: Path) -> None:
    states.make(str(tmp_path / "root"), "half")
    (tmp_path / "root/.seccomp").mkdir()
    assert [found.id for found in states.every(str(tmp_path / "root"))] == ["box"]
    assert states.every(str(tmp_path / "nowhere")) == []


def test_removal_takes_the_directory(state: states.State) -> None:
    state.remove()
    state.remove()
    assert not os.path.exists(state.directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 9}', '{"format": 1}', '"x"'])
def test_a_damaged_state_is_data_loss(state: states.State, tmp_path: Path, text: str) -> None:
    Path(state.directory, "state.json").write_text(text)
    with pytest.raises(DataLoss, match="damaged"):
        states.load(str(tmp_path / "root"), "box")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", "a\0", "ü", "x" * 1025, "-\n"])
def test_what_is_no_id_is_refused(tmp_path: Path, name: str) -> None:
    for call in (states.make, states.load):
        with pytest.raises(InvalidArgument, match=r"container id|container ID"):
            call(str(tmp_path), name)


@given(st.text(max_size=12))
def test_no_id_leaves_the_root(name: str) -> None:
    try:
        states.check_id(name)
    except InvalidArgument:
        return
    assert os.path.dirname(os.path.normpath(f"/root/{name}")) == "/root"


def test_a_missing_container_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="container does not exist"):
        states.load(str(tmp_path), "none")


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"[" * 100_000, b'{"a": 1} x', b"[1]"])
def test_a_configuration_is_one_json_object(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        states.read_config(str(tmp_path / "config.json"))


def test_a_fifo_in_the_place_of_a_configuration_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(WherryError):
        states.read_config(str(tmp_path / "config.json"))


def test_a_file_is_replaced_as_a_whole_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "file").symlink_to("target")
    states.write_file(str(tmp_path / "file"), b"new")
    assert ((tmp_path / "file").read_text(), (tmp_path / "target").read_text()) == ("new", "old")
    assert sorted(os.listdir(tmp_path)) == ["file", "target"]
