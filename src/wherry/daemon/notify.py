"""The message to the service manager: sd_notify(3) over NOTIFY_SOCKET, in the few lines that it takes."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send "READY=1", "STOPPING=1" and the like. Without a service manager, nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), socket.MSG_NOSIGNAL, address)
        except OSError:
            pass  # a service manager that is gone is not the engine's trouble
