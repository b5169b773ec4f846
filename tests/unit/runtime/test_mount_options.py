"""Every word of a mount's options ends in one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidArgument
from wherry.linux import mounts
from wherry.runtime import mount_options


def test_attributes_data_and_flags_are_told_apart() -> None:
    options = mount_options.parse(["rbind", "ro", "nosuid", "rslave", "size=1m", "noswap", "tmpcopyup", "sync"])
    assert options.bind
    assert options.recursive
    assert options.copy_up
    assert options.attributes.set == mounts.RDONLY | mounts.NOSUID
    assert (options.propagation, options.propagate_recursively) == (mounts.SLAVE, True)
    assert options.data == [("size", "1m"), ("noswap", None), ("sync", None)]


def test_the_later_of_two_opposite_words_counts() -> None:
    assert not mount_options.parse(["ro", "rw"]).readonly
    assert mount_options.parse(["rw", "ro"]).readonly
    assert mount_options.parse(["rw", "ro"]).attributes.clear == 0
    assert mount_options.parse(["noexec", "exec"]).attributes.clear == mounts.NOEXEC


def test_access_times_are_one_field() -> None:
    attributes = mount_options.parse(["noatime", "strictatime"]).attributes
    assert attributes.set == mounts.STRICTATIME
    assert attributes.clear == mounts.ATIME_MASK
    assert mount_options.parse(["relatime"]).attributes.set == 0


def test_recursive_attributes_are_their_own() -> None:
    options = mount_options.parse(["rro", "rnosuid", "rexec"])
    assert options.recursive_attributes.set == mounts.RDONLY | mounts.NOSUID
    assert options.recursive_attributes.clear == mounts.NOEXEC
    assert not options.attributes


def test_a_word_nobody_knows_goes_to_the_file_system() -> None:
    assert mount_options.parse(["hidepid=2", "nonsense"]).data == [("hidepid", "2"), ("nonsense", None)]


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        mount_options.parse(["size=\0"])


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1, max_size=12)))
def test_no_word_is_lost(words: list[str]) -> None:
    options = mount_options.parse(words)
    known = (
        mount_options._ATTRIBUTES.keys()
        | mount_options._INVERSE.keys()
        | mount_options._PROPAGATION.keys()
        | mount_options._IGNORED
    )
    known |= {f"r{word}" for word in known} | {"bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"}
    spelled = [key if value is None else f"{key}={value}" for key, value in options.data]
    assert spelled == [word for word in words if word not in known]


@pytest.mark.parametrize(
    ("word", "expected"), [("", (0, False)), ("rshared", (mounts.SHARED, True)), ("private", (mounts.PRIVATE, False))]
)
def test_propagation_of_the_root(word: str, expected: tuple[int, bool]) -> None:
    assert mount_options.propagation(word) == expected


def test_an_unknown_propagation_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="sideways"):
        mount_options.propagation("sideways")
