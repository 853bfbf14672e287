"""The ledger: what has been spent, durably, before anything is released.

A release is reserved, made, then committed. A crash in between leaves a reservation, which counts as spent;
nothing is ever refunded (methods E9). The key (run, mechanism, person, key) makes a reservation idempotent: a
replay of the very same bytes costs nothing, and a release with fresh noise needs a new key.

`EVERYBODY` is the shared counter. Where a claim counts on secret coins, everybody is charged every round,
drawn or not, and one row says so for all. Charges of one unit of privacy compose over all mechanisms and
runs; charges of different units are never added.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from commonground.errors import InputError, PrivacyError, Reason, StorageError
from commonground.privacy.accounting import DEFAULT, Charge, epsilon_composed, flatten

EVERYBODY = "*"
SLACK = 1e-9  # relative; a cap equal to the epsilon of the last allowed charge lets that charge through
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL, mechanism TEXT NOT NULL, person TEXT NOT NULL, key TEXT NOT NULL,
    unit TEXT NOT NULL, q REAL NOT NULL, z REAL NOT NULL, steps INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('reserved', 'committed')), time TEXT NOT NULL,
    UNIQUE (run, mechanism, person, key)
)
"""
_INDEX = "CREATE INDEX IF NOT EXISTS by_person ON entries (person, unit, mechanism)"
_INSERT = "INSERT INTO entries VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, 'reserved', ?)"
_HISTORY = "SELECT q, z, SUM(steps) FROM entries WHERE unit = ? AND person = ? {} GROUP BY q, z"


