"""What an ordered list of device rules comes to, and that the BPF program says the same."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidArgument
from wherry.linux.cgroups.devices import Policy, policy, spell
from wherry.linux.devices_bpf import program
from wherry.spec.oci import DeviceRule

DENY_ALL: DeviceRule = {"allow": False, "access": "rwm"}


def run(code: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """An interpreter of the seven instructions that `program` uses, by the kernel's bpf documentation."""
    instructions = [struct.unpack_from("<BBhi", code, at) for at in range(0, len(code), 8)]
    context = {0: access << 16 | kind, 4: major, 8: minor}
    register = [0] * 11
    at = 0
    while True:
        operation, registers, offset, immediate = instructions[at]
        destination, source = registers & 15, registers >> 4
        at += 1
        match operation:
            case 0x61:
                register[destination] = context[offset]
            case 0xBC:
                register[destination] = register[source]
            case 0xB7:
                register[destination] = immediate
            case 0x54:
                register[destination] &= immediate
            case 0x74:
                register[destination] >>= immediate
            case 0x56:
                at += offset if register[destination] != immediate else 0
            case 0x5E:
                at += offset if register[destination] != register[source] else 0
            case 0x16:
                at += offset if register[destination] == immediate else 0
            case 0x95:
                return register[0]
            case _:
                raise AssertionError(f"instruction {operation:#x}")


def test_without_rules_everything_is_allowed() -> None:
    assert policy([]).allows("c", 1, 3, "rwm")


def test_denied_are_all_but_the_exceptions() -> None:
    rules = policy([DENY_ALL, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}])
    assert rules.allows("c", 1, 3, "rw")
    assert not rules.allows("c", 1, 3, "m")
    assert not rules.allows("b", 1, 3, "r")
    assert not rules.allows("c", 1, 5, "r")


def test_accesses_of_two_rules_for_one_device_add_up() -> None:
    read: DeviceRule = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}
    rules = policy([DENY_ALL, read, {**read, "access": "w"}])
    assert rules.allows("c", 1, 3, "rw")


def test_a_later_denial_of_the_same_device_takes_back() -> None:
    rule: DeviceRule = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
    rules = policy([DENY_ALL, rule, {**rule, "allow": False, "access": "w"}])
    assert rules.exceptions == {("c", 1, 3): "rm"}


def test_a_denial_inside_a_wildcard_is_refused_because_the_kernel_would_ignore_it() -> None:
    with pytest.raises(InvalidArgument, match=r"devices\[2\]"):
        policy([DENY_ALL, {"allow": True, "type": "c"}, {"allow": False, "type": "c", "major": 1, "minor": 3}])


@pytest.mark.parametrize(
    "rule",
    [
        {"type": "x"},
        {"access": "rwx"},
        {"type": "c", "major": -2},
        {"type": "c", "minor": 1 << 40},
        {"type": "a", "major": 1},
    ],
)
def test_a_malformed_rule_names_itself(rule: DeviceRule) -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.resources\.devices\[0\]"):
        policy([rule])


def test_an_exception_is_spelled_as_v1_reads_it() -> None:
    assert spell(("c", 1, -1), "rw") == "c 1:* rw"


number = st.one_of(st.just(-1), st.integers(0, 3))
key = st.tuples(st.sampled_from("bc"), number, number)
access = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda letters: "".join(sorted(letters)))


device = st.tuples(st.sampled_from("bc"), st.integers(0, 3), st.integers(0, 3))


@given(st.booleans(), st.dictionaries(key, access, max_size=6), device, access)
def test_the_program_decides_as_the_policy(
    default: bool, exceptions: dict[tuple[str, int, int], str], asked: tuple[str, int, int], wanted: str
) -> None:
    rules = Policy(default)
    rules.exceptions = exceptions
    kind, major, minor = asked
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in wanted)
    verdict = run(program(rules), {"b": 1, "c": 2}[kind], bits, major, minor)
    assert verdict == int(rules.allows(kind, major, minor, wanted))
