"""CRIU's RPC: its messages as bytes, without I/O.

Protocol buffers as far as criu's images/rpc.proto needs them: varints and length-delimited fields, described by the
tables below, by the names and numbers of that file. Used by `criu`, in `wherry-runc`. **Invariant:** a message that is
cut, of another wire type or above the limits is DataLoss; fields that no table names are passed over. Absent: fixed
and packed fields, groups, and the options of criu that nothing here sets.
"""

from __future__ import annotations

from wherry.errors import DataLoss, Internal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Table = dict[str, tuple[int, Any]]

# criu_req_type
DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK, VERSION = 1, 2, 4, 6, 9, 10
TYPES = {DUMP: "DUMP", RESTORE: "RESTORE", PRE_DUMP: "PRE_DUMP", NOTIFY: "NOTIFY", FEATURE_CHECK: "FEATURE_CHECK", VERSION: "VERSION"}  # fmt: skip
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5, "": 6}
"""criu_cg_mode by the words of --manage-cgroups-mode; "" leaves it to criu."""
LIMIT = 40960
"""A message of criu's is smaller; one that is not ends the session."""

# A field is (number, kind): "int" (int32, uint32, enum), "bool", "text", or the table of an embedded message; [kind] is repeated.
_PAIR: Table = {"key": (1, "text"), "val": (2, "text")}
_OPTIONS: Table = {
    "images_dir_fd": (1, "int"), "pid": (2, "int"), "leave_running": (3, "bool"), "ext_unix_sk": (4, "bool"),
    "tcp_established": (5, "bool"), "evasive_devices": (6, "bool"), "shell_job": (7, "bool"), "file_locks": (8, "bool"),
    "log_level": (9, "int"), "log_file": (10, "text"), "ps": (11, {"address": (1, "text"), "port": (2, "int")}),
    "notify_scripts": (12, "bool"), "root": (13, "text"), "parent_img": (14, "text"), "track_mem": (15, "bool"),
    "auto_dedup": (16, "bool"), "work_dir_fd": (17, "int"), "link_remap": (18, "bool"), "ext_mnt": (23, [_PAIR]),
    "manage_cgroups": (24, "bool"), "cg_root": (25, [{"ctrl": (1, "text"), "path": (2, "text")}]), "rst_sibling": (26, "bool"),
    "inherit_fd": (27, [{"key": (1, "text"), "fd": (2, "int")}]), "manage_cgroups_mode": (34, "int"), "external": (37, ["text"]),
    "empty_ns": (38, "int"), "join_ns": (39, [{"ns": (1, "text"), "ns_file": (2, "text")}]), "freeze_cgroup": (44, "text"),
    "tcp_skip_in_flight": (46, "bool"), "lazy_pages": (48, "bool"), "orphan_pts_master": (50, "bool"), "config_file": (51, "text"),
    "lsm_profile": (53, "text"), "lsm_mount_context": (63, "text"),
}  # fmt: skip
_FEATURES: Table = {"mem_track": (1, "bool"), "lazy_pages": (2, "bool")}
REQUEST: Table = {"type": (1, "int"), "opts": (2, _OPTIONS), "notify_success": (3, "bool"), "features": (5, _FEATURES)}
RESPONSE: Table = {
    "type": (1, "int"), "success": (2, "bool"), "restore": (4, {"pid": (1, "int")}),
    "notify": (5, {"script": (1, "text"), "pid": (2, "int")}), "cr_errno": (7, "int"), "features": (8, _FEATURES),
    "cr_errmsg": (9, "text"), "version": (10, {"major_number": (1, "int"), "minor_number": (2, "int"), "sublevel": (4, "int")}),
}  # fmt: skip
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_DEPTH = 8


def encode(values: dict[str, Any], table: Table = REQUEST) -> bytes:
    """The message; fields that are None are left out. Internal for a field that the table does not have."""
    out = bytearray()
    for name, value in values.items():
        if value is None:
            continue
        if name not in table:
            raise Internal(f"criu's protocol: no field {name!r}")
        number, kind = table[name]
        repeated = isinstance(kind, list)
        for item in value if repeated else (value,):
            _encode_field(out, number, kind[0] if repeated else kind, item)
    return bytes(out)


def _encode_field(out: bytearray, number: int, kind: Any, value: Any) -> None:
    if kind in ("int", "bool"):
        _put_varint(out, number << 3 | _VARINT)
        _put_varint(out, int(value) & 0xFFFFFFFFFFFFFFFF)  # a negative int32 is sent as 64 bits
        return
    data = value.encode("utf-8", "surrogateescape") if kind == "text" else encode(value, kind)
    _put_varint(out, number << 3 | _DELIMITED)
    _put_varint(out, len(data))
    out += data


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def decode(data: bytes, table: Table = RESPONSE, depth: int = 0) -> dict[str, Any]:
    """The fields that the table names; of one that comes twice the last counts. DataLoss for what is no such message."""
    if depth > _DEPTH:
        raise DataLoss("criu's answer is nested too deeply")
    fields = {number: (name, kind) for name, (number, kind) in table.items()}
    values: dict[str, Any] = {}
    at = 0
    while at < len(data):
        tag, at = _get_varint(data, at)
        name, kind = fields.get(tag >> 3, ("", None))
        value: Any
        match tag & 7:
            case 0:
                value, at = _get_varint(data, at)
            case 2:
                length, at = _get_varint(data, at)
                value, at = data[at : at + length], at + length
            case 1 | 5 as width:
                value, at = None, at + (8 if width == _FIXED64 else 4)
            case _:
                raise DataLoss("criu's answer has a field of an unknown form")
        if at > len(data):
            raise DataLoss("criu's answer is cut short")
        if not name:
            continue
        values[name] = _decoded(name, kind, value, depth)
    return values


def _decoded(name: str, kind: Any, value: Any, depth: int) -> Any:
    if isinstance(value, int) and kind in ("int", "bool"):
        if kind == "bool":
            return bool(value)
        low = value & 0xFFFFFFFF
        return low - (1 << 32) if low & 0x80000000 else low
    if isinstance(value, bytes) and kind == "text":
        return value.decode("utf-8", "replace")
    if isinstance(value, bytes) and isinstance(kind, dict):
        return decode(value, kind, depth + 1)
    raise DataLoss(f"criu's answer: {name} is of another form than its protocol says")


def _get_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise DataLoss("criu's answer is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DataLoss("criu's answer has a number without an end")
