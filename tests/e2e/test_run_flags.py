"""Every flag of `run`, by its effect inside the container: the flag, a script, what the script must print."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd

CAPABILITIES = "grep -E '^Cap(Eff|Bnd|Prm|Inh|Amb)' /proc/self/status | cut -f2 | sort -u"
V1 = os.path.isdir("/sys/fs/cgroup/memory")
CPU = max(os.sched_getaffinity(0))


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
    ("--hostname box.example", "hostname; cat /etc/hostname", "box.example\nbox.example"),
    ("--hostname box --domainname example", "hostname; cat /proc/sys/kernel/domainname", "box\nexample"),
    ("--add-host other:192.0.2.7", "grep other /etc/hosts", "192.0.2.7\tother"),
    ("--dns 192.0.2.53 --dns-search example.org --dns-option ndots:3",
     "grep -v '^#' /etc/resolv.conf | sort", "nameserver 192.0.2.53\noptions ndots:3\nsearch example.org"),
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
    (f"--cpuset-cpus {CPU}", "nproc; grep Cpus_allowed_list /proc/self/status | cut -f2", f"1\n{CPU}"),
    ("--cpuset-mems 0", "grep Mems_allowed_list /proc/self/status | cut -f2", "0"),
    ("--pids-limit 17", cgroup("pids", "pids.max", "pids.max"), "17"),
    ("--cap-drop ALL", CAPABILITIES, "0000000000000000"),
    ("--cap-drop ALL --cap-add NET_ADMIN", "grep CapEff /proc/self/status | cut -f2", "0000000000001000"),
    ("--cap-add SYS_TIME", "grep CapEff /proc/self/status | cut -f2", "00000000aa0425fb"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status | cut -f2", "0"),
    ("", "grep Seccomp: /proc/self/status | cut -f2", "2"),
    ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status | cut -f2", "1"),
    ("", "grep NoNewPrivs /proc/self/status | cut -f2", "0"),
    ("--device /dev/fuse:/dev/mine:r", "(: < /dev/mine) && echo read; (: > /dev/mine) 2>/dev/null || echo refused", "read\nrefused"),
    ("--device /dev/fuse:/dev/mine:w", "(: > /dev/mine) && echo written; (: < /dev/mine) 2>/dev/null || echo refused", "written\nrefused"),
    ("--device-cgroup-rule 'c 10:229 r'", "mknod /k c 10 229; (: < /k) && echo read; (: > /k) 2>/dev/null || echo refused", "read\nrefused"),
    ("--init", "test $$ -gt 1 && tr '\\0' '\\n' < /proc/1/cmdline | head -n 2 | sed 's,.*/,,'", "docker-init\n--"),
    ("--pid host", "test $$ -gt 1 && ls -d /proc/2/comm", "/proc/2/comm"),
    ("--oom-score-adj 321", "cat /proc/self/oom_score_adj", "321"),
    ("--stop-signal SIGUSR1 -l a=b --label c", "echo runs", "runs"),
    ("--cgroupns private", "cut -d: -f3 /proc/self/cgroup | sort -u", "/"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "script", "expected"), TABLE, ids=[f"{flags or 'default'}-{n}" for n, (flags, _, _) in enumerate(TABLE)]
)
def test_flag_has_its_effect(engine: Engine, flags: str, script: str, expected: str) -> None:
    network = [] if "--network" in flags else ["--network=none"]
    assert engine.output("run", "--rm", *network, *shlex.split(flags), BUSYBOX, "sh", "-c", script) == expected.rstrip(
        "\n"
    )


@differs_on_dockerd("its runc refuses a privileged container where the machine itself lacks a capability")
def test_privileged_has_all_that_the_engine_has(engine: Engine) -> None:
    script = "grep -E '^(CapBnd|Seccomp:)' /proc/self/status | cut -f2; test -e /dev/kmsg && echo devices"
    script += "; mount | grep -E ' (/sys|/proc/sys) .*[(]ro'"
    with open("/proc/self/status") as status:
        bounding = next(line.split()[1] for line in status if line.startswith("CapBnd"))
    assert engine.shell(script + "; true", "--privileged").split() == [bounding, "0", "devices"]


def test_an_environment_file_is_read(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nONE=1\nTWO=a b\n")
    assert engine.shell('echo "$ONE/$TWO"', f"--env-file={tmp_path / 'env'}") == "1/a b"


def test_a_seccomp_profile_of_one_s_own_bites(engine: Engine, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    printed = engine.shell(
        "mkdir /x 2>&1; touch /y && echo made", f"--security-opt=seccomp={tmp_path / 'profile.json'}"
    )
    assert printed == "mkdir: can't create directory '/x': No space left on device\nmade"


def test_labels_and_stop_settings_are_kept(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("from=file\n")
    flags = [
        "-l",
        "a=b",
        "--label",
        "c",
        f"--label-file={tmp_path / 'labels'}",
        "--stop-signal=SIGUSR1",
        "--stop-timeout=7",
    ]
    config = engine.inspect(engine.output("create", *flags, BUSYBOX, "true"))["Config"]
    assert (config["Labels"], config["StopSignal"], config["StopTimeout"]) == (
        {"a": "b", "c": "", "from": "file"},
        "SIGUSR1",
        7,
    )


def test_a_memory_limit_kills_and_says_so(engine: Engine) -> None:
    done = engine.docker(
        "run",
        "--network=none",
        "--name=greedy",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        BUSYBOX,
        "sh",
        "-c",
        "tail -c 64m /dev/zero",
        check=False,
    )
    assert done.returncode == 137
    state = engine.state("greedy")
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)


def test_the_pids_limit_stops_forks(engine: Engine) -> None:
    done = engine.docker(
        "run",
        "--rm",
        "--network=none",
        "--pids-limit=5",
        BUSYBOX,
        "sh",
        "-c",
        "for n in 1 2 3 4 5 6; do sleep 5 & done; wait",
        check=False,
    )
    assert "can't fork" in done.stderr


@pytest.mark.parametrize(
    "flag", ["--device-read-bps", "--device-write-bps", "--device-read-iops", "--device-write-iops"]
)
def test_block_limits_reach_the_container_s_cgroup(engine: Engine, flag: str) -> None:
    device, number = block_device()
    file = "throttle." + flag.removeprefix("--device-").replace("-", "_").replace("bps", "bps_device").replace(
        "iops", "iops_device"
    )
    script = cgroup("blkio", f"blkio.{file}", "io.max")
    assert engine.shell(script, f"{flag}={device}:1048576").startswith(f"{number} ")
    assert "1048576" in engine.shell(script, f"{flag}={device}:1048576")


def block_device() -> tuple[str, str]:
    """→ path and major:minor of a disk of this machine."""
    name = next(name for name in sorted(os.listdir("/sys/block")) if not name.startswith(("loop", "ram", "zram")))
    with open(f"/sys/block/{name}/dev") as number:
        return f"/dev/{name}", number.read().strip()


def test_hooks_of_the_namespaces_are_the_host_s_when_asked(engine: Engine) -> None:
    for kind in ("pid", "ipc", "uts"):
        flag = f"--{kind}=host"
        assert engine.shell(f"readlink /proc/self/ns/{kind}", flag) == os.readlink(f"/proc/self/ns/{kind}")
        assert engine.shell(f"readlink /proc/self/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_namespaces_of_another_container_are_joined(engine: Engine) -> None:
    engine.docker("run", "-d", "--network=none", "--ipc=shareable", "--name=owner", BUSYBOX, "sleep", "1000")
    for kind in ("pid", "ipc", "net"):
        link = engine.output("exec", "owner", "readlink", f"/proc/1/ns/{kind}")
        flag = {"net": "--network"}.get(kind, f"--{kind}") + "=container:owner"
        assert engine.output("run", "--rm", flag, BUSYBOX, "readlink", f"/proc/self/ns/{kind}") == link
