"""What left the devices of a run: one row a message, in an SQLite file; and how such a file is used here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commonground.errors import StorageError

TABLE = """
CREATE TABLE IF NOT EXISTS receipt (
  arm TEXT, round INTEGER, person INTEGER, digest TEXT, bytes INTEGER, names TEXT, epsilon TEXT,
  PRIMARY KEY (arm, round, person)) WITHOUT ROWID;
"""


class Receipts:
    """The table of receipts in an open database.

    Args:
        database: from `open_database`.
        path: its file, for messages.
    """

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database, self._path = database, path
        with disk(path):
            database.executescript(TABLE)

    def keep(
        self,
        arm: str,
        round: int,
        people: Sequence[int],
        digests: Sequence[str],
        bytes: int,
        names: Sequence[str],
        epsilon: str,
    ) -> None:
        """Keep what left in one round, once a (arm, round, person); see `PrivateStore.keep_receipts`."""
        joined = ",".join(names)
        rows = [
            (arm, round, int(person), digest, bytes, joined, epsilon)
            for person, digest in zip(people, digests, strict=True)
        ]
        with disk(self._path), transaction(self._database):
            self._database.executemany("INSERT OR REPLACE INTO receipt VALUES (?,?,?,?,?,?,?)", rows)

    def first(self, arm: str, limit: int) -> list[dict[str, Any]]:
        """The first `limit` receipts of an arm, by round and person."""
        rows: Sequence[tuple[Any, ...]] = self._database.execute(
            "SELECT round, person, digest, bytes, names, epsilon FROM receipt WHERE arm=? "
            "ORDER BY round, person LIMIT ?",
            (arm, limit),
        ).fetchall()
        keys = ("round", "person", "digest", "bytes", "names", "epsilon")
        return [dict(zip(keys, row, strict=True)) | {"names": row[4].split(",")} for row in rows]

    def names(self, arm: str) -> set[str]:
        """The tensors that ever left in an arm, whoever sent them."""
        rows = self._database.execute("SELECT DISTINCT names FROM receipt WHERE arm=?", (arm,)).fetchall()
        return {name for (joined,) in rows for name in joined.split(",")}

    def totals(self, arm: str) -> tuple[int, int]:
        """Messages and bytes that left in an arm."""
        row = self._database.execute(
            "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM receipt WHERE arm=?", (arm,)
        ).fetchone()
        return int(row[0]), int(row[1])


def open_database(path: Path) -> sqlite3.Connection:
    """Open an SQLite file that several processes may write at once; raises `StorageError`."""
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=120, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
    return database


@contextmanager
def transaction(database: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All of it or nothing; `DEFERRED` for one that only reads."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk has already rolled it back
            database.execute("ROLLBACK")
        raise


@contextmanager
def disk(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn what the disk refuses into `StorageError`; `doing` is what was being done to `path`."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"cannot {doing} {path}: {reason}", hint="free some space or choose another --out"
        ) from error
