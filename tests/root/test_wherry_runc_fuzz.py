"""Configurations that nobody means, given to the real wherry-runc: whatever it says, it says in one line, and nothing of a
container is left. The validator alone gets far more of them (tests/unit/runtime/test_oci_validate_fuzz.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.mutations import mutated
from tests.root.test_wherry_runc import Runtime, groups, program, reap, rootfs, runtime

__all__ = ["program", "rootfs", "runtime"]

pytestmark = pytest.mark.requires("root", "busybox", "libseccomp")

RARE: dict[str, Any] = {
    "process": {
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1}, "scheduler": {"policy": "SCHED_BATCH", "nice": 1}, "oomScoreAdj": 5,
        "rlimits": [{"type": "RLIMIT_CORE", "hard": 10, "soft": 10}], "execCPUAffinity": {"initial": "0"}, "consoleSize": {"width": 3, "height": 4},
    },
    "hooks": {"prestart": [{"path": "/bin/true", "args": ["x"], "timeout": 3, "env": ["A=b"]}], "poststop": [{"path": "/bin/true"}]},
    "domainname": "d",
    "linux": {
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}, {"path": "/dev/p", "type": "p"}],
        "sysctl": {"kernel.msgmax": "100", "net.ipv4.ip_forward": "1"}, "rootfsPropagation": "rslave", "personality": {"domain": "LINUX"},
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}],
            "memory": {"limit": 1 << 26, "reservation": 1 << 25, "disableOOMKiller": False}, "pids": {"limit": 30},
            "cpu": {"shares": 100, "quota": 50000, "period": 100000, "cpus": "0"},
        },
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}],
        },
    },
}  # fmt: skip
MOUNTS = [
    {"destination": "/tmp", "type": "tmpfs", "source": "t", "options": ["size=1m", "tmpcopyup", "mode=700", "rnoexec"]},
    {"destination": "/root", "type": "bind", "source": "/tmp", "options": ["rbind", "rro", "rslave"]},
    {"destination": "/root", "type": "bind", "source": "", "options": ["remount", "nosuid", "bind"]},
]


def with_rare_fields(config: Any) -> Any:
    merged = {**config, "mounts": [*config["mounts"], *MOUNTS]}
    for name, value in RARE.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return merged


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_configuration_gives_a_traceback_or_half_a_container(runtime: Runtime, data: st.DataObject) -> None:
    mounted = Path("/proc/self/mountinfo").read_text()
    runtime.write("true")
    config: Any = json.loads((runtime.bundle / "config.json").read_text())
    if data.draw(st.booleans()):
        config = with_rare_fields(config)
    text = data.draw(mutated(config, keep=("root", "linux.cgroupsPath", "linux.namespaces")))
    (runtime.bundle / "config.json").write_bytes(text)
    done = runtime("run", "-b", str(runtime.bundle), "box")
    assert "Traceback" not in done.stderr, text
    assert not done.returncode or "level=error" in done.stderr, (done, text)
    reap()
    assert [path.name for path in runtime.root.glob("[!.]*")] == [], text
    assert groups() == [], text
    assert Path("/proc/self/mountinfo").read_text() == mounted, text
