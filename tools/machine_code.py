"""A small assembler: one program in a dozen operations that every machine has, encoded for x86-64 and for aarch64.

Registers: "v0" to "v5" keep their values across system calls; "a0" to "a4" are a system call's arguments, "a0" its result as well,
and short-lived values in between; "sp" is the stack. A subroutine may not call another one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Protocol


class Machine(Protocol):
    """What the operations become. Distances to labels are filled in by `assemble`: encode(place, target) → bytes."""

    elf_machine: int
    page: int
    calls: Mapping[str, int]

    def set(self, register: str, value: int) -> bytes: ...
    def copy(self, register: str, source: str) -> bytes: ...
    def add(self, register: str, value: int) -> bytes: ...
    def subtract(self, register: str, other: str) -> bytes: ...
    def load(self, register: str, base: str, offset: int) -> bytes: ...
    def store(self, register: str, base: str, offset: int) -> bytes: ...
    def load_byte(self, register: str, base: str, offset: int) -> bytes: ...
    def store_byte(self, register: str, base: str, offset: int) -> bytes: ...
    def compare(self, register: str, value: int) -> bytes: ...
    def compare_with(self, register: str, other: str) -> bytes: ...
    def call(self, number: int) -> bytes: ...
    def back(self) -> bytes: ...
    def address(self, register: str) -> tuple[int, Callable[[int, int], bytes]]: ...
    def jump(self, condition: str) -> tuple[int, Callable[[int, int], bytes]]: ...


class X86:
    elf_machine, page = 62, 0x1000
    calls: Mapping[str, int] = {
        "write": 1, "execve": 59, "exit": 60, "readlink": 267, "access": 269, "execveat": 322,
        "open_tree": 428, "openat2": 437, "mount_setattr": 442,
    }  # fmt: skip
    _NUMBERS: Mapping[str, int] = {
        "v0": 3, "v1": 5, "v2": 12, "v3": 13, "v4": 14, "v5": 15, "a0": 7, "a1": 6, "a2": 2, "a3": 10, "a4": 8, "sp": 4,
    }  # fmt: skip  # rbx rbp r12-r15, rdi rsi rdx r10 r8, rsp
    _JUMPS: Mapping[str, bytes] = {
        "always": b"\xe9", "call": b"\xe8", "equal": b"\x0f\x84", "unequal": b"\x0f\x85", "less": b"\x0f\x8c",
    }  # fmt: skip

    def _direct(self, opcode: bytes, register: int, operand: int) -> bytes:
        rex = 0x48 | (register >> 3) << 2 | operand >> 3
        return bytes([rex]) + opcode + bytes([0xC0 | (register & 7) << 3 | operand & 7])

    def _memory(self, opcode: bytes, register: str, base: str, offset: int) -> bytes:
        number, place = self._NUMBERS[register], self._NUMBERS[base]
        rex = 0x48 | (number >> 3) << 2 | place >> 3
        sib = b"\x24" if place & 7 == 4 else b""
        code = bytes([rex]) + opcode + bytes([0x80 | (number & 7) << 3 | place & 7]) + sib
        return code + struct.pack("<i", offset)

    def set(self, register: str, value: int) -> bytes:
        return self._direct(b"\xc7", 0, self._NUMBERS[register]) + struct.pack("<i", value)  # mov r, imm32

    def copy(self, register: str, source: str) -> bytes:
        return self._direct(b"\x89", self._NUMBERS[source], self._NUMBERS[register])

    def add(self, register: str, value: int) -> bytes:
        return self._direct(b"\x81", 0, self._NUMBERS[register]) + struct.pack("<i", value)

    def subtract(self, register: str, other: str) -> bytes:
        return self._direct(b"\x29", self._NUMBERS[other], self._NUMBERS[register])

    def load(self, register: str, base: str, offset: int) -> bytes:
        return self._memory(b"\x8b", register, base, offset)

    def store(self, register: str, base: str, offset: int) -> bytes:
        return self._memory(b"\x89", register, base, offset)

    def load_byte(self, register: str, base: str, offset: int) -> bytes:
        return self._memory(b"\x0f\xb6", register, base, offset)  # movzx

    def store_byte(self, register: str, base: str, offset: int) -> bytes:
        return self._memory(b"\x88", register, base, offset)

    def compare(self, register: str, value: int) -> bytes:
        return self._direct(b"\x81", 7, self._NUMBERS[register]) + struct.pack("<i", value)

    def compare_with(self, register: str, other: str) -> bytes:
        return self._direct(b"\x39", self._NUMBERS[other], self._NUMBERS[register])

    def call(self, number: int) -> bytes:
        return b"\xb8" + struct.pack("<i", number) + b"\x0f\x05\x48\x89\xc7"  # mov eax, number; syscall; mov rdi, rax

    def back(self) -> bytes:
        return b"\xc3"

    def address(self, register: str) -> tuple[int, Callable[[int, int], bytes]]:
        number = self._NUMBERS[register]
        code = bytes([0x48 | (number >> 3) << 2, 0x8D, 0x05 | (number & 7) << 3])  # lea r, [rip + …]
        return 7, lambda place, target: code + struct.pack("<i", target - place - 7)

    def jump(self, condition: str) -> tuple[int, Callable[[int, int], bytes]]:
        code = self._JUMPS[condition]
        size = len(code) + 4
        return size, lambda place, target: code + struct.pack("<i", target - place - size)


class Arm64:
    elf_machine, page = 183, 0x10000
    calls: Mapping[str, int] = {
        "write": 64, "execve": 221, "exit": 93, "readlink": 78, "access": 48, "execveat": 281,
        "open_tree": 428, "openat2": 437, "mount_setattr": 442,
    }  # fmt: skip
    _NUMBERS: Mapping[str, int] = {
        **{f"v{number}": 19 + number for number in range(6)}, **{f"a{number}": number for number in range(5)}, "sp": 31,
    }  # fmt: skip
    _CONDITIONS: Mapping[str, int] = {"equal": 0, "unequal": 1, "less": 11}

    def _words(self, *words: int) -> bytes:
        return b"".join(struct.pack("<I", word) for word in words)

    def set(self, register: str, value: int) -> bytes:
        number = self._NUMBERS[register]
        if value < 0:
            return self._words(0x92800000 | ~value << 5 | number)  # movn
        low = 0xD2800000 | (value & 0xFFFF) << 5 | number  # movz
        return self._words(low, *([0xF2A00000 | value >> 16 << 5 | number] if value >> 16 else []))  # movk, lsl 16

    def copy(self, register: str, source: str) -> bytes:
        return self._words(0x91000000 | self._NUMBERS[source] << 5 | self._NUMBERS[register])  # add #0: sp, too

    def add(self, register: str, value: int) -> bytes:
        number, size = self._NUMBERS[register], abs(value)
        base = (0x91000000 if value >= 0 else 0xD1000000) | number << 5 | number
        high = [base | 1 << 22 | size >> 12 << 10] if size >> 12 else []
        return self._words(*high, base | (size & 0xFFF) << 10)

    def subtract(self, register: str, other: str) -> bytes:
        number = self._NUMBERS[register]
        return self._words(0xCB206000 | self._NUMBERS[other] << 16 | number << 5 | number)  # extended: sp, too

    def _memory(self, word: int, register: str, base: str, scaled: int) -> bytes:
        return self._words(word | scaled << 10 | self._NUMBERS[base] << 5 | self._NUMBERS[register])

    def load(self, register: str, base: str, offset: int) -> bytes:
        return self._memory(0xF9400000, register, base, offset // 8)

    def store(self, register: str, base: str, offset: int) -> bytes:
        return self._memory(0xF9000000, register, base, offset // 8)

    def load_byte(self, register: str, base: str, offset: int) -> bytes:
        return self._memory(0x39400000, register, base, offset)

    def store_byte(self, register: str, base: str, offset: int) -> bytes:
        return self._memory(0x39000000, register, base, offset)

    def compare(self, register: str, value: int) -> bytes:
        return self._words(0xF100001F | value << 10 | self._NUMBERS[register] << 5)  # subs xzr, x, #value

    def compare_with(self, register: str, other: str) -> bytes:
        return self._words(0xEB00001F | self._NUMBERS[other] << 16 | self._NUMBERS[register] << 5)

    def call(self, number: int) -> bytes:
        return self._words(0xD2800000 | number << 5 | 8, 0xD4000001)  # mov x8, number; svc

    def back(self) -> bytes:
        return self._words(0xD65F03C0)

    def address(self, register: str) -> tuple[int, Callable[[int, int], bytes]]:
        def encode(place: int, target: int) -> bytes:
            distance = target - place
            return self._words(
                0x10000000 | (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5 | self._NUMBERS[register]
            )

        return 4, encode  # adr

    def jump(self, condition: str) -> tuple[int, Callable[[int, int], bytes]]:
        if condition in self._CONDITIONS:
            base, bits, shift = 0x54000000 | self._CONDITIONS[condition], 19, 5
        else:
            base, bits, shift = {"always": 0x14000000, "call": 0x94000000}[condition], 26, 0
        return 4, lambda place, target: self._words(base | ((target - place) >> 2 & (1 << bits) - 1) << shift)


class Program:
    """Operations in their order. Each method adds one; see `Machine` for what they mean."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self.gaps: list[tuple[int, str, Callable[[int, int], bytes]]] = []

    def __getattr__(self, operation: str) -> Callable[..., None]:
        encode = getattr(self.machine, operation)

        def add(*operands: str | int) -> None:
            self.code += encode(*operands)

        return add

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def address(self, register: str, name: str) -> None:
        self._far(name, *self.machine.address(register))

    def jump(self, name: str, condition: str = "always") -> None:
        self._far(name, *self.machine.jump(condition))

    def jump_if(self, register: str, condition: str, value: int | str, name: str) -> None:
        (self.compare_with if isinstance(value, str) else self.compare)(register, value)
        self.jump(name, condition)

    def system(self, name: str, **arguments: int | str) -> None:
        """A system call. An argument is a register's name, a number, or "&LABEL"; one that is left out is in its register already."""
        for register, value in arguments.items():
            if isinstance(value, int):
                self.set(register, value)
            elif value.startswith("&"):
                self.address(register, value[1:])
            else:
                self.copy(register, value)
        self.code += self.machine.call(self.machine.calls[name])

    def _far(self, name: str, size: int, encode: Callable[[int, int], bytes]) -> None:
        self.gaps.append((len(self.code), name, encode))
        self.code += bytes(size)

    def finish(self, data: Mapping[str, bytes]) -> tuple[bytes, bytes]:
        """(code, data behind it)."""
        size = len(self.code) + -len(self.code) % 8
        behind = b""
        for name, value in data.items():
            self.labels[name] = size + len(behind)
            behind += value + bytes(-len(value) % 8)
        for place, name, encode in self.gaps:
            piece = encode(place, self.labels[name])
            self.code[place : place + len(piece)] = piece
        return bytes(self.code).ljust(size, b"\0"), behind
