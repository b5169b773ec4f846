"""The one SQLite file of wherryd: all state that must last, except contents and logs.

Runs in wherryd. One connection, used by one thread; `run` takes a function there and answers on the event loop.

**Invariants**: write-ahead log with `synchronous=FULL`: when `run` has returned, the change survives a power cut. A function is one
transaction: it happens whole or not at all. Each subsystem declares its own tables, with `create table if not exists`.

Deliberately absent: queries, models, migrations between subsystems. Reads on hot paths come from each subsystem's memory.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


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
        return connection

    async def run(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        """The function's answer, once what it wrote is on disk. Whatever it raises is raised here, and nothing was written.

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
        except BaseException:
            connection.execute("rollback")
            raise
        connection.execute("commit")
        return answer

    def close(self) -> None:
        self._executor.submit(self._connection.close).result()
        self._executor.shutdown()
