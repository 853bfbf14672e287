"""The private side of a simulated run: what every store of it offers, and the one that is an SQLite file.

Private states are versioned by round: a device asked again for a round reads the version from before that
round, so that a killed and resumed run repeats itself exactly. A write at a round forgets all versions but
the newest one below it: those above are leftovers of rounds that will come again. So a person can be set
back by one visit, not by two. Receipts are kept for every message that left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load, save

from commonground.manifest import Receipt
from commonground.simulations.receipts import Receipts, disk, open_database, transaction

_TABLE = """
CREATE TABLE IF NOT EXISTS state (
  stream TEXT, person INTEGER, round INTEGER, arrays BLOB, PRIMARY KEY (stream, person, round)) WITHOUT ROWID;
"""
_NEWEST = "SELECT arrays FROM state WHERE stream=? AND person=? AND round<? ORDER BY round DESC LIMIT 1"
_HAS = "SELECT 1 FROM state WHERE stream=? AND person=? AND round=?"


class PrivateStore(Protocol):
    """Private states and receipts of many people at once; P people a call.

    A stream is one kind of state: all its writes have the same names, shapes and dtypes.
    """

    def read_many(
        self, stream: str, people: Sequence[int], before: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The newest version of each person from a round below `before`.

        Args:
            stream: which state.
            people: P person numbers.
            before: the round that is being computed.

        Returns:
            (P,) bool, who has such a version; name -> (P, *shape), zeros for those who have none, and no
            names at all where nothing was ever written to the stream.
        """
        ...

    def write_many(
        self, stream: str, people: Sequence[int], round: int, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Save the version of `round`, and forget all but that and the newest one below it.

        Args:
            stream: which state.
            people: P person numbers; of one named twice the last row counts.
            round: 0 or above.
            arrays: name -> (P, *shape).

        Raises:
            StorageError: the disk refused; what was kept below `round` is still there.
        """
        ...

    def has_many(self, stream: str, people: Sequence[int], round: int) -> np.ndarray:
        """(P,) bool: whose version of `round` is there."""
        ...

    def keep_receipts(
        self,
        arm: str,
        round: int,
        people: Sequence[int],
        digests: Sequence[str],
        bytes: int,
        names: Sequence[str],
        epsilon: str,
    ) -> None:
        """Keep what left in one round, once a (arm, round, person).

        Args:
            arm: which shared adapter.
            round: of the messages.
            people: P person numbers.
            digests: of the P messages.
            bytes: size of each message.
            names: the tensors of each message.
            epsilon: what the receipts quote.

        Raises:
            StorageError: the disk refused; none of these receipts is kept.
        """
        ...

    def receipts(self, arm: str, limit: int) -> list[dict[str, Any]]:
        """The first `limit` receipts of an arm, by round and person."""
        ...

    def names(self, arm: str) -> set[str]:
        """The tensors that ever left in an arm, whoever sent them."""
        ...

    def totals(self, arm: str) -> tuple[int, int]:
        """Messages and bytes that left in an arm."""
        ...

    def close(self) -> None:
        """Close the files; the object is not used again."""
        ...


class Store:
    """A `PrivateStore` in one SQLite file, opened by every process of a run; it serves single people too.

    Args:
        folder: the run's state folder.

    Raises:
        StorageError: the disk refused.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "private.sqlite"
        self._database = open_database(self.path)
        with disk(self.path):
            self._database.executescript(_TABLE)
        self._receipts = Receipts(self._database, self.path)

    def close(self) -> None:
        """Close the file; the object is not used again."""
        self._database.close()

    def read(self, stream: str, person: int, before: int) -> dict[str, np.ndarray] | None:
        """The newest state of `person` from a round below `before`, or None."""
        row = self._database.execute(_NEWEST, (stream, person, before)).fetchone()
        return None if row is None else dict(load(row[0]))

    def write(self, stream: str, person: int, round: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Save the state of `person` after `round`; see `PrivateStore.write_many`."""
        with disk(self.path), transaction(self._database):
            self._write(stream, person, round, arrays)

    def has(self, stream: str, person: int, round: int) -> bool:
        """Whether the state of `person` after `round` is there."""
        return self._database.execute(_HAS, (stream, person, round)).fetchone() is not None

    def read_many(
        self, stream: str, people: Sequence[int], before: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `PrivateStore`."""
        found = np.zeros(len(people), dtype=bool)
        arrays: dict[str, np.ndarray] = {}
        with transaction(self._database, "DEFERRED"):
            sample = self._database.execute("SELECT arrays FROM state WHERE stream=? LIMIT 1", (stream,))
            if (row := sample.fetchone()) is not None:
                shapes = load(row[0])
                arrays = {k: np.zeros((len(people), *v.shape[1:]), v.dtype) for k, v in shapes.items()}
            for place, person in enumerate(people):
                one = self.read(stream, int(person), before)
                if one is not None:
                    found[place] = True
                    for name, value in one.items():
                        arrays[name][place] = value[0]
        return found, arrays

    def write_many(
        self, stream: str, people: Sequence[int], round: int, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """See `PrivateStore`; all of it or nothing."""
        with disk(self.path), transaction(self._database):
            for place, person in enumerate(people):
                one = {name: value[place : place + 1] for name, value in arrays.items()}
                self._write(stream, int(person), round, one)

    def has_many(self, stream: str, people: Sequence[int], round: int) -> np.ndarray:
        """See `PrivateStore`."""
        with transaction(self._database, "DEFERRED"):
            return np.array([self.has(stream, int(person), round) for person in people], dtype=bool)

    def keep_receipt(self, arm: str, person: int, receipt: Receipt, epsilon: str) -> None:
        """Keep what left, once a (arm, round, person)."""
        one = ([person], [receipt.digest], receipt.bytes, receipt.names)
        self._receipts.keep(arm, receipt.round, *one, epsilon)

    def keep_receipts(
        self,
        arm: str,
        round: int,
        people: Sequence[int],
        digests: Sequence[str],
        bytes: int,
        names: Sequence[str],
        epsilon: str,
    ) -> None:
        """See `PrivateStore`."""
        self._receipts.keep(arm, round, people, digests, bytes, names, epsilon)

    def receipts(self, arm: str, limit: int) -> list[dict[str, Any]]:
        """See `PrivateStore`."""
        return self._receipts.first(arm, limit)

    def names(self, arm: str) -> set[str]:
        """See `PrivateStore`."""
        return self._receipts.names(arm)

    def totals(self, arm: str) -> tuple[int, int]:
        """See `PrivateStore`."""
        return self._receipts.totals(arm)

    def _write(self, stream: str, person: int, round: int, arrays: Mapping[str, np.ndarray]) -> None:
        blob = save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
        self._database.execute("INSERT OR REPLACE INTO state VALUES (?,?,?,?)", (stream, person, round, blob))
        self._database.execute(
            "DELETE FROM state WHERE stream=? AND person=? AND (round > ? OR round < "
            "(SELECT MAX(round) FROM state WHERE stream=? AND person=? AND round<?))",
            (stream, person, round, stream, person, round),
        )
