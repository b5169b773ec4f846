"""`encodings` with the one codec that `wherry-runc` uses. The interpreter imports that package each time it starts, with a table of
hundreds of aliases: a tenth of its start. When something asks for another codec, the real one is loaded and takes this one's place.

Executed before anything else of Python's in files. Found by PYTHONPATH, which `entry` removes at once.
"""

import codecs
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__path__ = [f"{sys.prefix}/{sys.platlibdir}/python{sys.version_info[0]}.{sys.version_info[1]}/encodings"]
"""The real one's: its modules are found as ever."""


class _IncrementalEncoder(codecs.IncrementalEncoder):
    def encode(self, input: str, final: bool = False) -> bytes:
        return codecs.utf_8_encode(input, self.errors)[0]


class _IncrementalDecoder(codecs.BufferedIncrementalDecoder):
    _buffer_decode = codecs.utf_8_decode  # type: ignore[assignment]


class _StreamWriter(codecs.StreamWriter):
    encode = codecs.utf_8_encode  # type: ignore[assignment]


class _StreamReader(codecs.StreamReader):
    decode = codecs.utf_8_decode  # type: ignore[assignment]


def _decode(input: "ReadableBuffer", errors: "str | None" = "strict") -> tuple[str, int]:
    return codecs.utf_8_decode(input, errors, True)


_UTF_8 = codecs.CodecInfo(
    codecs.utf_8_encode, _decode, _StreamReader, _StreamWriter, _IncrementalEncoder, _IncrementalDecoder, "utf-8"
)


def search_function(name: str) -> "codecs.CodecInfo | None":
    if name == "utf_8":
        return _UTF_8
    from _frozen_importlib import _load  # type: ignore[attr-defined]
    from _frozen_importlib_external import spec_from_file_location

    if sys.modules["encodings"].__dict__ is globals():
        _load(
            spec_from_file_location(
                "encodings", f"{__path__[0]}/__init__.py", submodule_search_locations=list(__path__)
            )
        )
    found: codecs.CodecInfo | None = sys.modules["encodings"].search_function(name)
    return found


codecs.register(search_function)
