#!/usr/bin/env python3
"""Writes wherry-runc's launcher: a static ELF that starts the interpreter with `runtime/cli/entry.py`, at a tenth of a shell's cost, and such that
nobody can write the interpreter's file through /proc/PID/exe of a process that enters a container.

    tools/make_launcher.py [DIRECTORY]     default: src/launcher; one file per machine: MACHINE/wherry-runc

It is installed as bin/wherry-runc, and does what the shell script of that name (src/bin) does:

- finds its own directory (/proc/self/exe), and in ../lib/python3.*/{site,dist}-packages or ../lib/python3/dist-packages the compiled entry: there
  must be just one;
- executes python3 beside itself, or else the system's: -s -P -S and no PYTHON* in its environment, which is what -I -S means, but that PYTHONPATH leads to `cli/lean`
  (`entry` removes it);
- for a verb that enters a container from a read-only clone of the root directory's mount (open_tree, mount_setattr, openat2 with RESOLVE_IN_ROOT,
  execveat); a python3 on another mount is cloned alone. Where the kernel does none of it, it is executed as it is: wherry looks for itself whether it
  is protected (`cli/interpreter.py`);
- whatever is not as it should be, it leaves to the script, ../libexec/wherry/wherry-runc.

docs/decisions/runc-interpreter.md says why. The machine code is put together here, instruction by instruction; a test makes it again and compares byte by byte.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from machine_code import X86, Arm64, Machine, Program
from make_hello import elf

TARGET = Path(__file__).resolve().parent.parent / "src/launcher"

AT_FDCWD, AT_EMPTY_PATH, F_OK, X_OK, R_OK = -100, 0x1000, 0, 1, 4
OPEN_TREE_CLONE_CLOEXEC = 0x80001
ENTRY = b"wherry/runtime/cli/__pycache__/entry.cpython-311.pyc"
PLACES = {
    "site": b"../lib/python3.11/site-packages/" + ENTRY,
    "dist": b"../lib/python3.11/dist-packages/" + ENTRY,
    "distribution's": b"../lib/python3/dist-packages/" + ENTRY,
}
"""The last digit of Python's minor version counts from 1 to 9 in each of them."""
COMPILED = ENTRY[ENTRY.index(b"__pycache__") :]
ENTERING = (b"create", b"run", b"exec", b"restore")
MATCHED = 0xFF
"""Ends a pattern of `match`."""
MESSAGE = b"wherry-runc: the installation is not complete, or /proc is not mounted\n"
DATA = {
    "self": b"/proc/self/exe\0",
    **{name: place + b"\0" for name, place in PLACES.items()},
    "python": b"python3\0",
    "system's python": b"/usr/bin/python3\0",
    "script": b"../libexec/wherry/wherry-runc\0",
    "path": b"PYTHONPATH=\0",
    "lean": b"lean\0",
    "-s": b"-s\0",
    "-P": b"-P\0",
    "-S": b"-S\0",
    "python's": b"PYTHON" + bytes([MATCHED]),
    "ours": b"WHERRY_RUNC_" + bytes([MATCHED]),
    "input": b"/proc/self/fd/0/.\0",
    **{verb.decode(): verb + bytes([0, MATCHED]) for verb in ENTERING},
    "root": b"/\0",
    "empty": b"\0",
    "attributes": struct.pack("<QQQQ", 1, 0, 0, 0),  # struct mount_attr: set MOUNT_ATTR_RDONLY
    "how": struct.pack("<QQQ", 0x200000 | 0x80000, 0, 0x10),  # struct open_how: O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT
    "message": MESSAGE,
}

# The frame, below what the kernel put on the stack: fresh pages, so all zero. v0 is the stack as it came, v1 the frame.
OLD_ENVIRONMENT, DIGIT = 0, 8  # words
SIZE = 8192  # of each buffer: a path of PATH_MAX bytes and what is appended
DIRECTORY, CANDIDATE, FOUND, SEARCH, PYTHON = (256 + SIZE * number for number in range(5))
ARGUMENTS = 256 + SIZE * 5  # the new argv, and behind it the new environment
FRAME = ARGUMENTS + 256


Point = Callable[[str, int], None]
"""A register gets the address of an offset in the frame."""


