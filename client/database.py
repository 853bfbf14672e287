"""The encrypted file that everything private lies in: one connection, transactions, and plain errors.

SQLCipher encrypts every page (AES-256) under a raw 32-byte key and authenticates it (HMAC-SHA512), so a page
that somebody changed is found when it is read. Every write is one transaction that is on the disk when it
returns (write-ahead log, synchronous FULL). A transaction takes the write lock before its first read, so two
processes on one file wait for each other and never act on what the other is changing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2

from commonground.errors import CommonGroundError, InputError, StorageError

KEY_BYTES = 32
WAIT = 60.0  # seconds that one process waits for another's transaction
Failure: type[Exception] = dbapi2.Error  # what the connection raises
Row = tuple[Any, ...]
Run = Callable[..., Any]

_FULL, _CORRUPT, _NOT_A_DATABASE, _READ_ONLY, _BUSY, _DISK = 13, 11, 26, 8, 5, 10
_HINTS = {
    _FULL: "free some disk space and try again; nothing was changed",
    _CORRUPT: "a part of the file is damaged: restore the profile folder from a backup",
    _READ_ONLY: "make the profile folder writable for this user; nothing was changed",
    _BUSY: "another process holds the store: end it (`commonground device down`) and try again",
    _DISK: "look whether the disk is full or failing; what was stored before is kept",
}


def identity_of(key: bytes) -> str:
    """What tells a store from others and nothing of its key: the same for every copy of it."""
    return hmac.new(key, b"commonground store", hashlib.sha256).hexdigest()[:32]


class Database:
    """One connection to an encrypted file; threads share it, one transaction at a time.

    Args:
        path: the file; made with mode 0600 if it does not exist.
        key: 32 bytes.
        migrations: scripts that bring an empty file to the newest form, each a list of statements; a file
            that is behind is brought forward, one transaction a step.

    Raises:
        InputError: the key is not this file's, or the file was written by a newer version.
        StorageError: the file cannot be opened, read or written; every method raises it too.
    """

    def __init__(self, path: Path, key: bytes, migrations: Sequence[Sequence[str]]) -> None:
        if len(key) != KEY_BYTES:
            raise InputError(f"the store's key has {len(key)} bytes; {KEY_BYTES} are needed")
        self.path = path
        self._lock = threading.RLock()
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StorageError(
                f"the store {path} cannot be opened: {error.strerror or error}",
                hint="look whether the folder exists and belongs to you",
            ) from error
        with self._errors():
            self.connection = dbapi2.connect(
                str(path), timeout=WAIT, isolation_level=None, check_same_thread=False
            )
        try:
            self._unlock(key)
            self._migrate(migrations)
        except BaseException:
            self.connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Run]:
        """A transaction that is on the disk when it ends, or never was; inside another one, a part of it.

        Yields:
            `execute` of the connection: a statement and its values.
        """
        with self._lock, self._errors():
            if self.connection.in_transaction:
                yield self.connection.execute
                return
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection.execute
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # SQLite has rolled back by itself after some disk errors
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other threads from the connection, for code that runs its own statements on it."""
        with self._lock:
            yield

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a question."""
        with self._lock, self._errors():
            found: list[Row] = self.connection.execute(statement, values).fetchall()
            return found

    def row(self, statement: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row of a question, or None."""
        found = self.rows(statement, values)
        return found[0] if found else None

    def check(self) -> None:
        """Read and authenticate every page; raises `StorageError` with what is damaged.

        The write-ahead log goes into the file first: a process that died while it moved pages there leaves
        half a page in the file and the whole one in the log, which is no damage.
        """
        with self._lock, self._errors():
            self.connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
            damaged = self.connection.execute("PRAGMA cipher_integrity_check").fetchall()
            if not damaged:
                damaged = self.connection.execute("PRAGMA integrity_check").fetchall()
        faults = [str(row[0]) for row in damaged if row[0] != "ok"]
        if faults:
            raise StorageError(
                f"the store {self.path} is damaged: {faults[0]} ({len(faults)} fault(s) in all)",
                hint=_HINTS[_CORRUPT],
            )

    def close(self) -> None:
        """Close the file; what is in the write-ahead log goes into it."""
        with self._lock, self._errors():
            self.connection.close()

    def _unlock(self, key: bytes) -> None:
        run = self.connection.execute
        with self._errors(opening=True):
            run("PRAGMA cipher_log_level = NONE")  # it would write to standard error by itself
            run(f"PRAGMA key = \"x'{key.hex()}'\"")
            run("SELECT COUNT(*) FROM sqlite_master").fetchone()  # the first page is read: is the key right?
            run("PRAGMA temp_store = MEMORY")  # nothing is sorted through a file in clear
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
            run("PRAGMA secure_delete = ON")
            run("PRAGMA foreign_keys = ON")

    def _migrate(self, migrations: Sequence[Sequence[str]]) -> None:
        table = "CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER PRIMARY KEY, time TEXT NOT NULL)"
        known = self.row("SELECT COUNT(*) FROM sqlite_master WHERE name = 'schema_versions'") == (1,)
        if known and self._version() == len(migrations):
            return  # the usual case takes no write lock
        with self.transaction() as run:
            run(table)
        while True:
            with self.transaction() as run:  # the version is read under the lock: two may open a new file
                version = self._version()
                if version > len(migrations):
                    raise InputError(
                        f"the store {self.path} has form {version}; this version of commonground knows "
                        f"{len(migrations)}",
                        hint="install the version of commonground that wrote it, or a newer one",
                    )
                if version == len(migrations):
                    return
                for statement in migrations[version]:
                    run(statement)
                run("INSERT INTO schema_versions VALUES (?, ?)", (version + 1, now()))

    def _version(self) -> int:
        found = self.row("SELECT COALESCE(MAX(version), 0) FROM schema_versions")
        return 0 if found is None else int(found[0])

    @contextmanager
    def _errors(self, opening: bool = False) -> Iterator[None]:
        try:
            yield
        except CommonGroundError:
            raise
        except dbapi2.Error as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if code == _NOT_A_DATABASE and opening:
                raise InputError(
                    f"the store {self.path} cannot be read with this key: it belongs to another key, or its "
                    "first page is damaged",
                    hint="use the store.json that was made with it, or restore both from one backup",
                ) from error
            raise StorageError(
                f"the store {self.path}: {error}", hint=_HINTS.get(code, _HINTS[_DISK])
            ) from error


def now() -> str:
    """The time in UTC, ISO 8601, as every table keeps it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
