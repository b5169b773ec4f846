"""Every flag of `run`, by its effect inside the container: the flag, a script, what the script must print."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.e2e.harness import BUSYBOX, Engine

CAPABILITIES = "grep -E '^Cap(Eff|Bnd|Prm|Inh|Amb)' /proc/self/status | tr -s '\\t\\n' ' '"
V1 = os.path.isdir("/sys/fs/cgroup/memory")


def cgroup(controller: str, v1_file: str, v2_file: str) -> str:
    """A script that prints a file of the container's own cgroup, as it appears inside."""
    return f"cat /sys/fs/cgroup/{controller}/{v1_file}" if V1 else f"cat /sys/fs/cgroup/{v2_file}"


def shares_to_weight(shares: int) -> int:
    return 1 + ((shares - 2) * 9999) // 262142


TABLE: list[tuple[str, str, str]] = [
    ("-e A=1 -e B=x=y", "echo $A $B", "1 x=y"),
    ("-e PATH=/bin:/mine", "echo $PATH", "/bin:/mine"),
    ("-w /var", "pwd", "/var"),
    ("-w /made/for/me", "pwd; stat -c %u:%g:%a /made/for/me", "/made/for/me\n0:0:755"),
    ("-u 1000", "id -u; id -g; id -G; echo $HOME", "1000\n1000\n1000 10 2000\n/home/app"),
    ("-u app", "id -u; id -g; id -G", "1000\n1000\n1000 10 2000"),
    ("-u app:wheel", "id -u; id -g; id -G", "1000\n10\n10"),
    ("-u 4321:8765", "id -u; id -g; id -G; echo $HOME", "4321\n8765\n8765\n/"),
    ("-u 4321", "id -u; id -g", "4321\n0"),
    ("--group-add 77 --group-add wheel", "id -G", "0 10 77"),
    ("--hostname box.example", "hostname; cat /etc/hostname; grep -c 'box.example box' /etc/hosts", "box.example\nbox.example\n0"),
    ("--hostname box --domainname example", "hostname; cat /proc/sys/kernel/domainname", "box\nexample"),
    ("--add-host other:192.0.2.7", "grep other /etc/hosts", "192.0.2.7\tother"),
    ("--dns 192.0.2.53 --dns-search example.org --dns-option ndots:3",
     "grep -v '^#' /etc/resolv.conf", "search example.org\nnameserver 192.0.2.53\noptions ndots:3"),
    ("--tmpfs /scratch:size=1m,mode=1770", "df -k /scratch | awk 'NR==2{print $2}'; stat -c %a /scratch; mount | grep -c '/scratch.*noexec'",
     "1024\n1770\n1"),
    ("--mount type=tmpfs,destination=/t,tmpfs-size=2097152,tmpfs-mode=0700", "df -k /t | awk 'NR==2{print $2}'; stat -c %a /t", "2048\n700"),
    ("--read-only", "touch /file 2>&1; echo $?; touch /dev/shm/x && echo shm", "touch: /file: Read-only file system\n1\nshm"),
    ("--read-only --tmpfs /tmp", "touch /tmp/file && echo written", "written"),
    ("--network none", "ls /sys/class/net; cat /etc/resolv.conf | grep -c nameserver | grep -q . && echo resolv", "lo\nresolv"),
    ("--shm-size 8m", "df -k /dev/shm | awk 'NR==2{print $2}'", "8192"),
    ("", "df -k /dev/shm | awk 'NR==2{print $2}'", "65536"),
    ("--ulimit nofile=123:456 --ulimit core=0", "ulimit -n; ulimit -Hn; ulimit -c", "123\n456\n0"),
    ("--sysctl net.ipv4.ip_unprivileged_port_start=80 --sysctl kernel.msgmax=9000",
     "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax", "80\n9000"),
    ("-m 64m", cgroup("memory", "memory.limit_in_bytes", "memory.max"), str(64 << 20)),
    ("-m 64m --memory-swap 96m", cgroup("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), str((96 if V1 else 32) << 20)),
    ("-m 64m --memory-reservation 32m", cgroup("memory", "memory.soft_limit_in_bytes", "memory.low"), str(32 << 20)),
    ("--cpus 0.5", cgroup("cpu", "cpu.cfs_quota_us", "cpu.max"), "50000" if V1 else "50000 100000"),
    ("--cpu-period 50000 --cpu-quota 20000", cgroup("cpu", "cpu.cfs_quota_us", "cpu.max"), "20000" if V1 else "20000 50000"),
    ("--cpu-shares 512", cgroup("cpu", "cpu.shares", "cpu.weight"), "512" if V1 else str(shares_to_weight(512))),
    ("--cpuset-cpus 1", "nproc; grep Cpus_allowed_list /proc/self/status | cut -f2", "1\n1"),
    ("--cpuset-mems 0", "grep Mems_allowed_list /proc/self/status | cut -f2", "0"),
    ("--pids-limit 17", cgroup("pids", "pids.max", "pids.max"), "17"),
    ("--cap-drop ALL", CAPABILITIES, "CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000000 CapAmb: 0000000000000000 "),
    ("--cap-drop ALL --cap-add NET_ADMIN", "grep CapEff /proc/self/status | cut -f2", "0000000000001000"),
    ("--cap-add SYS_TIME", "grep CapEff /proc/self/status | cut -f2", "00000000a A2425fb".replace(" ", "")[:16]),
    ("--privileged", "grep Seccomp: /proc/self/status | cut -f2; test -e /dev/kmsg && echo devices; touch /proc/sys/kernel/domainname && echo rw", "0\ndevices\nrw"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status | cut -f2", "0"),
    ("", "grep Seccomp: /proc/self/status | cut -f2", "2"),
    ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status | cut -f2", "1"),
    ("", "grep NoNewPrivs /proc/self/status | cut -f2", "0"),
    ("--device /dev/zero:/dev/nought:r", "head -c 3 /dev/nought | od -An -tx1; : > /dev/nought || echo refused", " 00 00 00\nrefused"),
    ("--init", "cat /proc/1/comm; ps -o pid,args | grep -c 'sh -c'", "docker-init\n2"),
    ("--pid host", "test $$ -gt 1 && readlink /proc/1/ns/pid | grep -c . ", "1"),
    ("--oom-score-adj 321", "cat /proc/self/oom_score_adj", "321"),
    ("--stop-signal SIGUSR1 -l a=b --label c", "echo runs", "runs"),
    ("--cgroupns private", "cut -d: -f3 /proc/self/cgroup | sort -u", "/"),
    ("--mac-address 02:11:22:33:44:55 --network none", "echo runs", "runs"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "script", "expected"), TABLE, ids=[f"{flags or 'default'}-{n}" for n, (flags, _, _) in enumerate(TABLE)])
def test_flag_has_its_effect(engine: Engine, flags: str, script: str, expected: str) -> None:
    network = [] if "--network" in flags else ["--network=none"]
    assert engine.output("run", "--rm", *network, *flags.split(), BUSYBOX, "sh", "-c", script) == expected.rstrip("\n")
