"""Namespaces by path, shared with the host, mapped users, shifted clocks."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.runtime_lab import ID_MAP, NAMESPACES, Lab, bind

from wherry.errors import StartError

USERNS = {
    "namespaces": [{"type": kind} for kind in (*NAMESPACES, "user")],
    "uidMappings": ID_MAP,
    "gidMappings": ID_MAP,
}


def sharing(pid: int, *kinds: str) -> list[dict[str, str]]:
    """The default namespaces, with `kinds` taken from process `pid`."""
    files = {"network": "net", "mount": "mnt"}
    entries = [{"type": kind} for kind in (*NAMESPACES, *(kind for kind in kinds if kind not in NAMESPACES))]
    for entry in entries:
        if entry["type"] in kinds:
            entry["path"] = f"/proc/{pid}/ns/{files.get(entry['type'], entry['type'])}"
    return entries


def without(*kinds: str) -> dict[str, Any]:
    return {"namespaces": [{"type": kind} for kind in NAMESPACES if kind not in kinds]}


def test_a_pid_namespace_by_path_is_shared(lab: Lab) -> None:
    with lab.start("sleep", "77") as first:
        result = lab.shell(
            "cat /proc/1/cmdline | tr '\\0' ' '; echo; kill -0 1 && echo reachable; test $$ -ne 1 && echo not first",
            linux={"namespaces": sharing(first.pid, "pid")},
        )
        assert result.lines == ["sleep 77 ", "reachable", "not first"], result.err


def test_exec_into_a_container_with_a_shared_pid_namespace(lab: Lab) -> None:
    with (
        lab.start("sleep", "77") as first,
        lab.start("sleep", "88", linux={"namespaces": sharing(first.pid, "pid")}) as second,
    ):
        assert "sleep 77" in second.exec("ps").out


def test_without_a_pid_namespace_the_hosts_processes_are_there(lab: Lab) -> None:
    result = lab.run("ls", "/proc", linux=without("pid"))
    assert str(os.getpid()) in result.lines
    with lab.start("sleep", "77", linux=without("pid")) as box:
        assert str(box.pid) in box.exec("ls", "/proc").lines


def test_network_ipc_and_uts_by_path(lab: Lab) -> None:
    with lab.start("sleep", "77") as first:
        first.exec("sh", "-c", "touch /dev/mqueue/x")
        config = lab.config(
            "sh", "-c", "hostname; for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; ls /dev/mqueue"
        )
        config["linux"]["namespaces"] = sharing(first.pid, "network", "ipc", "uts")
        config["hostname"] = ""
        result = lab.run_config(config)
        links = [os.readlink(f"/proc/{first.pid}/ns/{kind}") for kind in ("net", "ipc", "uts", "pid")]
    assert result.lines[:4] == ["box", *links[:3]]
    assert result.lines[4] != links[3]


def test_without_a_network_namespace_the_hosts_interfaces_are_there(lab: Lab) -> None:
    result = lab.run("ls", "/sys/class/net", linux=without("network"))
    assert result.lines == sorted(os.listdir("/sys/class/net"))


def test_a_hostname_without_a_namespace_for_it_is_refused(lab: Lab) -> None:
    with pytest.raises(StartError, match=r"hostname.*uts"):
        lab.run("true", linux=without("uts"))


def test_sysctls_of_a_shared_namespace_are_refused(lab: Lab) -> None:
    with pytest.raises(StartError, match=r"net.ipv4.ip_forward.*network"):
        lab.run("true", linux={**without("network"), "sysctl": {"net.ipv4.ip_forward": "1"}})


def test_a_path_that_is_another_kind_of_namespace_is_refused(lab: Lab) -> None:
    entries = [{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/proc/self/ns/ipc"}]
    with pytest.raises(StartError, match="/proc/self/ns/ipc is not a network namespace"):
        lab.run("true", linux={"namespaces": entries})
    entries[2]["path"] = "/etc/passwd"
    with pytest.raises(StartError, match="/etc/passwd is not a network namespace"):
        lab.run("true", linux={"namespaces": entries})
    entries[2]["path"] = "/no/such/file"
    with pytest.raises(StartError, match="/no/such/file: no such file"):
        lab.run("true", linux={"namespaces": entries})


def test_a_path_to_our_own_namespace_is_sharing_it(lab: Lab) -> None:
    entries = sharing(os.getpid(), "network", "ipc")
    assert lab.run("readlink", "/proc/self/ns/net", linux={"namespaces": entries}).out.strip() == os.readlink(
        "/proc/self/ns/net"
    )


@pytest.mark.requires("userns")
class TestUserNamespace:
    @pytest.fixture(autouse=True)
    def owned_by_the_mapped_root(self, lab: Lab) -> None:
        for directory, _, names in os.walk(lab.rootfs):
            for name in (directory, *(os.path.join(directory, name) for name in names)):
                os.chown(name, 100000, 100000, follow_symlinks=False)

    def test_root_inside_is_the_mapped_user_outside(self, lab: Lab, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        result = lab.shell(
            "id -u; cat /proc/self/uid_map; touch /mnt/mine; grep Groups /proc/self/status",
            linux=USERNS,
            mounts=[bind(tmp_path, "/mnt")],
        )
        assert result.lines[0] == "0", result.err
        assert result.lines[1].split() == ["0", "100000", "65536"]
        assert os.stat(tmp_path / "mine").st_uid == 100000

    def test_capabilities_hold_only_inside(self, lab: Lab, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("host root only\n")
        (tmp_path / "secret").chmod(0o600)
        capabilities = {
            kind: ["CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]
            for kind in ("bounding", "effective", "permitted")
        }
        config = lab.config(
            "sh",
            "-c",
            "cat /mnt/secret; grep CapEff /proc/self/status; mount -t tmpfs x /tmp && echo mounted",
            capabilities=capabilities,
            linux=USERNS,
            mounts=[bind(tmp_path, "/mnt")],
        )
        result = lab.run_config(config)
        assert "Permission denied" in result.err
        assert int(result.lines[0].split()[1], 16) == 1 << 1 | 1 << 21 | 1 << 24, (
            "all three are granted in a namespace of its own"
        )
        assert result.lines[1] == "mounted"

    def test_devices_names_limits_and_sysctls_work_there(self, lab: Lab) -> None:
        limits = [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}]
        script = (
            "hostname; echo x > /dev/null; head -c 2 /dev/zero | wc -c; ulimit -n; "
            "cat /proc/self/oom_score_adj; cat /proc/sys/net/ipv4/ip_forward; ls /sys/fs/cgroup | wc -l"
        )
        result = lab.shell(
            script, rlimits=limits, oomScoreAdj=55, linux={**USERNS, "sysctl": {"net.ipv4.ip_forward": "1"}}
        )
        assert result.lines[:5] == ["box", "2", "99", "55", "1"], result.err
        assert int(result.lines[5]) > 0

    def test_other_users_and_groups_of_the_range(self, lab: Lab) -> None:
        result = lab.shell("id -u; id -G", user={"uid": 1000, "gid": 1000, "additionalGids": [10]}, linux=USERNS)
        assert result.lines == ["1000", "1000 10"]

    def test_a_user_outside_of_the_range_is_refused(self, lab: Lab) -> None:
        with pytest.raises(StartError, match=r"setg?u?id"):
            lab.run("true", user={"uid": 70000, "gid": 0}, linux=USERNS)

    def test_a_terminal(self, lab: Lab) -> None:
        box = lab.create(lab.config("sh", "-c", "tty; stat -c %u /dev/console", terminal=True, linux=USERNS))
        result = box.wait()
        lab.remove(box)
        assert [line.strip() for line in result.out.splitlines()] == ["/dev/pts/0", "0"]

    def test_exec_enters_the_user_namespace_too(self, lab: Lab) -> None:
        with lab.start("sleep", "77", linux=USERNS) as box:
            result = box.exec(
                "sh", "-c", "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user; readlink /proc/1/ns/user"
            )
        assert result.lines[0] == "0", result.err
        assert result.lines[1].split() == ["0", "100000", "65536"]
        assert result.lines[2] == result.lines[3]

    def test_a_network_of_the_hosts_can_be_given_to_it(self, lab: Lab) -> None:
        with lab.start("sleep", "77") as first:
            linux = {**USERNS, "namespaces": [*sharing(first.pid, "network"), {"type": "user"}]}
            result = lab.run("readlink", "/proc/self/ns/net", linux=linux, mounts=[])
            assert result.out.strip() == os.readlink(f"/proc/{first.pid}/ns/net"), result.err

    def test_a_user_namespace_by_path(self, lab: Lab) -> None:
        with lab.start("sleep", "77", linux=USERNS) as first:
            entries = [*({"type": kind} for kind in NAMESPACES), {"type": "user", "path": f"/proc/{first.pid}/ns/user"}]
            result = lab.shell("id -u; readlink /proc/self/ns/user; echo $$", linux={"namespaces": entries})
            assert result.lines == ["0", os.readlink(f"/proc/{first.pid}/ns/user"), "1"], result.err

    def test_a_pod_that_shares_user_network_ipc_and_pid(self, lab: Lab) -> None:
        with lab.start("sleep", "77", linux=USERNS) as first:
            config = lab.config("ps")
            config["hostname"] = ""
            config["linux"]["namespaces"] = sharing(first.pid, "user", "network", "ipc", "uts", "pid")
            assert "sleep 77" in lab.run_config(config).out

    def test_mappings_without_the_namespace_and_the_other_way_round_are_refused(self, lab: Lab) -> None:
        with pytest.raises(StartError, match="needs both"):
            lab.run("true", linux={"namespaces": USERNS["namespaces"]})
        with pytest.raises(StartError, match="without a user namespace"):
            lab.run("true", linux={"uidMappings": ID_MAP})


@pytest.mark.requires("timens")
def test_a_time_namespace_by_path(lab: Lab) -> None:
    offsets = {"boottime": {"secs": 5000000}}
    entries = [*({"type": kind} for kind in NAMESPACES), {"type": "time"}]
    with lab.start("sleep", "77", linux={"namespaces": entries, "timeOffsets": offsets}) as first:
        joined = [*entries[:-1], {"type": "time", "path": f"/proc/{first.pid}/ns/time"}]
        result = lab.run("cat", "/proc/uptime", linux={"namespaces": joined})
        assert float(result.out.split()[0]) - time.clock_gettime(time.CLOCK_BOOTTIME) > 4900000


def test_a_mount_namespace_by_path_becomes_the_containers(lab: Lab) -> None:
    with subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "100"]) as other:
        while os.readlink(f"/proc/{other.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
            time.sleep(0.01)
        theirs = os.readlink(f"/proc/{other.pid}/ns/mnt")
        entries = [{"type": kind} for kind in NAMESPACES if kind != "mount"]
        entries.append({"type": "mount", "path": f"/proc/{other.pid}/ns/mnt"})
        result = lab.shell("readlink /proc/self/ns/mnt; ls /", linux={"namespaces": entries})
        other.kill()
    assert result.lines[0] == theirs, result.err
    assert "work" not in result.lines
    assert os.path.exists("/usr")


@pytest.mark.requires("timens")
def test_clocks_are_shifted(lab: Lab) -> None:
    entries = [*({"type": kind} for kind in NAMESPACES), {"type": "time"}]
    result = lab.run(
        "cat",
        "/proc/uptime",
        linux={"namespaces": entries, "timeOffsets": {"boottime": {"secs": 1000000}, "monotonic": {"secs": 5}}},
    )
    assert float(result.out.split()[0]) - time.clock_gettime(time.CLOCK_BOOTTIME) > 999000
    with lab.start("sleep", "77", linux={"namespaces": entries, "timeOffsets": {"boottime": {"secs": 1000000}}}) as box:
        assert float(box.exec("cat", "/proc/uptime").out.split()[0]) > 1000000


def test_a_linux32_personality(lab: Lab) -> None:
    linux = {"personality": {"domain": "LINUX32"}}
    assert lab.run("cat", "/proc/self/personality", linux=linux).out == "00000008\n"
    with lab.start("sleep", "100", linux=linux) as box:
        assert box.exec("cat", "/proc/self/personality").out == "00000008\n"
    with pytest.raises(StartError, match="personality"):
        lab.run("true", linux={"personality": {"domain": "BSD"}})
