"""From capability names to masks."""

from __future__ import annotations

import pytest

from wherry.linux import capabilities


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of 41 capabilities whose runtime holds all but CAP_SYS_RESOURCE (24)."""
    monkeypatch.setattr(capabilities, "_cached", (41, (1 << 41) - 1 & ~(1 << 24)))


def test_every_capability_of_the_kernel_has_its_number() -> None:
    assert len(capabilities.NAMES) == 41
    assert (
        capabilities.NUMBER["CAP_CHOWN"],
        capabilities.NUMBER["CAP_SYS_ADMIN"],
        capabilities.NUMBER["CAP_CHECKPOINT_RESTORE"],
    ) == (0, 21, 40)


def test_the_five_sets_are_kept_apart() -> None:
    sets, left_out = capabilities.parse(
        {
            "bounding": ["CAP_CHOWN"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_SETUID", "CAP_MKNOD"],
            "permitted": ["CAP_SETGID", "CAP_MKNOD"],
            "ambient": ["CAP_MKNOD"],
        }
    )
    assert (sets.bounding, sets.effective, sets.inheritable, sets.permitted, sets.ambient) == (
        1 << 0,
        1 << 5,
        1 << 7 | 1 << 27,
        1 << 6 | 1 << 27,
        1 << 27,
    )
    assert left_out == []


def test_an_ambient_capability_that_is_not_inheritable_is_left_out() -> None:
    sets, warnings = capabilities.parse({"permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]})
    assert (sets.permitted, sets.ambient) == (1 << 5, 0)
    assert warnings == ["can't raise ambient capability CAP_KILL: it is not both permitted and inheritable"]


def test_what_cannot_be_granted_is_told_once() -> None:
    sets, warnings = capabilities.parse(
        {"bounding": ["CAP_NEW", "CAP_SYS_RESOURCE"], "permitted": ["CAP_SYS_RESOURCE", "CAP_KILL"]}
    )
    assert (sets.bounding, sets.permitted) == (0, 1 << 5)
    names = ("CAP_NEW", "CAP_SYS_RESOURCE")
    assert warnings == [f"capability {name} cannot be granted on this machine" for name in names]


def test_a_user_namespace_of_its_own_has_all_of_the_kernels() -> None:
    sets, left_out = capabilities.parse({"bounding": ["CAP_SYS_RESOURCE"]}, own_user_namespace=True)
    assert (sets.bounding, left_out) == (1 << 24, [])


def test_grantable_leaves_out_what_the_machine_lacks() -> None:
    assert "CAP_SYS_RESOURCE" not in capabilities.grantable()
    assert len(capabilities.grantable()) == 40