class Ledger:
    """A durable record of privacy spent, shared safely by several processes.

    Args:
        path: the SQLite file; made if it does not exist.
        run: name of the run that new entries belong to; caps look at all runs in the file.
        accountant: prv | rdp | gaussian, used for caps and epsilon.
        connect: gives the connection to use instead, of any module with the interface of `sqlite3` and
            with isolation level None. Inside a transaction that its owner began, what this ledger does is a
            part of that one: a reservation is durable when the owner has committed, and not before.
        failure: what the errors of that connection derive from.

    Raises:
        StorageError: from every method, when the file cannot be read or written.
    """

    def __init__(
        self,
        path: str | Path,
        run: str,
        accountant: str = DEFAULT,
        *,
        connect: Callable[[], Any] | None = None,
        failure: type[Exception] = sqlite3.Error,
    ) -> None:
        self.path, self.run, self.accountant = Path(path), run, accountant
        self._failure = failure
        with self._storage():
            self._db = self._open() if connect is None else connect()
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_SCHEMA)
            self._db.execute(_INDEX)

    def _open(self) -> Any:
        return sqlite3.connect(self.path, timeout=60, isolation_level=None)

    def reserve(
        self,
        person: str,
        mechanism: str,
        key: str,
        cost: Mapping[str, float] | tuple[float, float, int],
        cap: tuple[float, float] | None = None,
        *,
        unit: str = "person",
    ) -> bool:
        """Charge one person, or `EVERYBODY`, before a release.

        Args:
            person: whose budget.
            mechanism: what releases, e.g. `shared`.
            key: which release, e.g. `round-3`.
            cost: a `Charge`, or a mapping with q, z and steps.
            cap: (epsilon, delta) that may not be exceeded by all charges of this unit together, those on
                `EVERYBODY` included; None for no cap.
            unit: unit of privacy that the cost protects.

        Returns:
            True if it was charged now, False if this very release had been charged before.

        Raises:
            PrivacyError: the cap would be exceeded, or the key stands for another cost; nothing is charged.
        """
        return bool(self.reserve_each([person], mechanism, key, cost, cap, unit=unit))

    def reserve_each(
        self,
        people: Sequence[str],
        mechanism: str,
        key: str,
        cost: Mapping[str, float] | tuple[float, float, int],
        cap: tuple[float, float] | None = None,
        *,
        unit: str = "person",
    ) -> list[str]:
        """`reserve` for many people in one transaction: all of them or, on an error, none.

        Returns:
            The people who were charged now.
        """
        charge = _charge(cost)
        fresh = []
        with self._transaction():
            for person in people:
                row = (self.run, mechanism, person, key)
                if self._known(row, charge, unit):
                    continue
                if cap is not None:
                    self._check(person, charge, cap, unit)
                self._db.execute(_INSERT, (*row, unit, *charge, datetime.now(UTC).isoformat()))
                fresh.append(person)
        return fresh

    def commit(self, key: str, *, mechanism: str | None = None, person: str | None = None) -> int:
        """Note that the release of this run under `key` was made; returns how many entries changed."""
        where, values = "run = ? AND key = ? AND status = 'reserved'", [self.run, key]
        for column, value in (("mechanism", mechanism), ("person", person)):
            if value is not None:
                where += f" AND {column} = ?"
                values.append(value)
        with self._transaction():
            done = self._db.execute(f"UPDATE entries SET status = 'committed' WHERE {where}", values)
            return int(done.rowcount)

    def spent(self, person: str, mechanism: str | None = None, *, unit: str = "person") -> tuple[Charge, ...]:
        """Flattened history of a person: own charges and everybody's, reserved ones included."""
        with self._storage():
            return self._history(person, unit, mechanism)

    def epsilon(self, person: str, delta: float, *, unit: str = "person") -> float:
        """What the person has spent over all mechanisms and runs, as epsilon at `delta`."""
        return epsilon_composed(self.spent(person, unit=unit), delta, self.accountant)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _history(self, person: str, unit: str, mechanism: str | None = None) -> tuple[Charge, ...]:
        query = _HISTORY.format("" if mechanism is None else "AND mechanism = ?")
        rows: list[tuple[float, float, int]] = []
        for name in dict.fromkeys((EVERYBODY, person)):
            values = [unit, name] if mechanism is None else [unit, name, mechanism]
            rows += self._db.execute(query, values).fetchall()
        return flatten(rows)

    def _known(self, row: tuple[str, str, str, str], charge: Charge, unit: str) -> bool:
        found = self._db.execute(
            "SELECT q, z, steps, unit FROM entries "
            "WHERE run = ? AND mechanism = ? AND person = ? AND key = ?",
            row,
        ).fetchone()
        if found is None:
            return False
        if found != (*charge, unit):
            raise PrivacyError(
                f"release {row[3]!r} of {row[1]!r} was charged as {found}; it is now asked for as "
                f"{(*charge, unit)}",
                hint="a release with fresh noise or another cost needs a new key",
                reason=Reason.OTHER_COST,
            )
        return True

    def _check(self, person: str, charge: Charge, cap: tuple[float, float], unit: str) -> None:
        limit, delta = cap
        for history in self._worst(person, unit):
            after = _epsilon((*history, charge), delta, self.accountant)
            if not after <= limit * (1 + SLACK):
                raise PrivacyError(
                    f"{charge.steps} more step(s) would bring epsilon to {after:.6g} at delta {delta:g}; "
                    f"the cap is {limit:.6g}",
                    hint="the budget is spent; nothing more may be released",
                    reason=Reason.BUDGET,
                )

    def _worst(self, person: str, unit: str) -> set[tuple[Charge, ...]]:
        """Histories to hold below the cap; a charge to everybody must fit everybody's."""
        if person != EVERYBODY:
            return {self._history(person, unit)}
        people = self._db.execute("SELECT DISTINCT person FROM entries WHERE unit = ?", [unit]).fetchall()
        return {self._history(name, unit) for (name,) in people} | {self._history(EVERYBODY, unit)}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold the write lock from the first read to the last write, so that no two take the last unit."""
        with self._storage():
            if self._db.in_transaction:  # of whoever gave the connection
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite has rolled back by itself after some disk errors
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except self._failure as error:
            raise StorageError(
                f"ledger {self.path}: {error}", hint="nothing may be released until the ledger can be written"
            ) from error


@lru_cache(maxsize=4096)
def _epsilon(history: tuple[Charge, ...], delta: float, accountant: str) -> float:
    """Most people of a round have the same history, so it is worth remembering."""
    return epsilon_composed(history, delta, accountant)


def _charge(cost: Mapping[str, float] | tuple[float, float, int]) -> Charge:
    if isinstance(cost, Mapping):
        if set(cost) != {"q", "z", "steps"}:
            raise InputError(f"cost has {sorted(cost)}; q, z and steps are needed")
        cost = (cost["q"], cost["z"], int(cost["steps"]))
    sampling, noise_multiplier, steps = cost
    flatten([(sampling, noise_multiplier, steps)])  # checks the values
    return Charge(float(sampling), float(noise_multiplier), int(steps))
