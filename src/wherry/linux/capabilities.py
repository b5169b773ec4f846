"""Capabilities: names, sets, and giving a process exactly the five sets that were asked for.

Runs in the shim and `wherry-runc` (parsing) and in a container's init (applying). Source: capabilities(7), OCI
config.md "Capabilities". A name that the kernel does not know, or a capability that this machine's own bounding set
lacks, cannot be granted: OCI asks for a warning, not a failure, so `parse` returns such warnings beside the sets.
Docker's habit of leaving the inheritable set empty (CVE-2022-24769) is the caller's to keep.
"""

from __future__ import annotations

from wherry.errors import SyscallError
from wherry.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec.oci import Capabilities

NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
"""All capabilities; the index is the kernel's number."""
NUMBER = {name: number for number, name in enumerate(NAMES)}
SYS_ADMIN = 1 << NUMBER["CAP_SYS_ADMIN"]
SYS_PTRACE = 1 << NUMBER["CAP_SYS_PTRACE"]

_PR_CAPBSET_READ, _PR_CAP_AMBIENT = 23, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_cached: tuple[int, int] | None = None


class Sets:
    """The five sets as bit masks."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(
        self, bounding: int = 0, effective: int = 0, inheritable: int = 0, permitted: int = 0, ambient: int = 0
    ) -> None:
        self.bounding = bounding
        self.effective = effective
        self.inheritable = inheritable
        self.permitted = permitted
        self.ambient = ambient


def supported() -> tuple[int, int]:
    """(how many capabilities this kernel has, mask of those in this process's bounding set). Read once per process."""
    global _cached
    if _cached is None:
        mask = number = 0
        while number < 64:
            try:
                if syscalls.prctl(_PR_CAPBSET_READ, number, subject="capabilities"):
                    mask |= 1 << number
            except SyscallError:
                break
            number += 1
        _cached = number, mask
    return _cached


def grantable() -> list[str]:
    """The names of all capabilities that a container can be given on this machine: what "all" means for a privileged one."""
    _, mask = supported()
    return [name for number, name in enumerate(NAMES) if mask >> number & 1]


def parse(wanted: Capabilities, *, own_user_namespace: bool = False) -> tuple[Sets, list[str]]:
    """The sets that an OCI `process.capabilities` asks for, and a warning for each that cannot be
    granted here (unknown, or not in our own bounding set).

    In a user namespace of its own a process starts with every capability the kernel has, so there only unknown names are left out.
    """
    count, mask = supported()
    if own_user_namespace:
        mask = (1 << count) - 1
    left_out: list[str] = []

    def bits(names: list[str] | None) -> int:
        result = 0
        for name in names or ():
            bit = 1 << NUMBER[name] if name in NUMBER else 0
            if bit & mask:
                result |= bit
            elif name not in left_out:
                left_out.append(name)
        return result

    sets = Sets(
        bounding=bits(wanted.get("bounding")),
        effective=bits(wanted.get("effective")),
        inheritable=bits(wanted.get("inheritable")),
        permitted=bits(wanted.get("permitted")),
        ambient=bits(wanted.get("ambient")),
    )
    warnings = [f"capability {name} cannot be granted on this machine" for name in left_out]
    # The kernel raises an ambient capability only if it is permitted and inheritable; like runc we go on without it.
    possible = sets.permitted & sets.inheritable
    warnings += [
        f"can't raise ambient capability {name}: it is not both permitted and inheritable"
        for number, name in enumerate(NAMES)
        if sets.ambient & ~possible & 1 << number
    ]
    sets.ambient &= possible
    return sets, warnings


def drop_bounding(keep: int) -> None:
    """Removes everything but `keep` from the bounding set of this thread. Needs CAP_SETPCAP."""
    count, _ = supported()
    syscalls.drop_bounding([number for number in range(count) if not keep >> number & 1])


def apply(sets: Sets, *, extra: int = 0) -> None:
    """Effective, permitted and inheritable as in `sets`, plus `extra` in the first two."""
    syscalls.capset(sets.effective | extra, sets.permitted | extra, sets.inheritable)


def apply_ambient(ambient: int) -> None:
    """The ambient set; each capability must be permitted and inheritable."""
    syscalls.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, subject="ambient set")
    number = 0
    while ambient >> number:
        if ambient >> number & 1:
            syscalls.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number, subject=f"ambient {NAMES[number]}")
        number += 1
