"""Device access on cgroup v2: a small BPF program, written out by hand, that decides as v1's device controller would.

Runs where limits are applied: engine, shim, `wherry-runc`. `program` is pure; `apply` loads it and attaches it to a
group by bpf(2). A second `apply` replaces the program in one step, so that a running container never is without.
Needs CONFIG_CGROUP_BPF and Linux 5.6. Source: bpf(2), linux/bpf.h, BPF_PROG_TYPE_CGROUP_DEVICE (bpf_cgroup_dev_ctx).
"""

from __future__ import annotations

import errno
import os
import sys

from wherry.errors import FailedPrecondition, SyscallError
from wherry.linux import syscalls
from wherry.linux.cgroups.devices import policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.linux.cgroups.devices import Policy
    from wherry.spec.oci import DeviceRule

_LOAD, _ATTACH, _DETACH, _GET_FD_BY_ID, _QUERY = 5, 8, 9, 13, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI, _REPLACE = 2, 4
_SYSCALL = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "s390x": 351,
    "ppc64le": 361,
    "armv7l": 386,
}

# struct bpf_insn's codes: class | operation | source
_LOAD_WORD = 0x61  # dst = *(u32 *)(src + off)
_MOVE, _MOVE_IMMEDIATE = 0xBC, 0xB7  # w-dst = w-src; dst = imm
_AND, _SHIFT_RIGHT = 0x54, 0x74  # w-dst &= imm; w-dst >>= imm
_JUMP_NOT_EQUAL, _JUMP_NOT_EQUAL_REGISTER, _JUMP_EQUAL = 0x56, 0x5E, 0x16  # 32-bit compares, Linux 5.1
_EXIT = 0x95

_ATTRIBUTE_SIZE = 128
_LICENSE = b"Apache-2.0"
_call = syscalls.function("syscall", syscalls.Long, syscalls.Long, syscalls.Pointer, syscalls.Long)

_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_FULL = 7


def _instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    registers = source << 4 | destination if sys.byteorder == "little" else destination << 4 | source
    order = sys.byteorder
    immediate &= 0xFFFFFFFF
    return bytes((code, registers)) + offset.to_bytes(2, order, signed=True) + immediate.to_bytes(4, order)


def program(rules: Policy) -> bytes:
    """The instructions for `rules`: r0 = 1 allows, 0 gives EPERM.

    r2 is the device's type, r3 the access asked for, r4 major, r5 minor. An exception to "deny" has to cover all of
    the access, one to "allow" any of it.
    """
    parts = [
        _instruction(_LOAD_WORD, 2, 1, 0),
        _instruction(_MOVE, 3, 2),
        _instruction(_SHIFT_RIGHT, 3, immediate=16),
        _instruction(_AND, 2, immediate=0xFFFF),
        _instruction(_LOAD_WORD, 4, 1, 4),
        _instruction(_LOAD_WORD, 5, 1, 8),
    ]
    for (kind, major, minor), access in rules.exceptions.items():
        mask = sum(_ACCESS[letter] for letter in access)
        tests: list[tuple[int, int, int, int]] = [(_JUMP_NOT_EQUAL, 2, 0, _TYPES[kind])]
        if mask != _FULL:
            tests += [(_MOVE, 6, 3, 0), (_AND, 6, 0, mask)]
            tests.append((_JUMP_EQUAL, 6, 0, 0) if rules.default else (_JUMP_NOT_EQUAL_REGISTER, 6, 3, 0))
        if major >= 0:
            tests.append((_JUMP_NOT_EQUAL, 4, 0, major))
        if minor >= 0:
            tests.append((_JUMP_NOT_EQUAL, 5, 0, minor))
        length = len(tests) + 2  # with the verdict
        for index, (code, destination, source, immediate) in enumerate(tests):
            is_jump = code in (_JUMP_NOT_EQUAL, _JUMP_NOT_EQUAL_REGISTER, _JUMP_EQUAL)
            offset = length - index - 1 if is_jump else 0
            parts.append(_instruction(code, destination, source, offset, immediate))
        parts += [_instruction(_MOVE_IMMEDIATE, 0, immediate=int(not rules.default)), _instruction(_EXIT)]
    parts += [_instruction(_MOVE_IMMEDIATE, 0, immediate=int(rules.default)), _instruction(_EXIT)]
    return b"".join(parts)


