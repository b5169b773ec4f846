"""Docker's seccomp profiles: the default one, a user's file, and the OCI `linux.seccomp` section that one comes to.

A profile says more than the section: rules that count only with or without some capability, architecture, or kernel
version, and which architectures go together. `section` settles all that for one container. Pure, besides reading the
default from the package's data. Source: docker's documentation "Seccomp security profiles for Docker", OCI
config-linux.md "Seccomp". What a profile holds beyond the known fields is ignored, as Docker does; a known field of a
wrong form is InvalidArgument.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

from wherry.errors import InvalidArgument
from wherry.spec.oci import Seccomp, SeccompArg, SeccompSyscall

MAX_PROFILE = 4 << 20
ACTIONS = tuple(
    f"SCMP_ACT_{name}"
    for name in ("KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG", "NOTIFY")
)
OPERATORS = tuple(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
FLAGS = tuple(f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))

_MACHINES = {
    # uname -m: (Go's name, as profiles write it under "arches"; libseccomp's)
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "armv6l": ("arm", "SCMP_ARCH_ARM"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
}


@dataclass(frozen=True)
class Host:
    """What a profile's conditions ask about: the machine as `uname -m` names it, and the kernel's version."""

    machine: str
    kernel: tuple[int, int]

    @classmethod
    def here(cls) -> Host:
        name = os.uname()
        return cls(name.machine, parse_kernel(name.release))


def parse_kernel(release: str) -> tuple[int, int]:
    """ "6.18.4-fc" → (6, 18). (0, 0) for what is no version, so that no condition on it holds."""
    numbers = []
    for part in release.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits) if digits else 0)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


@functools.cache
def default_profile() -> dict[str, Any]:
    """Docker's default profile, from the package's data. Not to be changed by the caller."""
    with open(os.path.join(os.path.dirname(__file__), "seccomp_default.json"), "rb") as file:
        return parse_profile(file.read())


def parse_profile(text: bytes | str) -> dict[str, Any]:
    """The profile in a user's file. InvalidArgument, in Docker's words and naming the field, for what is none."""
    if len(text) > MAX_PROFILE:
        raise InvalidArgument(f"Decoding seccomp profile failed: it is larger than {MAX_PROFILE} bytes")
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from None
    if not isinstance(profile, dict):
        raise InvalidArgument("Decoding seccomp profile failed: a profile is a JSON object")
    _check_profile(profile)
    return profile


def section(profile: dict[str, Any], *, capabilities: Collection[str], host: Host | None = None) -> Seccomp:
    """The OCI section of `profile` (as `parse_profile` gives it) for a process whose bounding set is `capabilities`
    ("CAP_CHOWN", …).
    """
    host = host or Host.here()
    if host.machine not in _MACHINES:
        raise InvalidArgument(f"seccomp profiles do not know the machine {host.machine}")
    go_arch, native = _MACHINES[host.machine]
    result: Seccomp = {"defaultAction": profile["defaultAction"]}
    if profile.get("defaultErrnoRet") is not None:
        result["defaultErrnoRet"] = profile["defaultErrnoRet"]
    architectures = list(profile.get("architectures") or ())
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == native:
            architectures = [native, *(entry.get("subArchitectures") or ())]
            break
    if architectures:
        result["architectures"] = architectures
    if profile.get("flags"):
        result["flags"] = list(profile["flags"])
    if profile.get("listenerPath"):
        result["listenerPath"] = profile["listenerPath"]
        result["listenerMetadata"] = profile.get("listenerMetadata") or ""
    result["syscalls"] = [
        _rule(entry)
        for entry in profile.get("syscalls") or ()
        if _holds(entry, set(capabilities), go_arch, host.kernel)
    ]
    return result


def _rule(entry: dict[str, Any]) -> SeccompSyscall:
    names = entry.get("names") or [entry["name"]]
    rule: SeccompSyscall = {"names": list(names), "action": entry["action"]}
    if entry.get("errnoRet") is not None:
        rule["errnoRet"] = entry["errnoRet"]
    if entry.get("args"):
        rule["args"] = [
            cast(SeccompArg, {key: arg[key] for key in _ARG_FIELDS if arg.get(key) is not None})
            for arg in entry["args"]
        ]
    return rule


_ARG_FIELDS = ("index", "value", "valueTwo", "op")


def _holds(entry: dict[str, Any], capabilities: set[str], arch: str, kernel: tuple[int, int]) -> bool:
    excludes, includes = entry.get("excludes") or {}, entry.get("includes") or {}
    if arch in (excludes.get("arches") or ()) or not capabilities.isdisjoint(excludes.get("caps") or ()):
        return False
    if excludes.get("minKernel") and kernel >= parse_kernel(excludes["minKernel"]):
        return False
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if not capabilities.issuperset(includes.get("caps") or ()):
        return False
    return not includes.get("minKernel") or kernel >= parse_kernel(includes["minKernel"])


def _check_profile(profile: dict[str, Any]) -> None:
    _need(profile.get("defaultAction") in ACTIONS, "defaultAction", profile.get("defaultAction"))
    _check_errno(profile, "defaultErrnoRet", "")
    for name in ("architectures", "flags"):
        _check_strings(profile.get(name), name)
    for flag in profile.get("flags") or ():
        _need(flag in FLAGS, "flags", flag)
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidArgument("both 'architectures' and 'archMap' are specified in the seccomp profile, use either")
    for where, entry in _objects(profile, "archMap", ""):
        _need(isinstance(entry.get("architecture"), str), f"{where}.architecture", entry.get("architecture"))
        _check_strings(entry.get("subArchitectures"), f"{where}.subArchitectures")
    for name in ("listenerPath", "listenerMetadata"):
        _need(isinstance(profile.get(name, ""), str), name, profile.get(name))
    for where, entry in _objects(profile, "syscalls", ""):
        _check_rule(entry, where)


def _check_rule(entry: dict[str, Any], where: str) -> None:
    if entry.get("name") and entry.get("names"):
        raise InvalidArgument("both 'name' and 'names' are specified in the seccomp profile, use either")
    _check_strings(entry.get("names"), f"{where}.names")
    _need(
        bool(entry.get("names")) or (isinstance(entry.get("name"), str) and entry["name"] != ""),
        f"{where}.names",
        entry.get("names"),
    )
    _need(entry.get("action") in ACTIONS, f"{where}.action", entry.get("action"))
    _check_errno(entry, "errnoRet", f"{where}.")
    for place, arg in _objects(entry, "args", f"{where}."):
        index = arg.get("index", 0)
        _need(isinstance(index, int) and not isinstance(index, bool) and 0 <= index <= 5, f"{place}.index", index)
        for name in ("value", "valueTwo"):
            value = arg.get(name, 0)
            _need(
                isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64,
                f"{place}.{name}",
                value,
            )
        _need(arg.get("op") in OPERATORS, f"{place}.op", arg.get("op"))
    for name in ("includes", "excludes"):
        conditions = entry.get(name) or {}
        _need(isinstance(conditions, dict), f"{where}.{name}", conditions)
        for field in ("caps", "arches"):
            _check_strings(conditions.get(field), f"{where}.{name}.{field}")
        kernel = conditions.get("minKernel") or "0.0"
        well_formed = (
            isinstance(kernel, str)
            and kernel.count(".") == 1
            and kernel.replace(".", "").isdigit()
            and kernel.isascii()
        )
        _need(well_formed and all(kernel.split(".")), f"{where}.{name}.minKernel", kernel)


def _objects(owner: dict[str, Any], name: str, prefix: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of the list `owner[name]` with their places, "syscalls[3]"."""
    entries = owner.get(name)
    if entries is None:
        return []
    _need(isinstance(entries, list), f"{prefix}{name}", entries)
    for index, entry in enumerate(entries):
        _need(isinstance(entry, dict), f"{prefix}{name}[{index}]", entry)
    return [(f"{prefix}{name}[{index}]", entry) for index, entry in enumerate(entries)]


def _check_strings(value: object, where: str) -> None:
    _need(value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value)), where, value)


def _check_errno(owner: dict[str, Any], name: str, prefix: str) -> None:
    value = owner.get(name)
    good = value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 4095)
    _need(good, f"{prefix}{name}", value)


def _need(condition: bool, where: str, value: object) -> None:
    if not condition:
        raise InvalidArgument(f"Decoding seccomp profile failed: {where} cannot be {str(value)[:80]!r}")
