"""Versions of the private adapter, none of them ever overwritten, and what a strategy's half remembers.

A version is the whole state that training goes on from, bit for bit: adapter, sum of iterates and the
optimiser's moments, 16 bytes a parameter with Adam. All of them are kept, because going back is only worth
something if there is something to go back to; `size` says what that costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from commonground.client.arrays import from_blob, to_blob
from commonground.client.database import Database, now
from commonground.errors import InputError

_COLUMNS = "version, offer, round, shared_version, note, size, time"
_REMEMBERED = 2  # rounds: a round that is asked for again stands on the one before it


@dataclass(frozen=True)
class AdapterVersion:
    """One version of the private adapter, without its numbers.

    Attributes:
        version: grows, and is never given twice.
        offer: digest of the offer under which it was trained.
        round: the round whose private phase made it.
        shared_version: version of the shared adapter that it stands on.
        note: what made it, in words.
        size: bytes in the store.
        time: UTC, ISO 8601.
    """

    version: int
    offer: str
    round: int
    shared_version: int
    note: str
    size: int
    time: str


class Adapters:
    """The private adapters of a store.

    Args:
        database: where they lie.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(
        self, state: Mapping[str, np.ndarray], *, offer: str, round: int, shared_version: int, note: str = ""
    ) -> int:
        """Keep a new version and make it the current one, in one transaction.

        Args:
            state: as `PrivateState.to_arrays` gives it.
            offer: digest of the offer.
            round: the round.
            shared_version: version of the shared adapter.
            note: what made it, in words.

        Returns:
            Its version.
        """
        blob = to_blob(state)
        row = (offer, round, shared_version, note, len(blob), now(), blob)
        with self._database.transaction() as run:
            version = int(run("INSERT INTO adapters VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row).lastrowid)
            self._point(version)
        return version

    def current(self) -> AdapterVersion | None:
        """The version in use; None where it is none, so that the policy is the shared one bit for bit."""
        query = f"SELECT {_COLUMNS} FROM adapters JOIN current_adapter USING (version)"
        found = self._database.row(query)
        return None if found is None else AdapterVersion(*found)

    def state(self, version: int | None = None) -> dict[str, np.ndarray] | None:
        """The numbers of a version, for `PrivateState.from_arrays`.

        Args:
            version: None takes the current one.

        Returns:
            None where no version is in use.

        Raises:
            InputError: there is no such version.
            StorageError: it cannot be read.
        """
        if version is None:
            now_used = self.current()
            if now_used is None:
                return None
            version = now_used.version
        found = self._database.row("SELECT state FROM adapters WHERE version = ?", [version])
        if found is None:
            raise self._unknown(version)
        return from_blob(found[0], f"version {version} of the private adapter")

    def all(self) -> list[AdapterVersion]:
        """Every version, the oldest first."""
        query = f"SELECT {_COLUMNS} FROM adapters ORDER BY version"
        return [AdapterVersion(*row) for row in self._database.rows(query)]

    def of_round(self, offer: str, round: int) -> AdapterVersion | None:
        """The newest version that a round of an offer made, in use or not; None where it made none."""
        query = f"SELECT {_COLUMNS} FROM adapters WHERE offer = ? AND round = ? ORDER BY version DESC LIMIT 1"
        found = self._database.row(query, [offer, round])
        return None if found is None else AdapterVersion(*found)

    def rollback(self, version: int) -> AdapterVersion:
        """Use an older (or newer) version from now on; raises `InputError` where there is none such."""
        with self._database.transaction():
            found = self._database.row(f"SELECT {_COLUMNS} FROM adapters WHERE version = ?", [version])
            if found is None:
                raise self._unknown(version)
            self._point(version)
        return AdapterVersion(*found)

    def reset(self) -> None:
        """Use none from now on. The versions stay, to be taken away or gone back to."""
        with self._database.transaction() as run:
            run("DELETE FROM current_adapter")

    def size(self) -> int:
        """Bytes of all versions together."""
        found = self._database.row("SELECT COALESCE(SUM(size), 0) FROM adapters")
        return 0 if found is None else int(found[0])

    def _point(self, version: int) -> None:
        with self._database.transaction() as run:
            run("INSERT OR REPLACE INTO current_adapter VALUES (1, ?)", [version])

    def _unknown(self, version: int) -> InputError:
        known = [str(found.version) for found in self.all()]
        return InputError(
            f"there is no version {version} of the private adapter; kept: {', '.join(known) or 'none'}"
        )


class Memory:
    """What the device's half of a strategy keeps between visits.

    Args:
        database: where it lies.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, offer: str, round: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep what is remembered after a round; of each offer the newest two rounds stay."""
        with self._database.transaction() as run:
            run("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", (offer, round, to_blob(arrays)))
            run(
                "DELETE FROM memory WHERE offer = ? AND round NOT IN "
                "(SELECT round FROM memory WHERE offer = ? ORDER BY round DESC LIMIT ?)",
                (offer, offer, _REMEMBERED),
            )

    def read(self, offer: str, before: int) -> dict[str, np.ndarray]:
        """What was remembered last in a round below `before`; empty where nothing was."""
        query = "SELECT state FROM memory WHERE offer = ? AND round < ? ORDER BY round DESC LIMIT 1"
        found = self._database.row(query, [offer, before])
        return {} if found is None else from_blob(found[0], "the memory of the strategy")
