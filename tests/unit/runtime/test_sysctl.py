"""Only parameters of a container's own namespaces, only plain names."""

from __future__ import annotations

import pytest

from wherry.errors import InvalidArgument
from wherry.runtime import sysctl

OWN = {"ipc", "network", "uts", "pid", "mount"}


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("kernel.shmmax", "kernel/shmmax"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ("kernel.domainname", "kernel/domainname"),
    ],
)
def test_a_parameter_of_its_own_namespaces(key: str, path: str) -> None:
    assert sysctl.check(key, own=OWN) == path


@pytest.mark.parametrize(
    "key",
    [
        "kernel.core_pattern", "kernel.hostname", "vm.overcommit_memory", "net/../kernel/core_pattern", "net.ipv4/../../kernel.core_pattern",
        "/net/ipv4/ip_forward", "net..ipv4", "", ".", "net.\0", "kernel.shmmax+kernel.core_pattern", "net", "fs.mqueue.",
    ],
)  # fmt: skip
def test_anything_else_is_refused(key: str) -> None:
    with pytest.raises(InvalidArgument):
        sysctl.check(key, own=OWN)


@pytest.mark.parametrize(
    ("key", "kind"), [("net.core.somaxconn", "network"), ("kernel.sem", "ipc"), ("kernel.domainname", "uts")]
)
def test_a_shared_namespace_is_named(key: str, kind: str) -> None:
    with pytest.raises(InvalidArgument, match=kind):
        sysctl.check(key, own=OWN - {kind})
