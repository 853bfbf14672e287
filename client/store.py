"""A person's store: everything private on one device, in one encrypted file.

    store.feedback   comparisons, and verdicts that prefer neither       store.consent    what was accepted
    store.adapters   versions of the private adapter                     store.releases   newest release taken
    store.memory     what a strategy's half remembers                    store.refusals   counted, by reason
    store.outbox     receipts, and the newest message byte for byte

`commonground.client.device_ledger.DeviceLedger(store)` keeps the account of privacy in the same file, so that
charging, keeping a message and noting that it was made can be one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from commonground.client.consent import Consent, Refusals, Releases
from commonground.client.database import Database, identity_of
from commonground.client.feedback import Feedback
from commonground.client.keys import door_key
from commonground.client.outbox import Outbox
from commonground.client.schema import MIGRATIONS
from commonground.client.versions import Adapters, Memory

NAME = "store.db"
FILES = (NAME, f"{NAME}-wal", f"{NAME}-shm", f"{NAME}-journal")  # all that SQLite may leave


class Store:
    """The store of one profile.

    Args:
        path: the file, usually `PROFILE/store.db`; made if it does not exist.
        key: 32 bytes, from `commonground.client.keys`.

    Attributes:
        door: `keys.door_key`, by which the vault knows its owner.

    Raises:
        InputError: the key is not this file's, or a newer version wrote it.
        StorageError: from every method of every part, when the file cannot be read or written.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self.door = path, door_key(key)
        self.identity = identity_of(key)
        self.database = Database(path, key, MIGRATIONS)
        self.feedback = Feedback(self.database)
        self.adapters = Adapters(self.database)
        self.memory = Memory(self.database)
        self.outbox = Outbox(self.database)
        self.consent = Consent(self.database)
        self.releases = Releases(self.database)
        self.refusals = Refusals(self.database)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside one: all of them are on the disk when it ends, or none."""
        with self.database.transaction():
            yield

    def get(self, name: str, default: str = "") -> str:
        """A small setting of this device, e.g. `paused`."""
        found = self.database.row("SELECT value FROM meta WHERE name = ?", [name])
        return default if found is None else str(found[0])

    def put(self, name: str, value: str) -> None:
        """Keep a small setting."""
        with self.database.transaction() as run:
            run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def size(self) -> int:
        """Bytes on the disk, the write-ahead log included."""
        files = [self.path.with_name(self.path.name + end) for end in ("", "-wal")]
        return sum(file.stat().st_size for file in files if file.exists())

    def check(self) -> None:
        """Authenticate and check the whole file; raises `StorageError` with what is damaged."""
        self.database.check()

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
