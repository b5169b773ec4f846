"""Terminals from a devpts mount."""

from __future__ import annotations

import os

import pytest

from wherry.errors import FailedPrecondition, SyscallError
from wherry.linux import pty


@pytest.fixture
def devpts() -> int:
    if not os.path.exists("/dev/pts/ptmx") or not os.access("/dev/pts/ptmx", os.R_OK | os.W_OK):
        pytest.skip("needs root")
    return os.open("/dev/pts", os.O_PATH)


def test_both_ends_talk_and_know_their_size(devpts: int) -> None:
    master, peer = pty.open_pair(devpts)
    pty.resize(master, 100, 30)
    assert pty.size(peer) == (100, 30)
    os.write(peer, b"out\n")
    assert os.read(master, 10) == b"out\r\n"
    for fd in (master, peer, devpts):
        os.close(fd)


def test_anything_else_than_a_multiplexer_is_refused(tmp_path: os.PathLike[str]) -> None:
    directory = os.open(tmp_path, os.O_PATH)
    os.close(os.open(f"{os.fspath(tmp_path)}/ptmx", os.O_CREAT))
    with pytest.raises(FailedPrecondition, match="multiplexer"):
        pty.open_pair(directory)
    with pytest.raises(SyscallError):
        pty.open_pair(directory, "missing")
    os.close(directory)
