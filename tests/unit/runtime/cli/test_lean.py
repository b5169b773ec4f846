"""The codecs of an interpreter that starts with `cli/lean` before its standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LEAN = Path(__file__).resolve().parents[4] / "src/wherry/runtime/cli/lean"


def python(code: str, **environment: str) -> str:
    command = [sys.executable, "-s", "-P", "-S", "-c", code]
    return subprocess.run(
        command, env={"PYTHONPATH": str(LEAN), **environment}, capture_output=True, text=True, check=True
    ).stdout


def test_a_start_needs_no_other_codec() -> None:
    shown = python("import sys; print(sys.modules['encodings'].__file__, *sys.modules)")
    assert shown.split()[0] == f"{LEAN}/encodings/__init__.py"
    assert not [name for name in shown.split()[1:] if name.startswith("encodings.")]


def test_its_codec_does_what_utf_8_does() -> None:
    code = """
import codecs, io, sys
text = "\\u00e4\\U0001f600\\udcff"
coded = text.encode("utf-8", "surrogateescape")
info = codecs.lookup("UTF-8")
print(info.name, info.decode(coded, "surrogateescape") == (text, 7), info.encode(text[:2]) == (coded[:6], 2))
decoder = codecs.getincrementaldecoder("utf-8")("strict")
print([decoder.decode(coded[at : at + 1]) for at in range(6)] == ["", "\\u00e4", "", "", "", "\\U0001f600"])
file = io.TextIOWrapper(io.BytesIO(coded[:6] + b"\\n"), encoding="utf-8")
print(file.readline() == text[:2] + "\\n", codecs.getreader("utf-8")(io.BytesIO(coded[:6])).read() == text[:2])
writer = codecs.getwriter("utf-8")(io.BytesIO())
writer.write(text[:2])
print(writer.getvalue() == coded[:6], sys.modules["encodings"].__file__.endswith("lean/encodings/__init__.py"))
"""
    assert set(python(code).replace("utf-8", "True").split()) == {"True"}


@pytest.mark.parametrize(
    "code",
    [
        "print('\\u00e9'.encode('cp1252') == b'\\xe9')",
        "import encodings.idna; print('b\\u00fccher'.encode('idna') == b'xn--bcher-kva')",
        "import encodings.aliases; print(len(encodings.aliases.aliases) > 100)",
        "import codecs\ntry: codecs.lookup('nope')\nexcept LookupError: print(True)",
    ],
)
def test_all_others_are_there(code: str) -> None:
    assert python(code) == "True\n"


def test_also_where_the_interpreter_itself_asks_for_another() -> None:
    assert python("import sys; print(sys.stdout.encoding)", PYTHONIOENCODING="latin-1") == "iso8859-1\n"
