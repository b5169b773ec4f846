"""Waiting for the end of a process that is known by a pidfd (pidfd_open(2)).

Runs wherever there is no event loop for it. Apart from `namespaces`, which makes pidfds: `delete` loads no ctypes.
"""

from __future__ import annotations


def await_end(pidfd: int, seconds: float) -> bool:
    """Waits until the process has ended; False when it has not after `seconds`."""
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(max(0.0, seconds) * 1000))
