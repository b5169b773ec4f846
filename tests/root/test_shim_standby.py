"""The init that waits for its container: the same container comes of it, nothing of the host's is in it, and nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import select
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.root.shim_lab import Client, Lab, busybox_rootfs, config, is_alive, lab, run

from wherry.core import tasks
from wherry.core.tasks import Task, UserWish
from wherry.errors import NotFound, StartError, Unavailable
from wherry.linux import cgroups
from wherry.runtime import container
from wherry.runtime import standby as standbys
from wherry.shim import builtin, jobs, zygote
from wherry.wire import fastjson

pytestmark = [
    pytest.mark.requires("root", "overlay", "busybox"),
    pytest.mark.skipif(not cgroups.detect().v1, reason="on cgroup v2 a process is born in its group"),
]

BY_OTHER_MEANS: Any = {"personality": {"domain": "LINUX"}}
"""What every process has; but a container that says so is not made by a standby."""
INERT = ["nosuid", "noexec", "nodev"]
ENGINES_MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": INERT},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {
        "destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*INERT, "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*INERT, "ro"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": INERT},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*INERT, "mode=1777", "size=67108864"]},
]  # fmt: skip
PROTECTED = {
    "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/scsi"],
    "readonlyPaths": ["/proc/sys", "/proc/irq", "/proc/sysrq-trigger"],
    "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "kernel.msgmax": "4096"},
}
SEES = """
cut -d' ' -f4- /proc/self/mountinfo | sed 's/wherry-lab-[0-9]*.[a-z]*/GROUP/; s/[^ ,=]*upper\\|[^ ,=]*work//g'
ls -ln /dev /dev/pts /dev/shm | sed 's/ [A-Z][a-z][a-z] .*[0-9]:[0-9][0-9]//'
grep -E '^(Uid|Gid|Groups|Umask|NoNewPrivs|Seccomp|Cap|NSpid|SigBlk|SigIgn|SigCgt)' /proc/1/status
sed 's/wherry-lab-.*/GROUP/' /proc/self/cgroup
cat /proc/self/oom_score_adj /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start; ulimit -a
hostname; env; pwd; ls /proc/1/fd; cat /proc/net/dev | cut -d: -f1; tty; umask; ls -ld / /home; cat /proc/1/comm
awk '{ print $5, $6, $7 }' /proc/1/stat
"""


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def ended(pid: int) -> None:
    """Until it has ended, whether or not somebody has taken notice."""
    async with asyncio.timeout(300):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                await asyncio.sleep(0.01)


async def standby_of(it: Lab) -> int:
    """The standby of the shim that waits for the next start, and that the engine knows of: else it would have another one forked."""
    assert it.tasks._zygote_process is not None
    async with asyncio.timeout(300):
        await it.until_spare()
        while True:
            for shim in children(it.tasks._zygote_process.pid):
                for child in children(shim):
                    with contextlib.suppress(FileNotFoundError):  # a worker that ends
                        foreign = os.readlink(f"/proc/{child}/ns/pid") != os.readlink("/proc/self/ns/pid")
                        if foreign and "skb_wait" in Path(f"/proc/{child}/wchan").read_text():
                            return child
            await asyncio.sleep(0.01)


async def started(it: Lab, name: str, script: str, client: Client, **options: Any) -> Task:
    spec = it.spec(["sh", "-c", script], name, **options)
    spec.config["mounts"][:] = [*ENGINES_MOUNTS, *options.get("mounts", ())]
    it._ids.append(name)
    try:
        return await it.tasks.start(name, spec, attach=[client.request])
    finally:
        client.connected()


def groups_of(it: Lab, name: str) -> list[str]:
    paths = set(cgroups.open_group(it.cgroup(name)).paths.values())
    return [path for path in paths if os.path.exists(path)]


@run
async def test_a_standby_becomes_the_container_that_would_have_been_made_without_it(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        seen = []
        for name, linux in (("aa", {}), ("bb", BY_OTHER_MEANS)):
            standby, client = await standby_of(it), Client()
            task = await started(
                it, name, SEES, client, linux=PROTECTED | linux, resources={"memory": {"limit": 1 << 28}},
                process={"oomScoreAdj": 7, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}], "noNewPrivileges": True},
            )  # fmt: skip
            assert (task.pid == standby) is (name == "aa")
            seen.append(sorted((await client.read())[1].decode().splitlines()))  # mounts are listed as they were made
            assert (await it.exited(name)).status == 0
        assert seen[0] == seen[1]
        assert any("/proc/keys" in line for line in seen[0]) and "lab" in seen[0]


@run
async def test_mounts_in_dev_are_made_as_without_a_standby(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine\n")
    places = [(str(tmp_path / "file"), "/dev/stdout"), ("/dev/urandom", "/dev/random"), (str(tmp_path), "/dev/fd")]
    binds = [{"destination": place, "type": "bind", "source": source, "options": ["rbind"]} for source, place in places]
    async with lab(tmp_path) as it:
        standby, client = await standby_of(it), Client()
        script = "cat /dev/stdout; stat -c %t,%T /dev/random /dev/zero; ls /dev/fd; readlink /dev/stderr"
        task = await started(it, "c", script, client, mounts=binds)
        assert task.pid == standby
        assert b"mine\n1,9\n1,5\n" in (shown := (await client.read())[1])
        assert b"\nfile\n" in shown and shown.endswith(b"/proc/self/fd/2\n")


@run
async def test_what_no_message_has_room_for_is_started_without_a_standby(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        everybodys = "".join(f"g{gid}:x:{gid}:app\n" for gid in range(20_000, 32_000))
        for name, env, groups, said in (
            ("aa", ["A=" + "x" * 90_000], "", b"90000 2\n"),
            ("bb", [], everybodys, b"0 12002\n"),
        ):
            (it.rootfs / "etc/group").write_text(groups)
            standby, client = await standby_of(it), Client()
            script = "echo ${#A} $(grep Groups /proc/self/status | wc -w)"
            spec = it.spec(["sh", "-c", script], name, process={"env": ["PATH=/bin", *env]})
            it._ids.append(name)
            spec = dataclasses.replace(spec, user=UserWish("app"))
            task = await it.tasks.start(name, spec, attach=[client.request])
            client.connected()
            assert task.pid != standby
            assert await client.read() == {1: said}
            await it.exited(name)


@run
async def test_the_hosts_network_by_path_is_none_to_set_values_in(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        value = Path("/proc/sys/net/core/somaxconn")
        before = value.read_text()
        spaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
        network = {"type": "network", "path": f"/proc/{os.getpid()}/ns/net"}
        with pytest.raises(StartError, match="not allowed in the hosts network namespace"):
            await it.shell("true", linux={"namespaces": [*spaces, network], "sysctl": {"net.core.somaxconn": "77"}})
        assert value.read_text() == before


@run
async def test_a_terminal_and_a_user_are_given_by_a_standby_as_well(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        standby, client = await standby_of(it), Client(stdin=True)
        task = await it.shell(
            "tty; id -u", terminal=True, clients=(client,), process={"user": {"uid": 1000, "gid": 1000}}
        )
        assert task.pid == standby
        assert await client.read_raw() == b"/dev/pts/0\r\n1000\r\n"
        assert (await it.exited()).status == 0


@run
async def test_what_waits_has_nothing_mounted_but_its_own_and_the_cgroups(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        mounted = Path(f"/proc/{await standby_of(it)}/mountinfo").read_text().splitlines()
        found = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in mounted}
        hierarchies = {hierarchy.mountpoint for hierarchy in cgroups.detect().v1}
        assert found == {"/": "tmpfs", "/proc": "proc"} | dict.fromkeys(hierarchies, "cgroup")


@run
async def test_without_its_standby_a_container_starts_all_the_same(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        standby = await standby_of(it)
        os.kill(standby, 9)
        await ended(standby)
        client = Client()
        await it.shell("echo fine", clients=(client,))
        assert await client.read() == {1: b"fine\n"}


@pytest.mark.parametrize("killed", ["shim", "worker", "shim worker standby"])
def test_a_shim_that_was_killed_while_it_waited_is_replaced(tmp_path: Path, killed: str) -> None:
    @run
    async def kill(tmp_path: Path) -> None:
        async with lab(tmp_path) as it:
            standby = await standby_of(it)
            shim = parent(standby)
            (worker,) = set(children(shim)) - {standby}
            for who in killed.split():
                pid = {"shim": shim, "worker": worker, "standby": standby}[who]
                with contextlib.suppress(ProcessLookupError):  # it has ended with its shim
                    os.kill(pid, 9)
                await ended(pid)
            client = Client()
            await it.shell("echo fine", clients=(client,))
            assert await client.read() == {1: b"fine\n"}

    kill(tmp_path)


def test_what_a_dead_shim_leaves_is_gone_before_its_successor_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who removed it later, when a thread gets its turn, would find the successor's in its place."""
    remove, begun, may_go_on = tasks._kill_remains, [0], threading.Event()

    def the_second_waits(directory: str) -> None:
        begun[0] += 1
        assert begun[0] == 1 or may_go_on.wait(300)
        remove(directory)
        Path(directory, "shim.err").write_text("what it has died of\n")

    @run
    async def kill(tmp_path: Path) -> None:
        async with lab(tmp_path) as it:
            shim = parent(await standby_of(it))
            with open(os.pidfd_open(shim), "rb", buffering=0) as watched:
                os.kill(shim, 9)
                assert select.select([watched], [], [], 300)[0]  # meanwhile the engine's loop hears of nothing
            task = await it.shell("sleep 1000")
            may_go_on.set()
            assert it.warnings[0] == "container c: its shim has failed: what it has died of"
            assert "is given another one" in it.warnings[1]
            while it.tasks._cleaning:
                await asyncio.sleep(0)
            assert (await task.status())["state"] == "running"
            assert len(it.warnings) == 2

    monkeypatch.setattr(tasks, "_kill_remains", the_second_waits)
    kill(tmp_path)


