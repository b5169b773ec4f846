"""Fields of the specification that no other file here looks at from inside of a container."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.runtime_lab import DEFAULT_CAPABILITIES, Lab, bind, mount

from wherry.errors import StartError
from wherry.linux import cgroups, seccomp

pytestmark = pytest.mark.requires("root", "busybox")

RLIMITS = {
    "RLIMIT_CPU": ("Max cpu time", 100), "RLIMIT_FSIZE": ("Max file size", 1 << 30), "RLIMIT_DATA": ("Max data size", 1 << 33),
    "RLIMIT_STACK": ("Max stack size", 1 << 22), "RLIMIT_CORE": ("Max core file size", 1 << 20), "RLIMIT_RSS": ("Max resident set", 1 << 33),
    "RLIMIT_NPROC": ("Max processes", 500), "RLIMIT_NOFILE": ("Max open files", 512), "RLIMIT_MEMLOCK": ("Max locked memory", 4096),
    "RLIMIT_AS": ("Max address space", 1 << 34), "RLIMIT_LOCKS": ("Max file locks", 50), "RLIMIT_SIGPENDING": ("Max pending signals", 60),
    "RLIMIT_MSGQUEUE": ("Max msgqueue size", 70000), "RLIMIT_NICE": ("Max nice priority", 0), "RLIMIT_RTPRIO": ("Max realtime priority", 0),
    "RLIMIT_RTTIME": ("Max realtime timeout", 90000),
}  # fmt: skip


def test_every_resource_limit_is_the_programs(lab: Lab) -> None:
    limits = [{"type": name, "soft": value // 2, "hard": value} for name, (_, value) in RLIMITS.items()]
    shown = lab.run("cat", "/proc/self/limits", rlimits=limits).out
    for title, value in RLIMITS.values():
        line = next(line for line in shown.splitlines() if line.startswith(title))
        assert line[len(title) :].split()[:2] == [str(value // 2), str(value)], line


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({"class": "IOPRIO_CLASS_BE", "priority": 6}, "best-effort: prio 6"),
        ({"class": "IOPRIO_CLASS_IDLE", "priority": 0}, "idle"),
        ({"class": "IOPRIO_CLASS_RT", "priority": 1}, "realtime: prio 1"),
    ],
)
def test_an_io_priority_is_the_programs_and_its_execs(lab: Lab, wanted: dict[str, Any], shown: str) -> None:
    with lab.start("sleep", "100", ioPriority=wanted) as box:
        assert box.exec("ionice", "-p", "1").out.strip() == shown
        assert box.exec("sh", "-c", "ionice -p $$").out.strip() == shown


@pytest.mark.parametrize(
    ("word", "shown"),
    [("shared", "shared:"), ("rshared", "shared:"), ("unbindable", "unbindable"), ("private", ""), ("rprivate", "")],
)
def test_the_roots_propagation_is_as_asked_for(lab: Lab, word: str, shown: str) -> None:
    result = lab.shell("awk '$5 == \"/\" {print $7}' /proc/self/mountinfo", linux={"rootfsPropagation": word})
    assert result.out.strip().startswith(shown or "-"), result


@pytest.mark.parametrize("word", ["slave", "rslave"])
def test_what_the_host_mounts_below_the_root_appears_in_a_slave(lab: Lab, word: str) -> None:
    subprocess.run(["mount", "--bind", lab.rootfs, lab.rootfs], check=True)
    try:
        subprocess.run(["mount", "--make-shared", lab.rootfs], check=True)
        (lab.rootfs / "mnt").mkdir(exist_ok=True)
        with lab.start("sleep", "100", linux={"rootfsPropagation": word}) as box:
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", lab.rootfs / "mnt"], check=True)
            try:
                assert " /mnt " in box.exec("cat", "/proc/self/mountinfo").out
            finally:
                subprocess.run(["umount", lab.rootfs / "mnt"], check=True)
    finally:
        subprocess.run(["umount", lab.rootfs], check=True)


def test_devices_of_every_type_with_their_modes_and_owners(lab: Lab) -> None:
    (lab.rootfs / "node").touch()
    (lab.rootfs / "node").unlink()
    os.mknod(lab.rootfs / "there", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    devices = [
        {"path": "/dev/deep/fifo", "type": "p", "fileMode": 0o600, "uid": 7, "gid": 8},
        {"path": "/dev/old", "type": "u", "major": 1, "minor": 5, "fileMode": stat.S_IFCHR | 0o640},
        {"path": "/dev/block", "type": "b", "major": 7, "minor": 9, "fileMode": 0o660, "gid": 6},
        {"path": "/there", "type": "c", "major": 1, "minor": 3},
    ]
    result = lab.shell(
        "stat -c '%n %F %t,%T %a %u %g' /dev/deep/fifo /dev/old /dev/block /there", linux={"devices": devices}
    )
    assert result.lines == [
        "/dev/deep/fifo fifo 0,0 600 7 8", "/dev/old character special file 1,5 640 0 0", "/dev/block block special file 7,9 660 0 6",
        "/there character special file 1,3 600 0 0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "path", "shown"),
    [
        ("devpts", ["newinstance", "ptmxmode=0600", "mode=0600", "gid=7"], "/pts", "gid=7,mode=600,ptmxmode=600"),
        ("proc", ["hidepid=2"], "/proc2", "hidepid=invisible"),
        (
            "tmpfs",
            ["size=64k", "mode=700", "uid=5", "gid=6", "nr_inodes=9"],
            "/t",
            "size=64k,nr_inodes=9,mode=700,uid=5,gid=6",
        ),
        ("mqueue", ["nosuid"], "/mq", "rw"),
        ("sysfs", ["ro"], "/sys2", "ro"),
    ],
)
def test_options_that_wherry_does_not_know_go_to_the_file_system(
    lab: Lab, kind: str, options: list[str], path: str, shown: str
) -> None:
    line = lab.shell(f"grep ' {path} ' /proc/self/mountinfo", mounts=[mount(path, kind, *options)]).out
    for word in shown.split(","):
        assert word in line, line


def hook(path: Path, script: str, **more: Any) -> dict[str, Any]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"path": str(path), "args": [path.name, "one"], **more}


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
@pytest.mark.parametrize("hold", [False, True])
def test_a_failing_hook_at_any_moment_leaves_nothing(lab: Lab, tmp_path: Path, kind: str, hold: bool) -> None:
    config = lab.config("sleep", "100", mounts=[bind(tmp_path, "/hooks")])
    entry = hook(tmp_path / "failing", "echo $1 $GREETING >&2; exit 3", env=["GREETING=hello", "PATH=/bin:/usr/bin"])
    if kind == "startContainer":
        entry["path"] = "/hooks/failing"
    config["hooks"] = {kind: [entry]}
    with pytest.raises(StartError, match=f"error running {kind} hook #0: exit status 3, stderr: one hello"):
        box = lab.create(config, hold=hold)
        assert (hold, kind) == (True, "startContainer")
        try:
            box.start()
        finally:
            lab.remove(box)
    assert not cgroups.open_group(config["linux"]["cgroupsPath"]).exists()


@pytest.mark.parametrize("flags", [None, [], ["LOG", "TSYNC"], ["WAIT_KILLABLE_RECV"], ["SPEC_ALLOW"]])
def test_a_filter_with_any_flag_is_loaded(lab: Lab, flags: list[str] | None) -> None:
    rules: Any = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_ERRNO"}]}
    if flags is not None:
        rules["flags"] = [f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags]
    config = lab.config("grep", "^Seccomp:", "/proc/self/status")
    result = lab.run_config(config, seccomp_bpf=seccomp.compile(rules), seccomp_flags=seccomp.flags_of(rules))
    assert result.out.split() == ["Seccomp:", "2"]


@pytest.mark.parametrize(
    ("action", "status"),
    [("SCMP_ACT_TRAP", -31), ("SCMP_ACT_KILL_PROCESS", -31), ("SCMP_ACT_KILL", -31), ("SCMP_ACT_LOG", 0), ("SCMP_ACT_TRACE", 1)],
)  # fmt: skip
def test_a_filters_action_is_the_programs_fate(lab: Lab, action: str, status: int) -> None:
    rules: Any = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["chroot"], "action": action, "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_NE"}]}],
    }
    config = lab.config(
        "chroot",
        "/",
        "/bin/true",
        capabilities=dict.fromkeys(("bounding", "effective", "permitted"), DEFAULT_CAPABILITIES),
    )
    assert lab.run_config(config, seccomp_bpf=seccomp.compile(rules)).status in (status, status and 125)


def test_a_log_flag_is_the_kernels_business_and_an_unknown_one_is_named(lab: Lab) -> None:
    """The flags of the section count also where only a compiled filter is handed over, as the engine does."""
    rules: Any = {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_MAGIC"]}
    with pytest.raises(StartError, match=r"linux\.seccomp\.flags: 'SECCOMP_FILTER_FLAG_MAGIC'"):
        lab.run_config(lab.config("true", linux={"seccomp": rules}), seccomp_bpf=seccomp.compile(rules))
    rules["flags"] = ["SECCOMP_FILTER_FLAG_LOG"]
    assert lab.run_config(lab.config("true", linux={"seccomp": rules}), seccomp_bpf=seccomp.compile(rules)).status == 0


def test_unknown_properties_and_annotations_are_no_mistake(lab: Lab) -> None:
    config = lab.config("true")
    config["annotations"] = {"run.oci.keep_original_groups": "1", "org.systemd.property.X": "1"}
    config["linux"]["someday"] = {"a": 1}
    assert lab.run_config(config).status == 0
