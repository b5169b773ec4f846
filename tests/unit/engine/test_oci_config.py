from __future__ import annotations

from typing import Any

import pytest

from wherry.engine import oci_config, security
from wherry.engine.oci_config import Surroundings
from wherry.engine.records import MountPoint, Record
from wherry.errors import InvalidArgument
from wherry.spec.ids import ContainerId, ImageId
from wherry.wire.engine import ContainerConfig, HostConfig, Ulimit


def record(config: ContainerConfig | None = None, mounts: list[MountPoint] | None = None, **host: Any) -> Record:
    return Record(
        id=ContainerId("c" * 64),
        name="web",
        created_ns=1,
        image=ImageId("sha256:" + "0" * 64),
        image_ref="busybox",
        config=config or ContainerConfig(hostname="web", working_dir="/"),
        host_config=HostConfig(**host),
        path="sh",
        args=["-c", "true"],
        mounts=mounts or [],
    )


def around(**changes: Any) -> Surroundings:
    values: dict[str, Any] = {
        "hostname_file": "/c/hostname",
        "hosts_file": "/c/hosts",
        "resolv_conf_file": "/c/resolv.conf",
        "cgroups_path": "/wherry/c",
        "network_path": None,
        "host_network": False,
    }
    return Surroundings(**(values | changes))


def namespaces(config: Any) -> dict[str, str]:
    return {space["type"]: space.get("path", "") for space in config["linux"]["namespaces"]}


def mounts(config: Any) -> dict[str, Any]:
    return {mount["destination"]: mount for mount in config["mounts"]}


def test_by_default_everything_is_the_containers_own() -> None:
    config = oci_config.build(record(), around())
    assert set(namespaces(config)) == {"mount", "pid", "ipc", "uts", "network", "cgroup"}
    assert config["process"]["capabilities"]["bounding"] == sorted(
        security.DEFAULT_CAPABILITIES, key=lambda name: security.capabilities.NUMBER[name]
    )
    assert "inheritable" not in config["process"]["capabilities"]  # CVE-2022-24769
    assert "ro" in mounts(config)["/sys"]["options"] and "ro" in mounts(config)["/sys/fs/cgroup"]["options"]
    assert "/proc/kcore" in config["linux"]["maskedPaths"] and "/proc/sys" in config["linux"]["readonlyPaths"]


def test_host_modes_leave_their_namespace_out() -> None:
    config = oci_config.build(record(pid_mode="host", ipc_mode="host", uts_mode="host"), around(host_network=True))
    assert set(namespaces(config)) == {"mount", "cgroup"}
    assert "hostname" not in config and "sysctl" not in config["linux"]


def test_joined_namespaces_have_their_path() -> None:
    config = oci_config.build(
        record(pid_mode="container:x"), around(pid_path="/proc/7/ns/pid", network_path="/proc/7/ns/net")
    )
    assert namespaces(config)["pid"] == "/proc/7/ns/pid" and namespaces(config)["network"] == "/proc/7/ns/net"


def test_privileged_takes_the_fences_away() -> None:
    config = oci_config.build(record(privileged=True), around())
    assert config["linux"]["maskedPaths"] == [] == config["linux"]["readonlyPaths"]
    assert config["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert set(config["process"]["capabilities"]["bounding"]) == security.available()


def test_capabilities_added_and_dropped() -> None:
    config = oci_config.build(record(cap_add=["net_admin"], cap_drop=["CAP_CHOWN", "mknod"]), around())
    names = config["process"]["capabilities"]["bounding"]
    assert "CAP_NET_ADMIN" in names and "CAP_CHOWN" not in names and "CAP_MKNOD" not in names
    assert oci_config.build(record(cap_drop=["ALL"]), around())["process"]["capabilities"]["bounding"] == []


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(InvalidArgument, match='invalid CapAdd: unknown capability: "CAP_FLY"'):
        oci_config.build(record(cap_add=["FLY"]), around())


def test_environment_has_path_hostname_and_a_terminals_type() -> None:
    config = ContainerConfig(hostname="web", working_dir="/", tty=True, env=["A=1"])
    assert oci_config.build(record(config), around())["process"]["env"] == [
        oci_config.DEFAULT_PATH,
        "HOSTNAME=web",
        "TERM=xterm",
        "A=1",
    ]


def test_a_users_mount_replaces_the_default_one() -> None:
    point = MountPoint(type="tmpfs", source="", destination="/dev/shm", options=("size=1m",))
    found = [
        mount
        for mount in oci_config.build(record(mounts=[point]), around())["mounts"]
        if mount["destination"] == "/dev/shm"
    ]
    assert len(found) == 1 and "size=1m" in found[0]["options"]


def test_a_read_only_bind_is_so_all_the_way_down() -> None:
    point = MountPoint(type="bind", source="/srv", destination="/srv", read_only=True, propagation="rslave")
    config = oci_config.build(record(mounts=[point]), around())
    assert mounts(config)["/srv"]["options"] == ["rbind", "rro", "rslave"]
    assert config["linux"]["rootfsPropagation"] == "rslave"


def test_volumes_come_from_their_directory() -> None:
    point = MountPoint(type="volume", source="", destination="/data", name="v")
    config = oci_config.build(record(mounts=[point]), around(volume_paths={"v": "/vol/v/_data"}))
    assert mounts(config)["/data"]["source"] == "/vol/v/_data"


def test_shm_size_and_ulimits() -> None:
    config = oci_config.build(
        record(shm_size=1 << 20, ulimits=[Ulimit(name="nofile", soft=10, hard=20)]),
        around(default_ulimits=(Ulimit(name="nofile", soft=1, hard=1), Ulimit(name="core", soft=-1, hard=-1))),
    )
    assert "size=1048576" in mounts(config)["/dev/shm"]["options"]
    assert config["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20},
        {"type": "RLIMIT_CORE", "soft": 2**64 - 1, "hard": 2**64 - 1},
    ]


def test_init_runs_the_program_as_its_child() -> None:
    config = oci_config.build(record(), around(init_binary="/usr/bin/tini"))
    assert config["process"]["args"] == ["/sbin/docker-init", "--", "sh", "-c", "true"]
    assert mounts(config)["/sbin/docker-init"]["source"] == "/usr/bin/tini"


@pytest.mark.parametrize("option", ["no-such-thing", "seccomp", "no-new-privileges=maybe", "label=type:x", "apparmor"])
def test_a_security_option_that_cannot_be_carried_out_is_refused(option: str) -> None:
    with pytest.raises(InvalidArgument):
        oci_config.build(record(security_opt=[option]), around())


@pytest.mark.parametrize("option", ["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"])
def test_no_new_privileges(option: str) -> None:
    assert oci_config.build(record(security_opt=[option]), around())["process"]["noNewPrivileges"] is True


def test_a_mount_on_etc_does_not_hide_the_engines_files() -> None:
    point = MountPoint(type="volume", source="", destination="/etc", name="v")
    config = oci_config.build(record(mounts=[point]), around(volume_paths={"v": "/vol/v/_data"}))
    order = [mount["destination"] for mount in config["mounts"]]
    assert order.index("/etc") < order.index("/etc/hosts")


def test_the_users_own_hosts_file_replaces_the_engines() -> None:
    point = MountPoint(type="bind", source="/srv/hosts", destination="/etc/hosts")
    config = oci_config.build(record(mounts=[point]), around())
    sources = [mount["source"] for mount in config["mounts"] if mount["destination"] == "/etc/hosts"]
    assert sources == ["/srv/hosts"]
