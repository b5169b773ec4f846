"""Docker's seccomp profiles: conditions settled for one container, malformed files refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidArgument
from wherry.spec import seccomp

AMD64 = seccomp.Host("x86_64", (6, 1))
DOCKER_CAPABILITIES = {"CAP_CHOWN", "CAP_KILL", "CAP_SYS_CHROOT", "CAP_SETUID"}


def names(capabilities: set[str], host: seccomp.Host = AMD64) -> set[str]:
    found = seccomp.section(seccomp.default_profile(), capabilities=capabilities, host=host)
    return {name for rule in found["syscalls"] for name in rule["names"] if rule["action"] == "SCMP_ACT_ALLOW"}


def test_the_default_profile_denies_what_docker_denies() -> None:
    allowed = names(DOCKER_CAPABILITIES)
    assert {"read", "chroot", "ptrace", "clone", "arch_prctl"} <= allowed
    assert allowed.isdisjoint(
        {"mount", "bpf", "kexec_load", "add_key", "keyctl", "userfaultfd", "unshare", "io_uring_setup", "reboot"}
    )


def test_capabilities_open_their_system_calls() -> None:
    allowed = names(DOCKER_CAPABILITIES | {"CAP_SYS_ADMIN", "CAP_SYS_TIME"})
    assert {"mount", "unshare", "clock_settime"} <= allowed
    assert "reboot" not in allowed


def test_a_rule_for_newer_kernels_is_left_out_on_older_ones() -> None:
    assert "ptrace" not in names(set(), seccomp.Host("x86_64", (4, 7)))


def test_rules_of_other_architectures_are_left_out() -> None:
    assert "arch_prctl" not in names(set(), seccomp.Host("aarch64", (6, 1)))


@pytest.mark.parametrize(
    ("machine", "architectures"),
    [
        ("x86_64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        ("aarch64", ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        ("riscv64", ["SCMP_ARCH_RISCV64"]),
    ],
)
def test_the_machine_picks_its_architectures(machine: str, architectures: list[str]) -> None:
    found = seccomp.section(seccomp.default_profile(), capabilities=(), host=seccomp.Host(machine, (6, 1)))
    assert found["architectures"] == architectures


def test_clone_without_sys_admin_makes_no_namespace_and_clone3_says_enosys() -> None:
    found = seccomp.section(seccomp.default_profile(), capabilities=DOCKER_CAPABILITIES, host=AMD64)
    rules = {name: rule for rule in found["syscalls"] for name in rule["names"]}
    assert rules["clone"]["args"][0]["op"] == "SCMP_CMP_MASKED_EQ"
    assert (rules["clone3"]["action"], rules["clone3"]["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_an_old_profile_with_name_in_place_of_names_works() -> None:
    profile = seccomp.parse_profile(
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"chmod","action":"SCMP_ACT_ERRNO","args":null}]}'
    )
    assert seccomp.section(profile, capabilities=(), host=AMD64) == {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}],
    }


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.18.4-fc", (6, 18)), ("4.8", (4, 8)), ("5.10-rc1", (5, 10)), ("x", (0, 0)), ("", (0, 0))],
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert seccomp.parse_kernel(release) == version


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "Decoding seccomp profile failed"),
        ("[]", "JSON object"),
        ("[" * 100_000, "Decoding seccomp profile failed"),
        ("{}", "defaultAction"),
        ('{"defaultAction":"ALLOW"}', "defaultAction"),
        ('{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":-1}', "defaultErrnoRet"),
        ('{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}', "flags"),
        ('{"defaultAction":"SCMP_ACT_ALLOW","syscalls":{}}', "syscalls"),
        ('{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[1]}', r"syscalls\[0\]"),
        ('{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}', r"syscalls\[0\]\.names"),
        (
            '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"name":"a","action":"SCMP_ACT_ALLOW"}]}',
            "use either",
        ),
        ('{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"no"}]}', r"syscalls\[0\]\.action"),
        ('{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x"],"archMap":[{"architecture":"x"}]}', "use either"),
        (
            '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}',
            r"args\[0\]\.index",
        ),
        (
            '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG","includes":{"minKernel":"4"}}]}',
            "minKernel",
        ),
    ],
)
def test_a_malformed_profile_is_refused_by_field(text: str, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        seccomp.parse_profile(text)


keys = st.sampled_from(
    [
        "defaultAction",
        "defaultErrnoRet",
        "archMap",
        "architectures",
        "flags",
        "syscalls",
        "names",
        "name",
        "action",
        "args",
        "includes",
    ]
    + ["caps", "arches", "minKernel", "index", "value", "op", "architecture", "subArchitectures", "SCMP_ACT_ALLOW"]
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


@given(values)
def test_any_json_is_either_a_profile_or_refused(value: Any) -> None:
    if isinstance(value, dict):
        value.setdefault("defaultAction", "SCMP_ACT_ALLOW")
    try:
        profile = seccomp.parse_profile(json.dumps(value))
    except InvalidArgument:
        return
    seccomp.section(profile, capabilities=(), host=AMD64)
