from __future__ import annotations

from typing import Any

import pytest

from wherry.errors import InvalidArgument
from wherry.linux.cgroups import systemd
from wherry.linux.cgroups import systemd_properties as properties
from wherry.linux.dbus import Variant

INFINITY = 2**64 - 1


@pytest.mark.parametrize(
    ("name", "path"),
    [("-.slice", ""), ("system.slice", "/system.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")],
)
def test_a_slice_lies_in_those_that_its_name_begins_with(name: str, path: str) -> None:
    assert systemd.expand_slice(name) == path


@pytest.mark.parametrize(
    "name", ["", "slice", ".slice", "a", "a/b.slice", "-a.slice", "a-.slice", "a--b.slice", "a b.slice"]
)
def test_what_is_no_slice_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        systemd.expand_slice(name)


@pytest.mark.parametrize(
    ("path", "unit"),
    [("", ("", "wherry-box.scope")), ("s.slice:p:n", ("s.slice", "p-n.scope")), (":p:a-b.slice", ("", "a-b.slice"))],
)
def test_a_path_names_slice_and_unit(path: str, unit: tuple[str, str]) -> None:
    assert systemd.parse_path(path, "box") == unit


def told(resources: Any, mode: str = "v2", version: int = 252) -> dict[str, Any]:
    return {name: value.value for name, value in properties.of_resources(resources, mode=mode, version=version)}


@pytest.mark.parametrize(
    ("resources", "mode", "wanted"),
    [
        ({}, "v2", {}),
        ({"memory": {"limit": 100, "swap": 150, "reservation": 50}}, "v2", {"MemoryMax": 100, "MemorySwapMax": 50, "MemoryLow": 50}),
        ({"memory": {"limit": -1}}, "v2", {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
        ({"memory": {"limit": 100, "swap": 150}}, "v1", {"MemoryLimit": 100}),
        ({"cpu": {"shares": 1024}}, "v2", {"CPUWeight": 100}),
        ({"cpu": {"shares": 1024, "idle": 1}}, "v2", {"CPUWeight": 0}),
        ({"cpu": {"shares": 7}}, "v1", {"CPUShares": 7}),
        ({"cpu": {"quota": 33333}}, "v2", {"CPUQuotaPerSecUSec": 340000}),
        ({"cpu": {"quota": -1, "period": 5000}}, "v2", {"CPUQuotaPerSecUSec": INFINITY, "CPUQuotaPeriodUSec": 5000}),
        ({"cpu": {"cpus": "0,9", "mems": "0"}}, "v2", {"AllowedCPUs": b"\1\2", "AllowedMemoryNodes": b"\1"}),
        ({"pids": {"limit": -1}}, "v2", {"TasksMax": INFINITY}),
        ({"blockIO": {"weight": 500}}, "v1", {"BlockIOWeight": 500}),
        ({"unified": {"memory.high": "max", "cpu.max": "10000 20000", "pids.max": "5", "io.max": "8:0 rbps=1"}}, "v2",
         {"MemoryHigh": INFINITY, "CPUQuotaPeriodUSec": 20000, "CPUQuotaPerSecUSec": 500000, "TasksMax": 5}),
        ({"devices": [{"allow": True, "access": "rwm"}]}, "v2", {"DevicePolicy": "auto", "DeviceAllow": []}),
        ({"devices": [{"allow": False}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"},
                      {"allow": True, "type": "b", "access": "m"}]},
         "v2", {"DevicePolicy": "strict", "DeviceAllow": [("/dev/char/1:3", "r"), ("block-*", "m")]}),
    ],
)  # fmt: skip
def test_limits_as_properties(resources: Any, mode: str, wanted: dict[str, Any]) -> None:
    assert told(resources, mode) == wanted


def test_an_older_systemd_is_not_told_what_it_does_not_know() -> None:
    assert told({"cpu": {"quota": 1000, "period": 2000, "cpus": "0"}}, version=241) == {"CPUQuotaPerSecUSec": 500000}


def test_out_of_memory_is_decided_at_the_start() -> None:
    assert properties.at_start({"memory.oom.group": "1"}) == [("OOMPolicy", Variant("s", "kill"))]
    assert properties.at_start({}) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'text'", Variant("s", "text")), ('"it\\"s"', Variant("s", 'it"s')), ("true", Variant("b", True)), ("7", Variant("i", 7)),
        ("-0x10", Variant("i", -16)), ("uint64 5", Variant("t", 5)), ("1.5", Variant("d", 1.5)), ("double 2", Variant("d", 2.0)),
        ("['a', 'b']", Variant("as", ["a", "b"])), ("@as []", Variant("as", [])), ("[byte 1, byte 2]", Variant("ay", b"\1\2")),
        ("@au [1, 2]", Variant("au", [1, 2])),
    ],
)  # fmt: skip
def test_annotations_have_values_of_gvariants_form(text: str, value: Variant) -> None:
    assert properties.of_annotations({"org.systemd.property.SomeName": text, "other": "x"}) == [("SomeName", value)]


def test_seconds_become_microseconds() -> None:
    found = properties.of_annotations({"org.systemd.property.TimeoutStopSec": "uint64 2"})
    assert found == [("TimeoutStopUSec", Variant("t", 2000000))]


@pytest.mark.parametrize("text", ["", "'open", "[1, 'a']", "[", "[]", "what", "1 2", "uint64 x", "(1, 2)", "{'a': 1}"])
def test_a_value_that_is_not_understood_names_its_annotation(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"annotation org\.systemd\.property\.SomeName"):
        properties.of_annotations({"org.systemd.property.SomeName": text})
