"""The messages between wherryd, the zygote and the shims: JSON objects in frames, with file descriptors beside them.

A frame on an AF_UNIX stream is a 4-byte big-endian length and that many bytes of a UTF-8 JSON object. Descriptors travel as SCM_RIGHTS with
the frame's first byte; the message counts them in `"fds"` and refers to each by its index.

    request  {"id": 7, "op": "attach", …, "fds": 1}
    answer   {"id": 7, "ok": {…}}   or   {"id": 7, "error": {"kind": "Conflict", "message": …, "step": …, "errno": …}}
    event    {"event": "exit", …}                                  (no id: nobody asked)

Used in wherryd, the zygote and the shims. **Invariants**: sans-io; a frame above 16 MiB, more than 32 descriptors, or descriptors that no
message counts are refused; whatever descriptors a decoder was given it hands out once, or gives back by `abandon`.
Deliberately absent: sockets, and the meaning of the operations (`shim.supervisor` and `core.tasks` have it).
"""

from __future__ import annotations

from wherry import errors
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, TypedDict

    from wherry.spec import oci

    Message = dict[str, Any]
    Frame = tuple[Message, list[int]]

    class OverlayRootfs(TypedDict):
        type: str  # "overlay", "fuse-overlayfs" or "erofs"
        lower: list[str]  # topmost first
        upper: str
        work: str

    class BindRootfs(TypedDict):
        type: str  # "bind"
        path: str

    class LogConfig(TypedDict, total=False):
        driver: str  # "json-file" or "none"
        path: str
        max_size: int | None
        max_file: int
        attrs: dict[str, str]

    class StdioConfig(TypedDict):
        stdin: bool
        stdin_once: bool

    class AttachConfig(TypedDict, total=False):
        fd: int
        stdin: bool
        stdout: bool
        stderr: bool

    class CopyUp(TypedDict):
        source: str  # the volume's directory, a path on the host
        destination: str  # where it is mounted, a path in the container

    class RuntimeConfig(TypedDict, total=False):
        path: str
        args: list[str]

    class UserConfig(TypedDict):
        user: str  # "name[:group]", numbers too; "" is root
        group_add: list[str]

    class StartRequest(TypedDict, total=False):
        container: str
        state_dir: str
        config: oci.Config
        rootfs: OverlayRootfs | BindRootfs
        stdio: StdioConfig
        log: LogConfig
        seccomp: str | None
        netns_fd: int | None
        attach: list[AttachConfig]
        copy_up: list[CopyUp]
        subpaths: dict[str, str]  # by a bind mount's destination: what of its source is mounted
        runtime: RuntimeConfig | None
        user: UserConfig | None  # None: the numbers in config.process.user count
        note: dict[str, object]  # goes into shim.json as it is

    class ExitRecord(TypedDict):
        event: str  # "exit"
        exec_id: str | None
        status: int
        oom_killed: bool
        at_ns: int
        pid: int


MAX_FRAME = 16 * 1024 * 1024
MAX_FDS = 32
_HEADER = 4


class FrameError(errors.DataLoss):
    """The peer does not speak this protocol; the connection is of no further use."""


def frame(payload: bytes) -> bytes:
    """`payload`, an encoded JSON object, as a frame."""
    if len(payload) > MAX_FRAME:
        raise FrameError(f"a message of {len(payload)} bytes is above the limit of {MAX_FRAME}")
    return len(payload).to_bytes(_HEADER, "big") + payload


def encode(message: Mapping[str, Any]) -> bytes:
    """`message` as a frame. The caller has put `"fds"` in when it sends descriptors along."""
    return frame(fastjson.dumps(message))


class Decoder:
    """Takes what `recvmsg` returned, gives whole messages with their descriptors."""

    __slots__ = ("_buffer", "_fds")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: list[int] = []

    def receive(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Adds input. Never fails: `next_frame` judges."""
        self._buffer += data
        self._fds += fds

    def next_frame(self) -> Frame | None:
        """The next whole message and its descriptors (now the caller's to close); None when more input is needed.

        FrameError when the input is not of this protocol; call `abandon` then.
        """
        buffer = self._buffer
        if len(buffer) < _HEADER:
            if len(self._fds) > MAX_FDS:
                raise FrameError(f"more than {MAX_FDS} descriptors with one message")
            return None
        length = int.from_bytes(buffer[:_HEADER], "big")
        if length > MAX_FRAME:
            raise FrameError(f"a message of {length} bytes is above the limit of {MAX_FRAME}")
        end = _HEADER + length
        if len(buffer) < end:
            return None
        message = _parse(bytes(buffer[_HEADER:end]))
        del buffer[:end]
        count = message.get("fds", 0)
        if type(count) is not int or not 0 <= count <= MAX_FDS:
            raise FrameError("fds is not a count of descriptors")
        if count > len(self._fds):
            raise FrameError(f"a message counts {count} descriptors, {len(self._fds)} came")
        fds = self._fds[:count]
        del self._fds[:count]
        if self._fds and not buffer:
            self._fds[:0] = fds
            raise FrameError("descriptors came that no message counts")
        return message, fds

    def abandon(self) -> list[int]:
        """The descriptors that no message has claimed, for the caller to close. The decoder is empty afterwards."""
        fds, self._fds = self._fds, []
        self._buffer.clear()
        return fds


def _parse(payload: bytes) -> Message:
    try:
        message = fastjson.loads(payload)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a message is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise FrameError("a message is not a JSON object")
    return message


_KINDS = {
    kind.__name__: kind
    for kind in (
        errors.NotFound, errors.InvalidArgument, errors.AlreadyExists, errors.Conflict, errors.FailedPrecondition, errors.NotModified,
        errors.PermissionDenied, errors.Unavailable, errors.NotImplemented, errors.DeadlineExceeded, errors.DataLoss, errors.Internal,
    )
}  # fmt: skip


def error_to_message(error: BaseException) -> Message:
    """The `"error"` member of an answer. An exception that is not wherry's is Internal."""
    if isinstance(error, errors.StartError):
        return {"kind": "StartError", "message": error.message, "step": error.step, "errno": error.errno}
    for name, kind in _KINDS.items():
        if isinstance(error, kind):
            return {"kind": name, "message": str(error), "errno": getattr(error, "errno", 0)}
    return {
        "kind": "Internal",
        "message": f"{type(error).__name__}: {error}",
        "errno": getattr(error, "errno", None) or 0,
    }


def error_from_message(error: object) -> errors.WherryError:
    """The exception that an `"error"` member stands for. An unknown kind is Internal."""
    if not isinstance(error, dict):
        return errors.Internal(f"malformed error: {error!r}")
    text = str(error.get("message", ""))
    if error.get("kind") == "StartError":
        errno = error.get("errno", 0)
        return errors.StartError(str(error.get("step", "")), text, errno if isinstance(errno, int) else 0)
    return _KINDS.get(str(error.get("kind")), errors.Internal)(text)
