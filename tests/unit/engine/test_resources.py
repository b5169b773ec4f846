from __future__ import annotations

import os

import pytest

from wherry.engine import resources
from wherry.errors import InvalidArgument
from wherry.wire.engine import DeviceMapping, HostConfig, ThrottleDevice

MIB = 1024 * 1024


def section(**host: object) -> dict[str, object]:
    config = HostConfig(**host)
    resources.check(config)
    return dict(resources.resources(config, []))


def test_nothing_asked_for_writes_nothing_but_device_rules() -> None:
    assert section() == {"devices": []}


def test_memory_alone_allows_as_much_swap() -> None:
    assert section(memory=64 * MIB)["memory"] == {"limit": 64 * MIB, "swap": 128 * MIB}


def test_unlimited_swap_stays_unlimited() -> None:
    assert section(memory=64 * MIB, memory_swap=-1)["memory"] == {"limit": 64 * MIB, "swap": -1}


def test_cpus_become_a_quota_of_a_tenth_of_a_second() -> None:
    assert section(nano_cpus=500_000_000)["cpu"] == {"period": 100_000, "quota": 50_000}


def test_pids_limit_of_zero_or_less_is_no_limit() -> None:
    assert "pids" not in section(pids_limit=-1)
    assert section(pids_limit=7)["pids"] == {"limit": 7}


def test_throttles_name_the_devices_numbers() -> None:
    info = os.stat("/dev/null")
    throttles = section(blkio_device_read_bps=[ThrottleDevice(path="/dev/null", rate=1024)])["blockIO"]
    assert throttles == {
        "throttleReadBpsDevice": [{"major": os.major(info.st_rdev), "minor": os.minor(info.st_rdev), "rate": 1024}]
    }


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"memory": 1024}, "Minimum memory limit allowed is 6MB"),
        ({"memory_swap": 64 * MIB}, "You should always set the Memory limit"),
        ({"memory": 64 * MIB, "memory_swap": 32 * MIB}, "Minimum memoryswap limit should be larger"),
        ({"nano_cpus": 10**13}, "range of CPUs is from 0.01"),
        ({"nano_cpus": 10**9, "cpu_quota": 5000}, "Conflicting options"),
        ({"blkio_weight": 5}, "Range of blkio weight is from 10 to 1000"),
        ({"oom_score_adj": 2000}, "range for oom score adj"),
        ({"cpuset_cpus": "0-a"}, "Invalid value 0-a for cpuset cpus"),
        ({"memory_swappiness": 101}, "valid memory swappiness range is 0-100"),
    ],
)
def test_impossible_limits_are_refused_in_dockers_words(host: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        resources.check(HostConfig(**host))


def test_a_device_appears_under_its_new_path_with_its_access() -> None:
    host = HostConfig(
        devices=[DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/hole", cgroup_permissions="r")]
    )
    mapped = resources.devices(host)
    assert [device["path"] for device in mapped] == ["/dev/hole"]
    assert {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"} in resources.device_rules(host, mapped)


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="error gathering device information"):
        resources.devices(HostConfig(devices=[DeviceMapping(path_on_host="/etc/hostname")]))


def test_by_default_every_device_is_denied_first() -> None:
    assert resources.device_rules(HostConfig(), [])[0] == {"allow": False, "access": "rwm"}


@pytest.mark.parametrize("rule", ["c 1:3", "x 1:3 rwm", "c 1:x r", "c 1:3 q", "c 1 rwm"])
def test_a_malformed_device_rule_is_refused(rule: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid device cgroup rule format"):
        resources.device_rules(HostConfig(device_cgroup_rules=[rule]), [])