def program(machine: Machine) -> tuple[bytes, bytes]:
    code = Program(machine)

    def point(register: str, offset: int) -> None:
        code.copy(register, "v1")
        code.add(register, offset)

    def append(*pieces: int | str, to: int | None = None) -> None:
        """Strings of the frame or of DATA, one after the other; v2 is where the next one goes then."""
        if to is not None:
            point("v2", to)
        for piece in pieces:
            if isinstance(piece, int):
                point("v3", piece)
            else:
                code.address("v3", piece)
            code.jump("append", "call")

    find_itself(code, point)
    find_entry(code, point, append)
    append("path", FOUND, to=SEARCH)
    code.add("v2", -len(COMPILED))
    append("lean")
    find_python(code, point, append)
    make_arguments(code, point)
    make_environment(code, point)
    execute(code, point)
    code.label("script it is")
    append(DIRECTORY, "script", to=PYTHON)
    point("a0", PYTHON)
    code.copy("a1", "v0")
    code.add("a1", 8)
    code.load("a2", "v1", OLD_ENVIRONMENT)
    code.system("execve")
    code.label("fail")
    code.system("write", a0=2, a1="&message", a2=len(MESSAGE))
    code.system("exit", a0=127)
    subroutines(code)
    return code.finish(DATA)


def find_itself(code: Program, point: Point) -> None:
    """Makes the frame. DIRECTORY: the program's own, with a slash at its end."""
    code.copy("v0", "sp")
    code.load("a0", "v0", 0)
    code.jump_if("a0", "less", 1, "fail")  # no argv[0]
    code.copy("v2", "v0")
    code.add("v2", 8)
    code.jump("skip", "call")
    code.copy("v5", "v2")
    code.jump("skip", "call")  # v2: behind the environment
    code.subtract("v2", "v0")
    code.copy("v1", "v0")
    code.subtract("v1", "v2")
    code.add("v1", -FRAME)
    code.copy("sp", "v1")
    code.store("v5", "v1", OLD_ENVIRONMENT)
    point("a2", DIRECTORY)
    code.copy("v2", "a2")
    code.system("readlink", a0=AT_FDCWD, a1="&self", a3=4095)
    code.jump_if("a0", "less", 1, "fail")
    code.set("a2", 0)
    code.label("next character")
    code.load_byte("a1", "v2", 0)
    code.jump_if("a1", "equal", 0, "end of path")
    code.jump_if("a1", "unequal", ord("/"), "no slash")
    code.copy("v3", "v2")
    code.label("no slash")
    code.jump_if("a1", "unequal", ord(":"), "no colon")
    code.copy("a2", "a1")
    code.label("no colon")
    code.add("v2", 1)
    code.jump("next character")
    code.label("end of path")
    code.set("a1", 0)
    code.store_byte("a1", "v3", 1)
    code.jump_if("a2", "unequal", 0, "script it is")  # PYTHONPATH would be two
    code.system("access", a0=AT_FDCWD, a1="&input", a2=F_OK)
    code.jump_if("a0", "equal", 0, "script it is")  # Python does not start with a directory as its standard input


def find_entry(code: Program, point: Point, append: Callable[..., None]) -> None:
    """FOUND: the only compiled entry. v5 counts them."""
    code.set("v5", 0)
    for name, place in PLACES.items():
        append(DIRECTORY, to=CANDIDATE)
        code.copy("v4", "v2")
        append(name)
        code.set("v3", ord("1"))
        code.label(f"minor version, {name}")
        for minor in re.finditer(b"(?<=3.1)1|(?<=-31)1", place):
            code.store_byte("v3", "v4", minor.start())
        point("a1", CANDIDATE)
        code.system("access", a0=AT_FDCWD, a2=R_OK)
        code.jump_if("a0", "unequal", 0, f"not there, {name}")
        code.add("v5", 1)
        code.jump_if("v5", "equal", 2, "script it is")
        code.store("v3", "v1", DIGIT)
        append(CANDIDATE, to=FOUND)
        code.load("v3", "v1", DIGIT)
        code.label(f"not there, {name}")
        code.add("v3", 1)
        code.jump_if("v3", "unequal", ord("9") + 1, f"minor version, {name}")
    code.jump_if("v5", "equal", 0, "script it is")


def find_python(code: Program, point: Point, append: Callable[..., None]) -> None:
    """PYTHON: the one beside, or the system's (pip installs into /usr/local for that)."""
    append(DIRECTORY, "python", to=PYTHON)
    point("a1", PYTHON)
    code.system("access", a0=AT_FDCWD, a2=X_OK)
    code.jump_if("a0", "equal", 0, "beside")
    append("system's python", to=PYTHON)
    code.label("beside")


