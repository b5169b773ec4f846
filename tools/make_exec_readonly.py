#!/usr/bin/env python3
"""Writes exec-readonly: a static ELF that executes a program in such a way that nobody can write the program's file through /proc/PID/exe.

    tools/make_exec_readonly.py [DIRECTORY]     default: src/libexec; one file per machine, named as /proc/sys/kernel/arch names it

    exec-readonly /path/of/program [argument...]     argv[0] of the program is its path

It clones the mount of the root directory (open_tree), makes the clone read-only (mount_setattr), finds the program in it (openat2, RESOLVE_IN_ROOT) and executes
that descriptor (execveat). A program that lies on another mount is cloned alone. Where the kernel does none of it, the program is executed
as it is: it has to look for itself (statvfs of /proc/self/exe) whether it is protected. docs/decisions/runc-interpreter.md says why.
The machine code is put together here, instruction by instruction; a test makes it again and compares byte by byte.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

from make_hello import elf

TARGET = Path(__file__).resolve().parent.parent / "src/libexec"

AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE_CLOEXEC = 0x80001
OPEN_TREE, OPENAT2, MOUNT_SETATTR = 428, 437, 442  # the same on every architecture
DATA = {
    "root": b"/\0",
    "empty": b"\0",
    "attributes": struct.pack("<QQQQ", 1, 0, 0, 0),  # struct mount_attr: set MOUNT_ATTR_RDONLY
    "how": struct.pack("<QQQ", 0x200000 | 0x80000, 0, 0x10),  # struct open_how: O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT
}


class Code:
    """Instructions and labels; distances are filled in at the end."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.labels: dict[str, int] = {}
        self.gaps: list[tuple[int, str, Callable[[int, int], bytes]]] = []

    def add(self, *parts: bytes) -> None:
        for part in parts:
            self.bytes += part

    def label(self, name: str) -> None:
        self.labels[name] = len(self.bytes)

    def far(self, size: int, name: str, encode: Callable[[int, int], bytes]) -> None:
        """`size` bytes that depend on where `name` is: encode(place, target)."""
        self.gaps.append((len(self.bytes), name, encode))
        self.bytes += bytes(size)

    def finish(self) -> tuple[bytes, bytes]:
        """(code, data behind it)."""
        code_size = len(self.bytes) + -len(self.bytes) % 8
        data = b""
        for name, value in sorted(DATA.items(), key=lambda item: -len(item[1])):
            self.labels[name] = code_size + len(data)
            data += value + bytes(-len(value) % 8)
        for place, name, encode in self.gaps:
            piece = encode(place, self.labels[name])
            self.bytes[place : place + len(piece)] = piece
        return bytes(self.bytes).ljust(code_size, b"\0"), data


def x86_64() -> tuple[bytes, bytes]:
    """rbx: argv + 1, r14: envp, r13: the descriptor."""
    code = Code()

    def number(opcode: bytes, value: int) -> bytes:
        return opcode + struct.pack("<i", value)

    def to(opcode: bytes, name: str) -> None:
        code.add(opcode)
        code.far(4, name, lambda place, target: struct.pack("<i", target - place - 4))

    def call(system_call: int) -> None:
        code.add(number(b"\xb8", system_call), b"\x0f\x05")  # mov eax, number; syscall

    def failed(name: str) -> None:
        code.add(b"\x85\xc0")  # test eax, eax
        to(b"\x0f\x88", name)  # js

    def open_tree() -> None:
        code.add(number(b"\xbf", AT_FDCWD), number(b"\xba", OPEN_TREE_CLONE_CLOEXEC))  # mov edi; mov edx
        call(OPEN_TREE)

    code.add(
        b"\x44\x8b\x24\x24", b"\x48\x8d\x5c\x24\x10", b"\x4e\x8d\x74\xe4\x10"
    )  # mov r12d,[rsp]; lea rbx,[rsp+16]; lea r14,[rsp+r12*8+16]
    code.add(b"\x41\x83\xfc\x02")  # cmp r12d, 2
    to(b"\x0f\x8c", "fail")  # jl
    code.add(b"\x48\x8b\x33", b"\x80\x3e\x2f")  # mov rsi,[rbx]; cmp byte [rsi], '/'
    to(b"\x0f\x85", "alone")  # jne
    to(b"\x48\x8d\x35", "root")  # lea rsi
    open_tree()
    failed("alone")
    code.add(b"\x41\x89\xc5")  # mov r13d, eax
    to(b"\xe8", "readonly")  # call
    failed("alone")
    code.add(b"\x44\x89\xef", b"\x48\x8b\x33")  # mov edi, r13d; mov rsi,[rbx]
    to(b"\x48\x8d\x15", "how")  # lea rdx
    code.add(number(b"\x41\xba", len(DATA["how"])))  # mov r10d
    call(OPENAT2)
    failed("alone")
    code.add(b"\x41\x89\xc5")  # mov r13d, eax
    to(b"\xe9", "run")  # jmp
    code.label("alone")
    code.add(b"\x48\x8b\x33")  # mov rsi,[rbx]
    open_tree()
    failed("plain")
    code.add(b"\x41\x89\xc5")
    to(b"\xe8", "readonly")
    failed("plain")
    code.label("run")
    code.add(b"\x44\x89\xef")  # mov edi, r13d
    to(b"\x48\x8d\x35", "empty")
    code.add(
        b"\x48\x89\xda", b"\x4d\x89\xf2", number(b"\x41\xb8", AT_EMPTY_PATH)
    )  # mov rdx, rbx; mov r10, r14; mov r8d
    call(322)  # execveat
    code.label("plain")
    code.add(b"\x48\x8b\x3b", b"\x48\x89\xde", b"\x4c\x89\xf2")  # mov rdi,[rbx]; mov rsi, rbx; mov rdx, r14
    call(59)  # execve
    code.label("fail")
    code.add(number(b"\xbf", 127))
    call(60)  # exit
    code.label("readonly")
    code.add(b"\x44\x89\xef")
    to(b"\x48\x8d\x35", "empty")
    code.add(number(b"\xba", AT_EMPTY_PATH))
    to(b"\x4c\x8d\x15", "attributes")  # lea r10
    code.add(number(b"\x41\xb8", len(DATA["attributes"])))
    call(MOUNT_SETATTR)
    code.add(b"\xc3")  # ret
    return code.finish()