@pytest.mark.parametrize("killed", ["worker", "worker standby", "standby worker", "shim worker", "shim"])
def test_no_group_is_left_when_those_who_make_a_container_are_killed(tmp_path: Path, killed: str) -> None:
    @run
    async def kill(tmp_path: Path) -> None:
        async with lab(tmp_path) as it:
            for _ in range(4):
                standby = await standby_of(it)
                shim = parent(standby)
                (worker,) = set(children(shim)) - {standby}
                start = asyncio.ensure_future(it.shell("sleep 1000"))
                while not groups_of(it, "c") and not start.done():
                    await asyncio.sleep(0)
                for who in killed.split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill({"shim": shim, "worker": worker, "standby": standby}[who], 9)
                try:
                    task = await start
                    await task.signal(9)
                except (StartError, Unavailable, NotFound):
                    pass
                if it.tasks.get("c") is not None:
                    await it.exited()
                    await it.tasks.forget("c")
                assert groups_of(it, "c") == []

    kill(tmp_path)


@run
async def test_a_start_that_fails_in_either_process_leaves_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        missing = {"destination": "/home", "type": "bind", "source": f"{tmp_path}/missing", "options": ["rbind"]}
        for wrong, words in (
            ({"process": {"args": ["nothing"]}}, "executable file not found"),
            ({"hostname": "x" * 65}, "hostname: longer than the 64 bytes"),
            ({"mounts": [missing]}, "missing"),
            ({"resources": {"memory": {"limit": 1}}}, "memory"),
            (
                {"mounts": [{"destination": "/home", "type": "tmpfs", "source": "tmpfs", "options": ["nonsense"]}]},
                "nonsense",
            ),
            ({"linux": {"sysctl": {"kernel.nonsense": "1"}}}, "kernel.nonsense"),
        ):
            standby = await standby_of(it)
            with pytest.raises(StartError, match=words):
                await it.shell("true", **wrong)
            assert groups_of(it, "c") == []
            assert not is_alive(standby)


