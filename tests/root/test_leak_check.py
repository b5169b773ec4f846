"""The leak check itself finds what it must find: each kind of thing, made on purpose, is named; undone, nothing is."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from tests import leaks


@pytest.fixture
def watch(tmp_path: Path) -> leaks.Watch:
    return leaks.Watch(roots=(str(tmp_path),), file_roots=(str(tmp_path),))


def _found(watch: leaks.Watch, text: str) -> bool:
    return any(text in label for label in watch.what_is_left(wait_seconds=0))


def test_a_mount_is_found(watch: leaks.Watch, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    try:
        assert _found(watch, f"mount: {point} tmpfs")
    finally:
        subprocess.run(["umount", point], check=True)


def test_a_cgroup_is_found(watch: leaks.Watch) -> None:
    path = f"{leaks.cgroup_hierarchies()[0]}/wherry-leak-check-{os.getpid()}"
    os.mkdir(path)
    try:
        assert _found(watch, f"cgroup: {path}")
    finally:
        os.rmdir(path)


def test_a_link_is_found(watch: leaks.Watch) -> None:
    name = f"wl{os.getpid()}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        assert _found(watch, f"link: {name}")
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


def test_an_anonymous_network_namespace_and_its_orphaned_holder_are_found(watch: leaks.Watch) -> None:
    script = "unshare --net setsid sh -c 'echo $$; exec sleep 100' & wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        while Path(f"/proc/{orphan}/comm").read_text() != "sleep\n":
            time.sleep(0.01)
        parent.kill()
        parent.wait()
    try:
        assert _found(watch, "process: sleep 100")
        assert _found(watch, "network namespace held by sleep")
    finally:
        os.kill(orphan, 9)
        os.waitpid(orphan, 0)


@pytest.mark.requires("nftables")
def test_an_nftables_rule_is_found(watch: leaks.Watch) -> None:
    table = f"wherry_leak_check_{os.getpid()}"
    subprocess.run(["nft", "add", "table", "ip", table], check=True)
    try:
        assert _found(watch, f"nftables: {table}")
    finally:
        subprocess.run(["nft", "delete", "table", "ip", table], check=True)


def test_sockets_are_found(watch: leaks.Watch, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert _found(watch, f"unix socket: {path}")
    path.unlink()


def test_a_file_is_found(watch: leaks.Watch, tmp_path: Path) -> None:
    (tmp_path / "forgotten").touch()
    assert _found(watch, f"file: {tmp_path}/forgotten")
    (tmp_path / "forgotten").unlink()
    assert not watch.what_is_left()
