"""The private side of a simulated run: one SQLite file that stands for everybody's devices.

Private states are versioned by round: a device asked again for a round reads the version from before that
round, so that a killed and resumed run repeats itself exactly. Receipts are kept for every message that
left. The file is opened by every process of the run, on every runtime.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from commonground.errors import StorageError
from commonground.manifest import Receipt

_TABLES = """
CREATE TABLE IF NOT EXISTS state (
  stream TEXT, person INTEGER, round INTEGER, arrays BLOB, PRIMARY KEY (stream, person, round)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipt (
  arm TEXT, round INTEGER, person INTEGER, digest TEXT, bytes INTEGER, names TEXT, epsilon TEXT,
  PRIMARY KEY (arm, round, person)) WITHOUT ROWID;
"""


class Store:
    """See the module's text.

    Args:
        folder: the run's state folder.

    Raises:
        StorageError: the disk refused.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "private.sqlite"
        with _disk(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.path, timeout=120, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(_TABLES)

    def close(self) -> None:
        """Close the file; the object is not used again."""
        self._database.close()

    def read(self, stream: str, person: int, before: int) -> dict[str, np.ndarray] | None:
        """The newest state of `person` from a round below `before`, or None."""
        row = self._database.execute(
            "SELECT arrays FROM state WHERE stream=? AND person=? AND round<? ORDER BY round DESC LIMIT 1",
            (stream, person, before),
        ).fetchone()
        return None if row is None else dict(load(row[0]))

    def write(self, stream: str, person: int, round: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Save the state of `person` after `round`, and forget all but the version before it."""
        blob = save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
        with _disk(self.path), self._transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO state VALUES (?,?,?,?)", (stream, person, round, blob)
            )
            self._database.execute(
                "DELETE FROM state WHERE stream=? AND person=? AND round < "
                "(SELECT MAX(round) FROM state WHERE stream=? AND person=? AND round<?)",
                (stream, person, stream, person, round),
            )

    def has(self, stream: str, person: int, round: int) -> bool:
        """Whether the state of `person` after `round` is there."""
        query = "SELECT 1 FROM state WHERE stream=? AND person=? AND round=?"
        return self._database.execute(query, (stream, person, round)).fetchone() is not None

    def keep_receipt(self, arm: str, person: int, receipt: Receipt, epsilon: str) -> None:
        """Keep what left, once a (arm, round, person)."""
        with _disk(self.path):
            self._database.execute(
                "INSERT OR REPLACE INTO receipt VALUES (?,?,?,?,?,?,?)",
                (arm, receipt.round, person, receipt.digest, receipt.bytes, ",".join(receipt.names), epsilon),
            )

    def receipts(self, arm: str, limit: int) -> list[dict[str, Any]]:
        """The first `limit` receipts of an arm, by round and person."""
        rows: Sequence[tuple[Any, ...]] = self._database.execute(
            "SELECT round, person, digest, bytes, names, epsilon FROM receipt WHERE arm=? "
            "ORDER BY round, person LIMIT ?",
            (arm, limit),
        ).fetchall()
        keys = ("round", "person", "digest", "bytes", "names", "epsilon")
        return [dict(zip(keys, row, strict=True)) | {"names": row[4].split(",")} for row in rows]

    def totals(self, arm: str) -> tuple[int, int]:
        """Messages and bytes that left in an arm."""
        row = self._database.execute(
            "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM receipt WHERE arm=?", (arm,)
        ).fetchone()
        return int(row[0]), int(row[1])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"cannot write {path}: {reason}", hint="free some space or choose another --out"
        ) from error
