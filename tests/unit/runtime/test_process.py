"""A process's description is understood, or refused by name, before anything is forked."""

from __future__ import annotations

from typing import Any

import pytest

from wherry import errors
from wherry.runtime.process import Plan, parse_personality


def plan(**changes: Any) -> Plan:
    return Plan({"args": ["true"], "cwd": "/", **changes}, seccomp_bpf=None)  # type: ignore[typeddict-item]


def test_words_are_encoded_beforehand() -> None:
    made = plan(args=["écho", "\udcff"], env=["A=ü"])
    assert made.argv == ["écho".encode(), b"\xff"]
    assert made.env == ["A=ü".encode()]


def test_defaults() -> None:
    made = plan()
    assert (made.uid, made.gid, made.additional_groups, made.umask, made.oom_score_adj) == (0, 0, [], 0o022, None)
    assert made.caps.permitted == 0
    assert not made.no_new_privileges


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"args": []}, "process.args"),
        ({"args": ["a\0"]}, "NUL"),
        ({"env": ["A=\0"]}, "process.env"),
        ({"cwd": "here"}, "process.cwd"),
        ({"user": {"uid": -1}}, "process.user.uid"),
        ({"user": {"uid": 2**32 - 1}}, "process.user.uid"),
        ({"user": {"gid": True}}, "process.user.gid"),
        ({"user": {"additionalGids": [2**32]}}, "additionalGids"),
        ({"rlimits": [{"type": "RLIMIT_X", "soft": 0, "hard": 0}]}, "RLIMIT_X"),
        ({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]}, "RLIMIT_NOFILE"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_WARP"}}, "IOPRIO_CLASS_WARP"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=words):
        plan(**changes)


def test_what_wherry_does_not_do_is_named() -> None:
    with pytest.raises(errors.NotImplemented, match="flags"):
        parse_personality({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]})


def test_unlimited_is_a_limit() -> None:
    made = plan(rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1}])
    assert made.rlimits == [("RLIMIT_CORE", 4, 0, 2**64 - 1)]


def test_admin_is_kept_for_the_filter_only_without_no_new_privileges() -> None:
    for no_new_privileges in (True, False):
        made = Plan({"args": ["x"], "noNewPrivileges": no_new_privileges}, seccomp_bpf=b"\0" * 8)
        assert made.keeps_admin_for_seccomp is not no_new_privileges
    assert not plan().keeps_admin_for_seccomp
