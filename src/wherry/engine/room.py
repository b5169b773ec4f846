"""Room on a full disk. What is removed goes from it after the answer; who comes next would be refused for want of what is just being freed.

Runs in wherryd. Deliberately absent: how much is needed, which nobody knows before. What does not fit is refused by whoever writes it.
"""

from __future__ import annotations

import asyncio
import os

from wherry.engine.services import Services

CLEARING = "clearing"
"""How the names of tasks in the background begin that free space."""
LOW = 64 << 20
"""Bytes free below which what is new waits for what goes."""
WAIT_SECONDS = 10.0


async def make_room(services: Services) -> None:
    """Where little is free, waits until what was removed before has gone from the disk, or for `WAIT_SECONDS`."""
    background, trash = services.background, services.snapshots.trash
    if not background.running(CLEARING) and not trash.is_emptying:
        return
    found = os.statvfs(services.settings.data_root)
    if found.f_bavail * found.f_frsize >= LOW:
        return
    if not background.running(CLEARING):
        background.start(trash.empty(), name=f"{CLEARING} of the trash")
    await asyncio.wait(background.running(CLEARING), timeout=WAIT_SECONDS)