@run
async def test_a_group_that_somebody_lives_in_is_left_alone(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        group = cgroups.open_group(it.cgroup("c"))
        group.create()
        with subprocess.Popen(["sleep", "1000"]) as process:
            Path(group.paths["memory"], "cgroup.procs").write_text(str(process.pid))
            with pytest.raises(StartError, match="not empty"):
                await it.shell("true")
            assert process.poll() is None
            assert str(process.pid) in Path(group.paths["memory"], "cgroup.procs").read_text()
            process.kill()
        group.delete()


def test_one_that_has_failed_before_it_is_told_to_go_on_has_said_why(tmp_path: Path) -> None:
    wrong = {"destination": "/home", "type": "tmpfs", "source": "tmpfs", "options": ["nonsense"]}
    asked_for = config(["true"], cgroup=f"/wherry-standby-{os.getpid()}", mounts=[wrong])
    zygote._preload()
    waiting = standbys.make(jobs.read_config)
    assert waiting is not None
    poll = select.poll()
    poll.register(waiting.pidfd, select.POLLIN)
    waiting.announce(fastjson.dumps({"op": "start", "config": asked_for}))
    root = builtin.open_rootfs({"type": "bind", "path": str(busybox_rootfs(tmp_path))})
    with pytest.raises(StartError, match="nonsense"):
        standbys.create(
            waiting, asked_for, root=root, stdio=container.Stdio(), prepare_rootfs=lambda _: None, mount_sources={},
            meanwhile=lambda _: poll.poll() and None,
        )  # fmt: skip
    os.close(root)
    assert not cgroups.open_group(asked_for["linux"]["cgroupsPath"]).exists()
