"""A configuration is either right or refused by the name of its field; nothing else comes out of the check."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry import errors
from wherry.errors import InvalidArgument
from wherry.runtime import oci_validate

GOOD: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "hostname": "box",
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0, "additionalGids": [10]},
        "args": ["sh"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
    },
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "hooks": {"prestart": [{"path": "/bin/true"}]},
    "annotations": {"a": "b"},
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "user"}],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}],
        "cgroupsPath": "/a/b",
        "resources": {
            "memory": {"limit": -1},
            "devices": [{"allow": False, "access": "rwm"}],
            "unified": {"memory.low": "1"},
        },
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "maskedPaths": ["/proc/kcore"],
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with `value` at a path like "linux.devices.0.path"."""
    config = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place: Any = config
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[int(last) if isinstance(place, list) else last] = value
    return config


def test_a_good_configuration_passes() -> None:
    oci_validate.check(copy.deepcopy(GOOD))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("ociVersion", "2.0.0", "ociVersion"),
        ("ociVersion", 1, "ociVersion"),
        ("hostname", "a\0b", "hostname"),
        ("root", {}, r"root\.path"),
        ("root", "rootfs", "root: an object"),
        ("process.args", [], r"process\.args"),
        ("process.args", ["a", 1], r"process\.args\[1\]"),
        ("process.cwd", "tmp", r"process\.cwd"),
        ("process.user.uid", -1, r"process\.user\.uid"),
        ("process.user.uid", 4294967295, r"process\.user\.uid"),
        ("process.user.additionalGids", [1 << 40], r"process\.user\.additionalGids\[0\]"),
        ("process.user.umask", 0o1777, r"process\.user\.umask"),
        ("process.rlimits.0.hard", -1, r"process\.rlimits\[0\]\.hard"),
        ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2, "twice"),
        ("process.oomScoreAdj", 1001, r"process\.oomScoreAdj"),
        ("process.terminal", "yes", r"process\.terminal"),
        ("mounts.0", {}, r"mounts\[0\]\.destination"),
        ("hooks.prestart.0.path", "true", r"hooks\.prestart\[0\]\.path"),
        ("hooks.poststop", [{}], r"hooks\.poststop\[0\]\.path"),
        ("linux", None, "linux"),
        ("linux.namespaces.0.type", "net", r"linux\.namespaces\[0\]\.type"),
        ("linux.namespaces.0.type", "mount", "duplicated"),
        ("linux.namespaces.2.type", "ipc", "hostname without a private UTS"),
        ("linux.uidMappings", [], r"linux\.uidMappings"),
        ("linux.uidMappings.0.size", 4294967295, r"linux\.uidMappings\[0\]"),
        ("linux.devices.0.type", "x", r"linux\.devices\[0\]\.type"),
        ("linux.resources.memory.limit", "1g", r"linux\.resources\.memory\.limit"),
        ("linux.resources.memory.limit", 1 << 63, r"linux\.resources\.memory\.limit"),
        ("linux.resources.memory.limit", True, r"linux\.resources\.memory\.limit"),
        ("linux.resources.cpu.idle", 2, r"cpu\.idle"),
        ("linux.resources.devices.0.access", "rx", r"linux\.resources\.devices\[0\]\.access"),
        ("linux.resources.blockIO.throttleReadBpsDevice", [{"major": 8}], "throttleReadBpsDevice"),
        ("linux.resources.hugepageLimits", [{"pageSize": "../x", "limit": 1}], "hugepageLimits"),
        ("process.scheduler", {"policy": "SCHED_MAGIC"}, r"process\.scheduler\.policy"),
        ("process.scheduler", {"policy": "SCHED_OTHER", "nice": 20}, r"process\.scheduler\.nice"),
        ("process.scheduler", {"policy": "SCHED_OTHER", "priority": 1}, r"process\.scheduler\.priority"),
        ("process.scheduler", {"policy": "SCHED_FIFO", "priority": 100}, r"process\.scheduler\.priority"),
        ("process.scheduler", {"policy": "SCHED_FIFO", "runtime": 1}, "SCHED_DEADLINE"),
        ("process.scheduler", {"policy": "SCHED_FIFO", "flags": ["SCHED_FLAG_X"]}, r"process\.scheduler\.flags"),
        ("process.execCPUAffinity", {"initial": "a"}, r"execCPUAffinity\.initial"),
        ("process.execCPUAffinity", {"final": "3-1"}, r"execCPUAffinity\.final"),
        ("process.execCPUAffinity", {"final": "99999"}, r"execCPUAffinity\.final"),
        ("linux.memoryPolicy", {"mode": "MPOL_X"}, r"memoryPolicy\.mode"),
        ("linux.memoryPolicy", {"mode": "MPOL_BIND"}, r"memoryPolicy\.nodes"),
        ("linux.memoryPolicy", {"mode": "MPOL_LOCAL", "nodes": "0"}, r"memoryPolicy\.nodes"),
        ("linux.memoryPolicy", {"mode": "MPOL_LOCAL", "flags": ["X"]}, r"memoryPolicy\.flags"),
        ("linux.timeOffsets", {"monotonic": {"secs": 1}}, r"linux\.timeOffsets"),
        ("linux.timeOffsets", {"tai": {"secs": 1}}, r"linux\.timeOffsets\.tai"),
        ("linux.timeOffsets", {"boottime": {"nanosecs": 1000000000}}, r"linux\.timeOffsets\.boottime\.nanosecs"),
        ("linux.netDevices", {"": {}}, r"linux\.netDevices"),
        ("linux.netDevices", {"eth0": {"name": "a/b"}}, r"linux\.netDevices"),
        ("linux.netDevices", {"eth0": {"name": "x" * 16}}, r"linux\.netDevices"),
        ("linux.netDevices", {"eth0": {"name": "a%s"}}, r"linux\.netDevices"),
        ("linux.intelRdt", {"closID": ".."}, r"linux\.intelRdt\.closID"),
        ("linux.intelRdt", {"memBwSchema": "x"}, r"linux\.intelRdt\.memBwSchema"),
        ("linux.seccomp", {}, r"linux\.seccomp\.defaultAction"),
        ("linux.sysctl", {"a": 1}, r"linux\.sysctl\.a"),
        ("annotations", ["a"], "annotations"),
    ],
)
def test_what_is_malformed_is_named(path: str, value: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        oci_validate.check(changed(path, value))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        "linux.intelRdt.enableCMT",
        "windows",
        "vm",
    ],
)
def test_what_is_not_supported_is_named(path: str) -> None:
    with pytest.raises(errors.NotImplemented, match=path.replace(".", r"\.")):
        oci_validate.check(changed(path, {"some": "thing"}))  # type: ignore[arg-type]


