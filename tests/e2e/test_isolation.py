"""What a container sees of the machine, looked at from inside: nothing but what is its own."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.e2e.harness import BUSYBOX, Engine
from tests.root.test_runtime_seccomp_notify import Agent, section

DOCKER_S_14 = "00000000a80425fb"


def test_it_is_pid_1_and_sees_its_own_processes_alone(engine: Engine) -> None:
    assert (
        engine.shell(
            "echo $$; sleep 5 & ps -o pid,comm | tail -n +2 | awk '{print $2}' | sort -u | tr '\\n' ' '"
        ).split()[0]
        == "1"
    )
    assert set(engine.shell("ls /proc | grep -c '^[0-9]'").split()) <= {"1", "2", "3", "4"}


@pytest.mark.parametrize("kind", ["pid", "net", "ipc", "uts", "mnt"])
def test_each_namespace_is_its_own(engine: Engine, kind: str) -> None:
    assert engine.shell(f"readlink /proc/self/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_nothing_of_the_host_s_mount_table_is_seen(engine: Engine) -> None:
    points = engine.shell("awk '{print $5}' /proc/self/mountinfo").split()
    assert "/" in points
    allowed = re.compile(r"/($|proc|dev|sys|etc/(hosts|hostname|resolv\.conf))")
    assert [point for point in points if not allowed.match(point)] == []
    sources = engine.shell("awk '{print $4}' /proc/self/mountinfo").split()
    assert not any(source.startswith(("/root", "/home")) for source in sources)


def test_the_host_s_mount_table_sees_nothing_of_it(engine: Engine) -> None:
    with open("/proc/self/mountinfo") as table:
        before = table.read()
    engine.docker("run", "-d", "--name=box", "--network=none", BUSYBOX, "sleep", "1000")
    if engine.kind == "wherryd":
        with open("/proc/self/mountinfo") as table:
            assert [line for line in table.read().splitlines() if str(engine.root) in line and line not in before] == []


def test_the_host_s_file_descriptors_do_not_come_along(engine: Engine) -> None:
    listed = engine.shell("exec ls -l /proc/self/fd").splitlines()
    assert len([line for line in listed if "root" in line]) == 4  # the fourth is the directory that ls reads
    assert [line.split()[-3] for line in listed if "->" in line][:3] == ["0", "1", "2"]
    assert engine.shell("ls -l /proc/1/cwd | sed 's/.*-> //'") == "/"


def test_the_default_capabilities_are_docker_s(engine: Engine) -> None:
    script = "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2 | sort -u"
    assert engine.shell(script) == DOCKER_S_14
    assert engine.shell("grep -E 'Cap(Inh|Amb)' /proc/self/status | cut -f2 | sort -u") == "0000000000000000"
    assert engine.shell("grep CapEff /proc/self/status | cut -f2", "-u=app") == "0000000000000000"


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /mnt",
        "mkdir /m; mount --bind /etc /m",
        "mknod /dev/sda b 8 0; dd if=/dev/sda of=/dev/null count=1",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "mount -o remount,rw /proc/sys",
        "umount /proc/kcore",
        "hostname other",
        "ip link add d0 type dummy",
        "unshare -m true",
        "adjtimex -q -t 10001",
        "chroot / sh -c 'dmesg -n 1'",
        "swapoff -a",
        "nsenter -t 1 -m true",
        "echo x > /sys/kernel/uevent_helper",
        "ls /proc/1/map_files/../../2 2>/dev/null; cat /proc/kcore | head -c 1 | grep .",
    ],
)
def test_what_only_the_host_s_root_may_do_is_refused(engine: Engine, attempt: str) -> None:
    assert engine.shell(f"{{ {attempt}; }} >/dev/null 2>&1 && echo done || echo refused") == "refused"


def test_masked_paths_are_empty(engine: Engine) -> None:
    assert engine.shell("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c") == "0"
    assert engine.shell("ls -A /proc/acpi /sys/firmware 2>/dev/null | grep -v ':$' | wc -w") == "0"


@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/hostname", "/proc/irq/default_smp_affinity", "/sys/kernel/mm/transparent_hugepage/enabled"],
)
def test_the_kernel_s_settings_are_read_only(engine: Engine, path: str) -> None:
    if os.path.exists(path):
        assert "Read-only file system" in engine.shell(f"(echo x > {path}) 2>&1; true")


def test_the_filter_refuses_what_docker_s_profile_refuses(engine: Engine) -> None:
    assert engine.shell("unshare -U true 2>&1 | grep -c 'Operation not permitted'") == "1"
    assert engine.shell("unshare -U true && echo allowed", "--security-opt=seccomp=unconfined") == "allowed"


def test_the_agent_of_a_profile_is_asked_for_the_program_and_for_an_exec(engine: Engine, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent", error=17, count=2)
    agent.start()
    (tmp_path / "profile.json").write_text(json.dumps(section(agent.path, "mkdir", "mkdirat")))
    option = f"--security-opt=seccomp={tmp_path}/profile.json"
    engine.output("run", "-d", "--name", "asks", option, BUSYBOX, "sh", "-c", "mkdir /x; sleep 1000")
    assert "File exists" in engine.output("exec", "asks", "sh", "-c", "mkdir /y 2>&1; true")
    agent.close()
    assert [state["metadata"] for state in agent.states] == ["for a test"] * 2
    engine.output("rm", "-f", "asks")


def test_devices_are_docker_s(engine: Engine) -> None:
    expected = {
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    }
    assert set(engine.shell("ls /dev").split()) - {"console", "core"} == expected


def test_the_devices_work(engine: Engine) -> None:
    script = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; (echo x > /dev/full) 2>/dev/null || echo full"
    assert engine.shell(script).split() == ["4", "4", "full"]


def test_ipc_is_its_own(engine: Engine) -> None:
    engine.docker(
        "run",
        "-d",
        "--name=one",
        "--network=none",
        BUSYBOX,
        "sh",
        "-c",
        "echo mine > /dev/shm/file; echo ready; exec sleep 1000",
    )
    engine.until_said("one")
    assert engine.shell("ls /dev/shm | wc -l") == "0"


def test_its_limits_are_its_own_cgroup_s(engine: Engine) -> None:
    v1 = os.path.isdir("/sys/fs/cgroup/memory")
    path = "/sys/fs/cgroup/memory/memory.limit_in_bytes" if v1 else "/sys/fs/cgroup/memory.max"
    assert engine.shell(f"cat {path}", "-m=32m") == str(32 << 20)
    assert engine.shell(f"(echo 99999999 > {path}) 2>&1 | grep -c 'Read-only'", "-m=32m") == "1"


def test_the_cpu_limit_bites(engine: Engine) -> None:
    v1 = os.path.isdir("/sys/fs/cgroup/cpu")
    path = "/sys/fs/cgroup/cpu/cpu.stat" if v1 else "/sys/fs/cgroup/cpu.stat"
    burn = "timeout 1 sh -c 'while :; do :; done'"  # again, where others leave it less than its limit
    script = f"until {burn}; grep '^nr_throttled [1-9]' {path}; do :; done"
    assert engine.shell(script, "--cpus=0.1")
