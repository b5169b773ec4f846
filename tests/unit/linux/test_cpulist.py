from __future__ import annotations

import pytest

from wherry.errors import InvalidArgument
from wherry.linux import cpulist


@pytest.mark.parametrize(
    ("text", "mask"), [("", 0), ("0", 1), ("0-3,7", 0b10001111), (" 1 , ,2-2,", 0b110), ("63-64", 3 << 63)]
)
def test_a_list_is_a_mask(text: str, mask: int) -> None:
    assert cpulist.parse(text, "cpus") == mask


@pytest.mark.parametrize("text", ["x", "-1", "1-", "3-1", "1-2-3", "65537", "1" * 5000, "٣"])
def test_what_is_no_list_names_its_field(text: str) -> None:
    with pytest.raises(InvalidArgument, match="cpus"):
        cpulist.parse(text, "cpus")


def test_a_mask_is_laid_out_in_whole_words() -> None:
    assert cpulist.words(1 << 64 | 1) == (1).to_bytes(8, "little") * 2
    assert cpulist.words(0) == bytes(8)
