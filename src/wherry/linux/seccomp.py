"""Seccomp: an OCI `linux.seccomp` section compiled to the kernel's filter program, and a program installed in the
calling process.

`compile` runs in the engine and `wherry-runc` (through libseccomp, by ctypes; found when first needed). `load` runs
in the child that becomes the container's process: it touches nothing but memory and one system call. **Invariant:** a
section that libseccomp does not take whole is an error, never a weaker filter; system calls whose name libseccomp
does not know are skipped and so fall to the default action. System calls newer than all that the section names answer
ENOSYS, where the default is an errno, so that programs fall back to older ones instead of failing with EPERM. Source:
seccomp(2), seccomp_rule_add(3), seccomp_export_bpf(3).
"""

from __future__ import annotations

import ctypes
import os
import sys

from wherry.errors import FailedPrecondition, InvalidArgument, SyscallError
from wherry.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec.oci import Seccomp, SeccompArg, SeccompSyscall

_ERRNO = 0x00050000
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
OPERATORS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
ARCHITECTURES = tuple(
    f"SCMP_ARCH_{name}"
    for name in (
        "X86",
        "X86_64",
        "X32",
        "ARM",
        "AARCH64",
        "LOONGARCH64",
        "M68K",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
    )
    + ("MIPSEL64N32", "PARISC", "PARISC64", "PPC", "PPC64", "PPC64LE", "RISCV64", "S390", "S390X", "SH", "SHEB")
)
"""What the OCI specification names; whether libseccomp here knows one is asked when it is used."""
SPEC_ALLOW = 4
_EPERM, _ENOSYS = 1, 38
_X86_64, _X32 = 0xC000003E, 0x4000003E
_X32_BIT = 0x40000000
_CTL_NNP, _CTL_OPTIMIZE = 3, 8


class _Argument(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


_library: ctypes.CDLL | None = None


def _libseccomp() -> ctypes.CDLL:
    global _library
    if _library is None:
        try:
            library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError:
            raise FailedPrecondition(
                "seccomp: libseccomp.so.2 is missing: install the package libseccomp2 (Debian, Ubuntu) or libseccomp, or run with seccomp=unconfined"
            ) from None
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_init.argtypes = [ctypes.c_uint32]
        library.seccomp_release.argtypes = [ctypes.c_void_p]
        library.seccomp_arch_native.restype = ctypes.c_uint32
        library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Argument),
        ]  # fmt: skip
        library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        _library = library
    return _library


def flags_of(section: Seccomp) -> int:
    """The flags for `load`. Without any in the section, speculation is left alone (SPEC_ALLOW), as runc does.
    InvalidArgument for an unknown one. TSYNC is dropped: the process has one thread, and with a listener the kernel
    takes it only in another form. WAIT_KILLABLE_RECV speaks of a listener, and goes with one.
    """
    named = section.get("flags")
    if named is None:
        return SPEC_ALLOW
    result = 0
    for flag in named:
        if flag not in FLAGS:
            raise InvalidArgument(f"linux.seccomp.flags: {flag!r} is not known")
        result |= FLAGS[flag]
    if not any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in section.get("syscalls") or ()):
        result &= ~FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    return result & ~FLAGS["SECCOMP_FILTER_FLAG_TSYNC"]


def compile(section: Seccomp) -> bytes:
    """The program (an array of struct sock_filter) for `section`. InvalidArgument, NotImplemented or
    FailedPrecondition name what cannot be.
    """
    if section.get("defaultAction") == "SCMP_ACT_NOTIFY":
        raise InvalidArgument("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action")
    default = _action(section.get("defaultAction", ""), section.get("defaultErrnoRet"), "linux.seccomp.defaultAction")
    library = _libseccomp()
    context = library.seccomp_init(default)
    if not context:
        raise FailedPrecondition(
            "seccomp: libseccomp does not take the default action: the kernel lacks seccomp filters"
        )
    try:
        architectures = {library.seccomp_arch_native()}
        for name in section.get("architectures") or ():
            architectures.add(_add_architecture(library, context, name))
        library.seccomp_attr_set(context, _CTL_NNP, 0)
        library.seccomp_attr_set(
            context, _CTL_OPTIMIZE, 2
        )  # a binary tree, libseccomp 2.5; without, the list is only slower
        for index, rule in enumerate(section.get("syscalls") or ()):
            _add_rule(library, context, rule, default, f"linux.seccomp.syscalls[{index}]")
        program = _export(library, context)
    finally:
        library.seccomp_release(context)
    if default & 0xFFFF0000 == _ERRNO and default != _ERRNO | _ENOSYS:
        names = [name for rule in section.get("syscalls") or () for name in rule.get("names") or ()]
        program = _newer_are_enosys({arch: _newest(library, arch, names) for arch in architectures}) + program
    if len(program) > 4096 * 8:
        raise InvalidArgument(f"seccomp: the filter has {len(program) // 8} instructions, the kernel takes 4096")
    return program


def _action(name: str, errno_return: int | None, where: str) -> int:
    if not isinstance(name, str) or name not in ACTIONS:
        raise InvalidArgument(f"{where}: {name!r} is not a seccomp action")
    if name not in _WITH_DATA:
        return ACTIONS[name]
    return ACTIONS[name] | (_EPERM if errno_return is None else errno_return & 0xFFFF)