def apply(directory: str, rules: list[DeviceRule]) -> None:
    """Makes `rules` (OCI linux.resources.devices, in order) the device access of the group `directory`."""
    wanted = policy(rules)
    try:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SyscallError("open", directory, error.errno or 0) from None
    try:
        attached = _attached(group)
        if wanted.default and not wanted.exceptions and not attached:
            return  # everything is allowed, as without a program
        new = _load(program(wanted))
        try:
            _attach(group, new, attached)
        finally:
            os.close(new)
    finally:
        os.close(group)


def _attach(group: int, new: int, attached: list[int]) -> None:
    """Attaches `new` in the place of the program ids `attached`."""
    old = [_bpf(_GET_FD_BY_ID, _words(identity)) for identity in attached]
    try:
        if len(old) == 1:
            _bpf(_ATTACH, _words(group, new, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI | _REPLACE, old[0]))
            return
        _bpf(_ATTACH, _words(group, new, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
        for fd in old:
            _bpf(_DETACH, _words(group, fd, _ATTACH_CGROUP_DEVICE))
    finally:
        for fd in old:
            os.close(fd)


def _attached(group: int) -> list[int]:
    """The ids of the device programs of this very group."""
    count = 64
    ids = syscalls.buffer(4 * count)
    query = bytearray(_words(group, _ATTACH_CGROUP_DEVICE, 0, 0) + _address(syscalls.addressof(ids)) + _words(count))
    try:
        _bpf(_QUERY, query)
    except FailedPrecondition:
        return []  # no such programs on this kernel: loading one will say so
    found = int.from_bytes(query[24:28], sys.byteorder)
    return [int.from_bytes(ids[at : at + 4], sys.byteorder) for at in range(0, 4 * found, 4)]


def _load(instructions: bytes) -> int:
    code = syscalls.buffer(len(instructions))
    code[:] = instructions
    license_text = syscalls.buffer(16)
    license_text[: len(_LICENSE)] = _LICENSE
    attribute = (
        _words(_PROG_TYPE_CGROUP_DEVICE, len(instructions) // 8)
        + _address(syscalls.addressof(code))
        + _address(syscalls.addressof(license_text))
        + bytes(24)  # no log, no kernel version, no flags
        + b"wherry_devices".ljust(16, b"\0")
    )
    return _bpf(_LOAD, attribute)


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, sys.byteorder) for value in values)


def _address(value: int) -> bytes:
    return value.to_bytes(8, sys.byteorder)


def _bpf(command: int, attribute: bytes | bytearray) -> int:
    """bpf(2); `attribute` begins a union bpf_attr and gets what the kernel writes back, if it is a bytearray."""
    number = _SYSCALL.get(os.uname().machine)
    if number is None:
        raise FailedPrecondition(f"devices: wherry does not know the number of bpf(2) on {os.uname().machine}")
    memory = syscalls.buffer(_ATTRIBUTE_SIZE)
    memory[: len(attribute)] = bytes(attribute)
    result = _call(number, command, memory, _ATTRIBUTE_SIZE)
    if result >= 0:
        if isinstance(attribute, bytearray):
            attribute[:] = memory[: len(attribute)]
        return int(result)
    code = syscalls.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.E2BIG):
        reason = os.strerror(code).lower()
        raise FailedPrecondition(
            f"devices: this kernel does not take device programs for cgroup v2 (CONFIG_CGROUP_BPF): bpf: {reason}"
        )
    raise SyscallError("bpf", f"command {command} on a device program", code)
