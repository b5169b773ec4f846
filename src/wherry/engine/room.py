"""Room on a full disk. What is removed goes from it after the answer; who comes next would be refused for want of what is just being freed.

Runs in wherryd. Deliberately absent: how much is needed, which nobody knows before. What does not fit is refused by whoever writes it.
"""

from __future__ import annotations

import asyncio
import os

from wherry.engine.services import Services

CLEARING = "clearing"
"""How the names of tasks in the background begin that free space."""
_EMPTYING = f"{CLEARING} of the trash"
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
    if trash.is_emptying and not background.running(_EMPTYING):
        background.start(trash.empty(), name=_EMPTYING)
    if clearing := background.running(CLEARING):
        await asyncio.wait(clearing, timeout=WAIT_SECONDS)