def test_null_is_absent() -> None:
    config = changed("linux.resources.cpu", None)
    config["process"]["capabilities"]["ambient"] = None
    oci_validate.check(config)  # type: ignore[arg-type]
    assert "cpu" not in config["linux"]["resources"]
    assert "ambient" not in config["process"]["capabilities"]


def test_properties_unknown_to_the_specification_pass() -> None:
    config = changed("linux.something", {"new": 1})
    oci_validate.check(config)  # type: ignore[arg-type]
    assert config["linux"]["something"] == {"new": 1}


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_a_configuration_is_an_object(value: Any) -> None:
    with pytest.raises(InvalidArgument):
        oci_validate.check(value)
    with pytest.raises(InvalidArgument):
        oci_validate.check_process(value)


def paths(value: Any, prefix: str = "") -> list[str]:
    found = [prefix] if prefix else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += paths(item, f"{prefix}.{key}" if prefix else str(key))
    return found


known = st.sampled_from(sorted({part for path in paths(GOOD) for part in path.split(".") if not part.isdigit()}))
junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4) | known,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(known | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.tuples(st.sampled_from([p for p in paths(GOOD) if "a" not in p.split(".")]), junk), max_size=3))
def test_no_configuration_makes_the_check_fail_otherwise(changes: list[tuple[str, Any]]) -> None:
    config = copy.deepcopy(GOOD)
    for path, value in changes:
        try:
            *parents, last = path.split(".")
            place: Any = config
            for part in parents:
                place = place[int(part)] if isinstance(place, list) else place[part]
            place[int(last) if isinstance(place, list) else last] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError, ValueError):
            continue
    try:
        oci_validate.check(config)  # type: ignore[arg-type]
    except (InvalidArgument, errors.NotImplemented):
        pass


@given(junk)
def test_no_process_makes_the_check_fail_otherwise(value: Any) -> None:
    try:
        oci_validate.check_process(value)
    except (InvalidArgument, errors.NotImplemented):
        pass
