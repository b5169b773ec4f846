"""Spoilt configurations against the validator: it refuses them by name or lets them through, and does nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mutations import mutated, values

from wherry.errors import WherryError
from wherry.runtime import oci_validate
from wherry.runtime import state as states
from wherry.wire import fastjson

CONFIG = {
    "ociVersion": "1.2.0",
    "process": {
        "terminal": False, "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [1]}, "args": ["sh"], "env": ["A=b"], "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"]}, "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 10, "soft": 10}],
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1}, "scheduler": {"policy": "SCHED_OTHER", "nice": 1},
    },
    "root": {"path": "rootfs"},
    "hostname": "h",
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["ro"]}],
    "hooks": {"prestart": [{"path": "/bin/true", "args": ["x"], "timeout": 3}]},
    "annotations": {"a": "b"},
    "linux": {
        "namespaces": [{"type": kind} for kind in ("mount", "pid", "uts", "user", "time")],
        "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
        "timeOffsets": {"monotonic": {"secs": 1}}, "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}],
        "cgroupsPath": "/x", "sysctl": {"net.a": "1"}, "maskedPaths": ["/x"], "readonlyPaths": ["/y"],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 1}, "cpu": {"shares": 1, "cpus": "0"}, "pids": {"limit": 1},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}], "unified": {"memory.high": "1"},
            "blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}, "rdma": {"mlx": {"hcaHandles": 1}},
        },
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0}]}]},
        "personality": {"domain": "LINUX"}, "netDevices": {"eth0": {"name": "eth1"}}, "intelRdt": {"closID": "x"},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"},
    },
}  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(mutated(CONFIG))
def test_a_spoilt_configuration_is_refused_by_name_or_taken(text: bytes) -> None:
    try:
        config = fastjson.loads(text)
    except (ValueError, RecursionError):  # what the reader turns into an error of its own
        return
    try:
        oci_validate.check(config)
    except WherryError as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(values)
def test_anything_else_is_no_configuration(value: object) -> None:
    for check in (oci_validate.check, oci_validate.check_process):
        with pytest.raises(WherryError):
            check(value)  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(st.one_of(mutated(CONFIG), st.binary(max_size=200)))
def test_the_reader_says_what_is_no_json(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "fuzzed.json"
    path.write_bytes(text)
    try:
        states.read_config(str(path))
    except WherryError as error:
        assert str(error)