def make_arguments(code: Program, point: Point) -> None:
    """v2: behind the arguments; v5: whether one of them is a verb that enters a container. One that only has its name costs time, no more."""
    point("v2", ARGUMENTS)
    for argument in (PYTHON, "-s", "-P", "-S", FOUND):
        if isinstance(argument, int):
            point("a0", argument)
        else:
            code.address("a0", argument)
        code.store("a0", "v2", 0)
        code.add("v2", 8)
    code.copy("v3", "v0")
    code.add("v3", 16)
    code.set("v5", 0)
    code.label("next argument")
    code.load("v4", "v3", 0)
    code.store("v4", "v2", 0)
    code.add("v3", 8)
    code.add("v2", 8)
    code.jump_if("v4", "equal", 0, "arguments made")
    for verb in ENTERING:
        code.copy("a3", "v4")
        code.address("a2", verb.decode())
        code.jump("match", "call")
        code.jump_if("a1", "equal", MATCHED, "enters")
    code.jump("next argument")
    code.label("enters")
    code.set("v5", 1)
    code.jump("next argument")
    code.label("arguments made")


def make_environment(code: Program, point: Point) -> None:
    """v4: the environment."""
    code.copy("v4", "v2")
    code.load("v3", "v1", OLD_ENVIRONMENT)
    code.label("next variable")
    code.load("a0", "v3", 0)
    code.jump_if("a0", "equal", 0, "environment made")
    for pattern in ("python's", "ours"):
        code.copy("a3", "a0")
        code.address("a2", pattern)
        code.jump("match", "call")
        code.jump_if("a1", "equal", MATCHED, "left out")
    code.store("a0", "v2", 0)
    code.add("v2", 8)
    code.label("left out")
    code.add("v3", 8)
    code.jump("next variable")
    code.label("environment made")
    point("a0", SEARCH)
    code.store("a0", "v2", 0)
    code.set("a0", 0)
    code.store("a0", "v2", 8)


def execute(code: Program, point: Point) -> None:
    """Returns where there is no python3 to execute. v5: the descriptor."""

    def or_else(name: str) -> None:
        code.jump_if("a0", "less", 0, name)
        code.copy("v5", "a0")

    code.jump_if("v5", "equal", 0, "as it is")
    code.system("open_tree", a0=AT_FDCWD, a1="&root", a2=OPEN_TREE_CLONE_CLOEXEC)
    or_else("alone")
    code.jump("make read-only", "call")
    code.jump_if("a0", "less", 0, "alone")
    point("a1", PYTHON)
    code.system("openat2", a0="v5", a2="&how", a3=len(DATA["how"]))
    or_else("alone")
    code.jump("from its descriptor")
    code.label("alone")
    point("a1", PYTHON)
    code.system("open_tree", a0=AT_FDCWD, a2=OPEN_TREE_CLONE_CLOEXEC)
    or_else("as it is")
    code.jump("make read-only", "call")
    code.jump_if("a0", "less", 0, "as it is")
    code.label("from its descriptor")
    point("a2", ARGUMENTS)
    code.system("execveat", a0="v5", a1="&empty", a3="v4", a4=AT_EMPTY_PATH)
    code.label("as it is")
    point("a0", PYTHON)
    point("a1", ARGUMENTS)
    code.system("execve", a2="v4")


def subroutines(code: Program) -> None:
    code.label("skip")  # v2: behind the next zero among the words at v2
    code.load("a0", "v2", 0)
    code.add("v2", 8)
    code.jump_if("a0", "unequal", 0, "skip")
    code.back()

    code.label("append")  # the string at v3 to v2, which is at its end then
    code.load_byte("a1", "v3", 0)
    code.store_byte("a1", "v2", 0)
    code.jump_if("a1", "equal", 0, "appended")
    code.add("v2", 1)
    code.add("v3", 1)
    code.jump("append")
    code.label("appended")
    code.back()

    code.label("match")  # a1 is MATCHED if the string at a3 begins as the pattern at a2
    code.load_byte("a1", "a2", 0)
    code.jump_if("a1", "equal", MATCHED, "compared")
    code.load_byte("a4", "a3", 0)
    code.jump_if("a1", "unequal", "a4", "compared")
    code.add("a2", 1)
    code.add("a3", 1)
    code.jump("match")
    code.label("compared")
    code.back()

    code.label("make read-only")  # the mount of descriptor v5
    code.system("mount_setattr", a0="v5", a1="&empty", a2=AT_EMPTY_PATH, a3="&attributes", a4=len(DATA["attributes"]))
    code.back()


def build() -> dict[str, bytes]:
    """The executables by machine."""
    machines = {"x86_64": X86(), "aarch64": Arm64()}
    return {name: elf(machine.elf_machine, machine.page, *program(machine)) for name, machine in machines.items()}


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    for machine, binary in build().items():
        path = target / machine / "wherry-runc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(binary)
        path.chmod(0o755)


if __name__ == "__main__":
    main()
