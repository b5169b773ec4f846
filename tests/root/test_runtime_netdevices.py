"""Network devices of the host's that move into a container."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.runtime_lab import ID_MAP, NAMESPACES, Lab

from wherry.errors import StartError

pytestmark = pytest.mark.requires("root", "busybox")

TAG = f"{os.getpid() % 0xFFFF:x}"
IFF_UP = 1
DEVICE, PEER = f"wn{TAG}a", f"wn{TAG}b"


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def device() -> Iterator[str]:
    """One end of a veth pair that has addresses; the other end stays here."""
    ip("link", "add", DEVICE, "type", "veth", "peer", "name", PEER)
    ip("address", "add", "10.251.7.2/24", "broadcast", "10.251.7.255", "dev", DEVICE)
    ip("address", "add", "10.251.8.2/30", "scope", "link", "dev", DEVICE)
    ip("-6", "address", "add", "fd00:77::2/64", "dev", DEVICE, "nodad")
    ip("link", "set", DEVICE, "up")
    ip("link", "set", PEER, "up")
    yield DEVICE
    subprocess.run(["ip", "link", "delete", PEER], check=False, capture_output=True)


def moving(**names: str) -> dict[str, Any]:
    return {"netDevices": {DEVICE: names}}


def test_a_device_moves_with_its_permanent_global_addresses_and_is_up(lab: Lab, device: str) -> None:
    with lab.start("sleep", "100", linux=moving(name="eth7")) as box:
        shown = box.exec("ip", "addr", "show", "eth7").out
        assert "UP" in shown.splitlines()[0]
        assert "inet 10.251.7.2/24 brd 10.251.7.255 scope global eth7" in shown
        assert "inet6 fd00:77::2/64 scope global" in shown
        assert "10.251.8.2" not in shown
        assert device not in ip("-br", "link")
        assert PEER in ip("-br", "link")


@pytest.mark.parametrize(("names", "shown"), [({}, DEVICE), ({"name": "net%d"}, "net0")])
def test_a_device_keeps_its_name_or_is_numbered_by_the_kernel(
    lab: Lab, device: str, names: dict[str, str], shown: str
) -> None:
    result = lab.run("cat", f"/sys/class/net/{shown}/flags", linux=moving(**names))
    assert int(result.out, 16) & IFF_UP, result


@pytest.mark.requires("userns")
def test_a_device_moves_into_a_user_namespaces_network(lab: Lab, device: str) -> None:
    for directory, _, names in os.walk(lab.rootfs):
        for name in (directory, *(os.path.join(directory, name) for name in names)):
            os.chown(name, 100000, 100000, follow_symlinks=False)
    spaces = {
        "namespaces": [{"type": kind} for kind in (*NAMESPACES, "user")],
        "uidMappings": ID_MAP,
        "gidMappings": ID_MAP,
    }
    result = lab.run("ip", "addr", "show", device, linux={**spaces, **moving()})
    assert "10.251.7.2/24" in result.out, result.err


def test_a_device_moves_into_a_namespace_by_path(lab: Lab, device: str) -> None:
    with lab.start("sleep", "100") as first:
        spaces = [{"type": kind} for kind in NAMESPACES if kind != "network"]
        spaces.append({"type": "network", "path": f"/proc/{first.pid}/ns/net"})
        assert lab.run("true", linux={"namespaces": spaces, **moving(name="late")}).status == 0
        assert "10.251.7.2/24" in first.exec("ip", "addr", "show", "late").out


@pytest.mark.parametrize(
    ("linux", "words"),
    [
        (moving(name="lo"), f"linux.netDevices.{DEVICE}: .*file exists"),
        ({"netDevices": {"nonesuch0": {}}}, "linux.netDevices.nonesuch0: .*no such device"),
        ({"namespaces": [{"type": "mount"}, {"type": "uts"}], **moving()}, "without a NET namespace"),
        ({**moving(), "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "network", "path": "/proc/self/ns/net"}]},
         "without a NET namespace"),
    ],
)  # fmt: skip
def test_a_device_that_cannot_move_stays_and_is_named(lab: Lab, device: str, linux: dict[str, Any], words: str) -> None:
    with pytest.raises(StartError, match=words):
        lab.run("true", linux=linux)
    assert "10.251.7.2/24" in ip("-br", "address", "show", "dev", device)


def test_resctrl_that_is_not_mounted_is_said(lab: Lab) -> None:
    with pytest.raises(StartError, match="intelRdt is specified in config, but Intel RDT is not enabled"):
        lab.run("true", linux={"intelRdt": {}})
