"""The one SQLite file of wherryd: all state that must last, except contents and logs.

Runs in wherryd. One connection, used by one thread; `run` takes a function there and answers on the event loop.

**Invariants**: write-ahead log with `synchronous=FULL`: when `run` has returned, the change survives a power cut. A function is one
transaction: it happens whole or not at all. Each subsystem declares its own tables, with `create table if not exists`. On a full disk,
whose owner may well be a container, ends and removals can be written: room for them is set aside, which new rows do not get (`keep_reserve`).

Deliberately absent: queries, models, migrations between subsystems. Reads on hot paths come from each subsystem's memory.
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from wherry.errors import SyscallError

T = TypeVar("T")

_RESERVE = 1 << 20
"""Bytes that are free inside the file, and have gone through the write-ahead log once, so that both files have their place on the disk."""
_ERRORS = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}
"""By the primary code of an error."""
_PAGE = 4096
_CHECKPOINT_PAGES = 200
"""The log begins anew after about so many pages, and stays within the place that it has."""


class Database:
    """`Database(path)`; `path` may be ":memory:" in tests. Create it and close it from the thread of the event loop."""

    def __init__(self, path: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="db")
        self._connection = self._executor.submit(self._connect, path).result()

    @staticmethod
    def _connect(path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        connection.execute("pragma foreign_keys=on")
        connection.execute(f"pragma wal_autocheckpoint={_CHECKPOINT_PAGES}")
        try:
            connection.execute("begin immediate")
            _set_aside(connection)
            connection.execute("commit")
            connection.execute("pragma wal_checkpoint(restart)")
        except sqlite3.OperationalError:  # the disk is full already
            if connection.in_transaction:
                connection.execute("rollback")
        return connection

    async def run(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        """The function's answer, once what it wrote is on disk. Whatever it raises is raised here, and nothing was written; SyscallError when
        the disk is full or fails.

        Cancelling the caller does not undo a transaction that has begun.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._transact, transaction)

    def run_now(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        """As `run`, but blocks the calling thread: for start-up and tests."""
        return self._executor.submit(self._transact, transaction).result()

    def _transact(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        connection.execute("begin immediate")
        try:
            answer = transaction(connection)
            connection.execute("commit")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("rollback")
            if isinstance(error, sqlite3.OperationalError) and (number := _ERRORS.get(error.sqlite_errorcode & 0xFF)):
                raise SyscallError("write", "wherry.db", number) from None
            raise
        return answer

    def close(self) -> None:
        self._executor.submit(self._connection.close).result()
        self._executor.shutdown()


def keep_reserve(connection: sqlite3.Connection) -> None:
    """To be called in a transaction that adds what is to stay: it fails when the disk has no room but the one set aside."""
    (free,) = connection.execute("pragma freelist_count").fetchone()
    if free * _PAGE < _RESERVE // 2:
        _set_aside(connection)


def _set_aside(connection: sqlite3.Connection) -> None:
    connection.execute("create table reserve (room)")
    connection.execute("insert into reserve values (zeroblob(?))", (_RESERVE,))
    connection.execute("drop table reserve")
