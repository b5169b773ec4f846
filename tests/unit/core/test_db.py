"""The database: whole transactions, and the room that it sets aside (tests/e2e/test_disk_full.py fills a real disk)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from wherry.core.db import Database, keep_reserve


def test_what_fails_leaves_nothing_and_the_next_transaction_works(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "db"))

    def make(connection: sqlite3.Connection) -> None:
        connection.execute("create table t (x integer unique)")
        connection.execute("insert into t values (1)")

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("insert into t values (2)")
        connection.execute("insert into t values (1)")

    try:
        database.run_now(make)
        with pytest.raises(sqlite3.IntegrityError):
            database.run_now(fail)
        assert database.run_now(lambda connection: connection.execute("select x from t").fetchall()) == [(1,)]
    finally:
        database.close()


def test_room_is_set_aside_and_kept(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "db"))

    def free(connection: sqlite3.Connection) -> int:
        return int(connection.execute("pragma freelist_count").fetchone()[0])

    def use_up(connection: sqlite3.Connection) -> None:
        connection.execute("create table t (x)")
        connection.execute("insert into t values (zeroblob(?))", (900_000,))

    try:
        assert database.run_now(free) * 4096 >= 1 << 20
        database.run_now(use_up)
        assert database.run_now(free) < 100
        database.run_now(keep_reserve)
        assert database.run_now(free) * 4096 >= 1 << 20
        assert (tmp_path / "db-wal").stat().st_size >= 1 << 20
    finally:
        database.close()