def _add_architecture(library: ctypes.CDLL, context: int, name: str) -> int:
    token = int(library.seccomp_arch_resolve_name(os.fsencode(name.removeprefix("SCMP_ARCH_").lower())))
    if not token or not name.startswith("SCMP_ARCH_"):
        raise InvalidArgument(f"linux.seccomp.architectures: {name!r} is not known to libseccomp")
    result = library.seccomp_arch_add(context, token)
    if result not in (0, -17):  # EEXIST: the native one
        raise InvalidArgument(f"linux.seccomp.architectures: {name}: {os.strerror(-result).lower()}")
    return token


def _add_rule(library: ctypes.CDLL, context: int, rule: SeccompSyscall, default: int, where: str) -> None:
    action = _action(rule.get("action", ""), rule.get("errnoRet"), f"{where}.action")
    if action == default:
        return  # libseccomp refuses a rule that says what holds anyway
    comparisons = [_comparison(arg, f"{where}.args[{index}]") for index, arg in enumerate(rule.get("args") or ())]
    # Conditions on different arguments hold together; several on one argument are alternatives (what runc makes of
    # them)
    repeated = len({item.arg for item in comparisons}) < len(comparisons)
    alternatives = [[item] for item in comparisons] if repeated else [comparisons]
    native = library.seccomp_arch_native()
    for name in rule.get("names") or ():
        number = library.seccomp_syscall_resolve_name_arch(native, name.encode("utf-8", "replace"))
        if number == -1:
            continue
        for chosen in alternatives:
            array = (_Argument * len(chosen))(*chosen)
            result = library.seccomp_rule_add_array(context, action, number, len(chosen), array)
            if result < 0 and result != -17:  # EEXIST: the same rule again
                raise InvalidArgument(
                    f"{where}: libseccomp does not take the rule for {name}: {os.strerror(-result).lower()}"
                )


def _comparison(arg: SeccompArg, where: str) -> _Argument:
    operator = OPERATORS.get(arg.get("op", ""))
    index = arg.get("index", 0)
    if operator is None:
        raise InvalidArgument(f"{where}.op: {arg.get('op')!r} is not known")
    if not 0 <= index <= 5:
        raise InvalidArgument(f"{where}.index: {index} is not between 0 and 5")
    # For MASKED_EQ, `value` is the mask and `valueTwo` what is left under it
    return _Argument(index, operator, arg.get("value", 0), arg.get("valueTwo", 0))


def _export(library: ctypes.CDLL, context: int) -> bytes:
    memory = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        result = library.seccomp_export_bpf(context, memory)
        if result < 0:
            raise SyscallError("seccomp_export_bpf", "the filter", -result)
        return os.pread(memory, os.fstat(memory).st_size, 0)
    finally:
        os.close(memory)


def _newest(library: ctypes.CDLL, architecture: int, names: list[str]) -> int:
    """The highest number that any of `names` has on the architecture; -1 for none."""
    resolve = library.seccomp_syscall_resolve_name_arch
    return max((resolve(architecture, name.encode("utf-8", "replace")) for name in names), default=-1)


def _newer_are_enosys(newest: dict[int, int]) -> bytes:
    """Instructions to put before a filter: a system call above its architecture's number in `newest` returns ENOSYS,
    all else goes on.

    x32 shares x86-64's architecture value and has a bit in its numbers; without x32 in the filter, such numbers are
    left to what follows.
    """
    parts = [_instruction(0x20, offset := 4)]  # A = arch
    for architecture, last in sorted(newest.items()):
        if architecture == _X32 or last < 0:
            continue
        if architecture != _X86_64:
            block = [_instruction(0x20, 0), _instruction(0x25, last, 0, 1), _instruction(0x06, _ERRNO | _ENOSYS)]
        elif newest.get(_X32, -1) >= 0:
            block = [
                _instruction(0x20, 0),  # A = nr
                _instruction(0x35, _X32_BIT, 2, 0),  # nr ≥ the bit: x32's check
                _instruction(0x25, last, 2, 0),
                _instruction(0x05, 2),
                _instruction(0x25, newest[_X32] | _X32_BIT, 0, 1),
                _instruction(0x06, _ERRNO | _ENOSYS),
            ]
        else:
            block = [
                _instruction(0x20, 0),
                _instruction(0x35, _X32_BIT, 2, 0),
                _instruction(0x25, last, 0, 1),
                _instruction(0x06, _ERRNO | _ENOSYS),
            ]
        block.append(_instruction(0x20, offset))  # A = arch, for the next block
        parts += [_instruction(0x15, architecture, 0, len(block)), *block]
    return b"".join(parts)


def _instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter."""
    return code.to_bytes(2, sys.byteorder) + bytes((if_true, if_false)) + constant.to_bytes(4, sys.byteorder)


def load(program: bytes, flags: int = SPEC_ALLOW) -> None:
    """Installs `program` in the calling thread for good. Needs no_new_privs or CAP_SYS_ADMIN. SyscallError when the
    kernel refuses.
    """
    if not program or len(program) % 8:
        raise InvalidArgument("seccomp: a filter program is a sequence of 8-byte instructions")
    syscalls.load_seccomp(program, flags)
