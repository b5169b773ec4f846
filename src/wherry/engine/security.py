"""Capabilities and --security-opt: what a container may do. Pure but for the machine's own bounding set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from wherry.errors import InvalidArgument
from wherry.linux import capabilities
from wherry.wire.engine import HostConfig

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""Docker's 14."""

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",  # GHSA-7ww5-4wqc-m92c: the power meter tells what others compute
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    seccomp: str = "builtin"  # "builtin", "unconfined", or the text of a profile
    no_new_privileges: bool = False
    apparmor: str = ""


def parse_options(options: list[str] | None) -> SecurityOptions:
    """--security-opt. What this machine cannot do is refused, not ignored."""
    seccomp, no_new_privileges, apparmor = "builtin", False, ""
    for option in options or []:
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        match key:
            case "no-new-privileges":
                if value not in ("", "true", "false"):
                    raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
                no_new_privileges = value != "false"
            case "seccomp" if value:
                seccomp = value
            case "apparmor" if value:
                if value != "unconfined" and not _apparmor_is_enabled():
                    raise InvalidArgument(f"--security-opt apparmor={value}: AppArmor is not enabled in this kernel")
                apparmor = value
            case "label" if value == "disable":
                pass  # wherry sets no SELinux labels
            case "label":
                raise InvalidArgument(f"--security-opt {option}: wherry does not support SELinux labels yet")
            case _:
                raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(seccomp, no_new_privileges, apparmor)


@cache
def _apparmor_is_enabled() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled") as file:
            return file.read().strip() == "Y"
    except OSError:
        return False


@cache
def available() -> frozenset[str]:
    """The names of the capabilities that wherryd itself has and can give."""
    return frozenset(capabilities.grantable())


def effective_capabilities(host: HostConfig) -> list[str]:
    """--cap-add, --cap-drop, --privileged → the names, sorted by number. InvalidArgument for an unknown name, in Docker's words."""
    add = [_normalise(name) for name in host.cap_add or []]
    drop = [_normalise(name) for name in host.cap_drop or []]
    known = capabilities.NUMBER
    for field, names in (("CapAdd", add), ("CapDrop", drop)):
        for name in names:
            if name != "ALL" and name not in known:
                raise InvalidArgument(f'invalid {field}: unknown capability: "{name}"')
    if host.privileged:
        chosen = set(known)
    elif "ALL" in add:
        chosen = set(known) - set(drop)
    elif "ALL" in drop:
        chosen = set(add)
    else:
        chosen = (set(DEFAULT_CAPABILITIES) - set(drop)) | set(add)
    if host.privileged or "ALL" in add:
        chosen &= available()
    return sorted(chosen, key=lambda name: known[name])


def _normalise(name: str) -> str:
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"