def aarch64() -> tuple[bytes, bytes]:
    """x20: argv + 1, x21: envp, x22: the descriptor."""
    code = Code()

    def word(value: int) -> None:
        code.add(struct.pack("<I", value))

    def move(register: int, value: int) -> None:
        if value < 0:
            word(0x92800000 | ~value << 5 | register)  # movn
            return
        word(0xD2800000 | (value & 0xFFFF) << 5 | register)  # movz
        if value >> 16:
            word(0xF2A00000 | value >> 16 << 5 | register)  # movk, lsl 16

    def copy(register: int, source: int) -> None:
        word(0xAA0003E0 | source << 16 | register)

    def load(register: int, base: int) -> None:
        word(0xF9400000 | base << 5 | register)  # ldr x, [base]

    def address(register: int, name: str) -> None:
        def encode(place: int, target: int) -> bytes:
            distance = target - place
            return struct.pack("<I", 0x10000000 | (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5 | register)

        code.far(4, name, encode)  # adr

    def branch(base: int, name: str, *, shift: int, bits: int) -> None:
        code.far(
            4,
            name,
            lambda place, target: struct.pack("<I", base | (((target - place) >> 2) & ((1 << bits) - 1)) << shift),
        )

    def call(system_call: int) -> None:
        move(8, system_call)
        word(0xD4000001)  # svc #0

    def failed(name: str) -> None:
        branch(0xB7F80000, name, shift=5, bits=14)  # tbnz x0, #63

    def open_tree() -> None:
        move(0, AT_FDCWD)
        move(2, OPEN_TREE_CLONE_CLOEXEC)
        call(OPEN_TREE)

    load(19, 31)  # argc
    word(0x91000000 | 16 << 10 | 31 << 5 | 20)  # add x20, sp, #16
    word(0x8B000000 | 19 << 16 | 3 << 10 | 20 << 5 | 21)  # add x21, x20, x19, lsl #3
    word(0xF100001F | 2 << 10 | 19 << 5)  # cmp x19, #2
    branch(0x5400000B, "fail", shift=5, bits=19)  # b.lt
    load(1, 20)
    word(0x39400000 | 1 << 5 | 1)  # ldrb w1, [x1]
    word(0x7100001F | ord("/") << 10 | 1 << 5)  # cmp w1, '/'
    branch(0x54000001, "alone", shift=5, bits=19)  # b.ne
    address(1, "root")
    open_tree()
    failed("alone")
    copy(22, 0)
    branch(0x94000000, "readonly", shift=0, bits=26)  # bl
    failed("alone")
    copy(0, 22)
    load(1, 20)
    address(2, "how")
    move(3, len(DATA["how"]))
    call(OPENAT2)
    failed("alone")
    copy(22, 0)
    branch(0x14000000, "run", shift=0, bits=26)  # b
    code.label("alone")
    load(1, 20)
    open_tree()
    failed("plain")
    copy(22, 0)
    branch(0x94000000, "readonly", shift=0, bits=26)
    failed("plain")
    code.label("run")
    copy(0, 22)
    address(1, "empty")
    copy(2, 20)
    copy(3, 21)
    move(4, AT_EMPTY_PATH)
    call(281)  # execveat
    code.label("plain")
    load(0, 20)
    copy(1, 20)
    copy(2, 21)
    call(221)  # execve
    code.label("fail")
    move(0, 127)
    call(93)  # exit
    code.label("readonly")
    copy(0, 22)
    address(1, "empty")
    move(2, AT_EMPTY_PATH)
    address(3, "attributes")
    move(4, len(DATA["attributes"]))
    call(MOUNT_SETATTR)
    word(0xD65F03C0)  # ret
    return code.finish()


def build() -> dict[str, bytes]:
    """The executables by machine."""
    return {"x86_64": elf(62, 0x1000, *x86_64()), "aarch64": elf(183, 0x10000, *aarch64())}


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.mkdir(parents=True, exist_ok=True)
    for machine, binary in build().items():
        path = target / f"exec-readonly-{machine}"
        path.write_bytes(binary)
        path.chmod(0o755)


if __name__ == "__main__":
    main()
