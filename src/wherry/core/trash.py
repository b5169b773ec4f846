"""Where directory trees go that nobody needs any more: out of the way with one rename, removed afterwards.

In wherryd. Unlinking is what makes the removal of a container or an image slow, and nobody has to wait for it. **Invariant**: what is in the trash
is referred to by nothing; it is emptied at start-up, so a crash leaves nothing for ever; one thread at a time empties it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from wherry.core.cancellation import to_the_end
from wherry.errors import SyscallError
from wherry.linux.remove import remove_tree

_log = logging.getLogger(__name__)


class Trash:
    """`directory` is on the file system of all that is put into it; `remove` is what ends a tree."""

    def __init__(self, directory: str, remove: Callable[[str], None] = remove_tree) -> None:
        self.directory = directory
        self._remove = remove
        self._emptying = threading.Lock()
        self._wanted = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trash")
        """Its own: who waits until a big tree has gone holds none that others need."""

    def open(self) -> None:
        os.makedirs(self.directory, mode=0o700, exist_ok=True)

    @property
    def is_emptying(self) -> bool:
        """Whether it is being emptied, or soon will be."""
        return self._wanted.is_set() or self._emptying.locked()

    def put(self, path: str) -> None:
        """One rename. Nothing happens if there is nothing at `path`."""
        try:
            os.rename(path, os.path.join(self.directory, secrets.token_hex(8)))
        except FileNotFoundError:
            pass

    async def empty(self) -> None:
        """Removes what is in it, in a thread. What cannot be removed is logged: nobody who removes something else is to fail by it."""
        await to_the_end(self._in_its_thread())

    async def _in_its_thread(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self.empty_now)

    def empty_soon(self) -> None:
        """As `empty`, but nobody waits for it: not the end of the engine either."""
        if not self._wanted.is_set():
            self._wanted.set()
            threading.Thread(target=self.empty_now, name="trash", daemon=True).start()

    def empty_now(self) -> None:
        with self._emptying:
            self._wanted.clear()  # from here on, what is put into it may be missed
            for name in os.listdir(self.directory):
                try:
                    self._remove(os.path.join(self.directory, name))
                except (OSError, SyscallError) as error:
                    _log.warning("what nobody needs cannot be removed: %s", error)
