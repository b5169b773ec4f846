"""nftables through libnftables, in-process: the `nft` language without a process per change.

Runs in wherryd. A context keeps the network namespace of the thread that made it and serves one thread at a time; ctypes
releases the interpreter lock during a call. A call is one transaction of the kernel: all commands of its text hold, or none.
Source: libnftables(3), libnftables-json(5), nft(8).

**Invariant**: text that reaches `run` is made by wherry from checked values; the library parses it as nft does, `include` and all.

Deliberately absent: netlink messages of nf_tables by hand, iptables.
"""

from __future__ import annotations

import ctypes

from wherry.errors import FailedPrecondition, Internal

_LIBRARY = "libnftables.so.1"
_OUTPUT_JSON = 1 << 4


class NftError(Internal):
    """nft refused the commands; `detail` is its own text."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"nftables: {detail}")
        self.detail = detail


class Nftables:
    """One context. FailedPrecondition when the library is not installed."""

    def __init__(self) -> None:
        self._library = library = _load()
        self._context: int | None = library.nft_ctx_new(0)
        if not self._context:
            raise FailedPrecondition("libnftables gives no context")
        if library.nft_ctx_buffer_output(self._context) or library.nft_ctx_buffer_error(self._context):
            self.close()
            raise FailedPrecondition("libnftables cannot buffer its output")

    def __enter__(self) -> Nftables:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str, *, json: bool = False) -> str:
        """What the commands print, as nft's text or its JSON. NftError when one is refused; then none has had an effect."""
        library, context = self._library, self._context
        if b"\0" in (text := commands.encode()):
            raise NftError("a command contains a NUL")
        library.nft_ctx_output_set_flags(context, _OUTPUT_JSON if json else 0)
        failed = library.nft_run_cmd_from_buffer(context, text)
        output = (library.nft_ctx_get_output_buffer(context) or b"").decode("utf-8", "replace")
        detail = (library.nft_ctx_get_error_buffer(context) or b"").decode("utf-8", "replace")
        if failed:
            raise NftError(detail.strip() or "refused without a reason")
        return output


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise FailedPrecondition(
            f"{_LIBRARY} cannot be loaded ({error}): install the package libnftables1 (Debian, Ubuntu) or nftables (Fedora, Arch)"
        ) from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    library.nft_ctx_output_set_flags.restype = None
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
