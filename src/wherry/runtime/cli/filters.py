"""Compiled seccomp programs, kept under --root so that libseccomp (20 ms for Docker's profile) is asked once per
profile and boot.

A file holds the section that was compiled and the program; the section is compared as a whole, the file's name is
only where to look.
"""

from __future__ import annotations

import _imp
import os

from wherry.runtime.state import write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec.oci import Config, Seccomp

_DIRECTORY = ".seccomp"
_FORMAT = 1
_LIMIT = 256


def program_for(root: str, config: Config) -> tuple[bytes | None, int]:
    """(compiled program, flags for loading it) of the configuration's seccomp section; (None, 0) without one."""
    section = config["linux"].get("seccomp")
    if not section:
        return None, 0
    text = f"{_FORMAT} {os.uname().machine} {section!r}\n".encode()
    directory = f"{root}/{_DIRECTORY}"
    path = f"{directory}/{_imp.source_hash(_FORMAT, text).hex()}"
    program = _read(path, text)
    if program is None:
        from wherry.linux import seccomp

        program = seccomp.compile(section)
        _write(directory, path, text + program)
    return program, _flags(section)


def flags_with_listener(config: Config, flags: int) -> int:
    """The `flags` as seccomp(2) gets them, also where the filter has a listener."""
    rules = (config["linux"].get("seccomp") or {}).get("syscalls") or ()
    return flags | (8 if any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in rules) else 0)


def _flags(section: Seccomp) -> int:
    if not section.get("flags"):
        return 4 if "flags" not in section else 0  # linux.seccomp.flags_of, without its import
    from wherry.linux import seccomp

    return seccomp.flags_of(section)


def _read(path: str, text: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    program = data[len(text) :]
    return program if data.startswith(text) and program and len(program) % 8 == 0 else None


def _write(directory: str, path: str, data: bytes) -> None:
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        kept = os.listdir(directory)
        for name in kept if len(kept) >= _LIMIT else ():
            os.unlink(f"{directory}/{name}")
    except OSError:
        return  # only slower
    write_file(path, data)
