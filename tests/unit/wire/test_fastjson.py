"""fastjson agrees with the standard library's json on every value, and refuses what is not JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.wire import fastjson

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(values)
def test_what_is_written_reads_back_as_it_was(value: object) -> None:
    assert fastjson.loads(fastjson.dumps(value)) == value


@given(values)
def test_output_is_that_of_the_standard_library(value: object) -> None:
    assert fastjson.dumps(value) == json.dumps(value, separators=(",", ":")).encode()


@given(values, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_input_of_any_layout_and_encoding_is_read(value: object, ascii_only: bool, indent: int | str | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
        return
    assert fastjson.loads(b" \n" + encoded + b"\r\t") == value


@given(st.text())
def test_text_that_is_not_json_is_refused_as_the_standard_library_does(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            fastjson.loads(text)
    else:
        if text.strip() not in ("NaN", "Infinity", "-Infinity"):
            assert fastjson.loads(text) == expected


@pytest.mark.parametrize(
    "data",
    [b"", b" ", b"{} {}", b"[1,]", b"{'a':1}", b'{"a":1', b'"\xff"', b"NaN", b"-Infinity", b"[" * 200_000, b'"a\nb"', b"\xef\xbb\xbf1"],
    ids=repr,
)  # fmt: skip
def test_malformed_input_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        fastjson.loads(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_that_json_lacks_are_refused(value: object) -> None:
    with pytest.raises(ValueError):
        fastjson.dumps(value)


@pytest.mark.parametrize("value", [b"bytes", {1: 2}, object(), {"set"}])
def test_values_that_json_lacks_are_type_errors(value: object) -> None:
    with pytest.raises(TypeError):
        fastjson.dumps(value)


def test_importing_it_does_not_load_the_json_package() -> None:
    source = "import sys; sys.path[:] = sys.argv[1:]; import wherry.wire.fastjson; print('json' in sys.modules, 're' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source, *sys.path], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["False", "False"]
