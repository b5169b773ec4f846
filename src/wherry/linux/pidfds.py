"""Waiting for the end of a process that is known by a pidfd (pidfd_open(2)).

Runs wherever there is no event loop for it. Apart from `namespaces`, which makes pidfds: `delete` loads no ctypes.
"""

from __future__ import annotations

_EXITING = 4  # PF_EXITING of include/linux/sched.h
_KILLED = 1 << 8  # SIGKILL in a signal mask


def is_ending(pid: int) -> bool:
    """Whether the process has been killed or is on its way out, and only waits for the machine to let it (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            flags = int(file.read(4096).rpartition(b")")[2].split()[6])
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            masks = [line for line in file.read(65536).split(b"\n") if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return bool(flags & _EXITING) or any(int(mask.split()[1], 16) & _KILLED for mask in masks)


def await_end(pidfd: int, seconds: float) -> bool:
    """Waits until the process has ended; False when it has not after `seconds`."""
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(max(0.0, seconds) * 1000))
