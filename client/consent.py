"""What the person accepted, which releases this device took, and what it refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from commonground.client.database import Database, now
from commonground.errors import InputError
from commonground.study.release import Release

MAX_REASON = 200  # characters; reasons are this program's own constants, never a server's text
_COLUMNS = "id, offer, paper, signer, epsilon_cap, time, withdrawn"


@dataclass(frozen=True)
class Accepted:
    """One consent.

    Attributes:
        id: grows.
        offer: digest of the offer.
        paper: the signed offer, as text, exactly as it was shown.
        signer: the operator's public key.
        epsilon_cap: the most epsilon that this person spends, over all studies and runs of this profile.
        time: UTC, ISO 8601.
        withdrawn: when it was taken back, or None.
    """

    id: int
    offer: str
    paper: str
    signer: str
    epsilon_cap: float
    time: str
    withdrawn: str | None


class Consent:
    """The consents of a store; the newest counts, unless it was taken back.

    Args:
        database: where they lie.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def accept(self, offer: str, paper: str, signer: str, epsilon_cap: float) -> int:
        """Keep a consent.

        Args:
            offer: digest of the offer.
            paper: the signed offer as text.
            signer: the operator's public key.
            epsilon_cap: above 0; infinity is no cap.

        Returns:
            Its id.

        Raises:
            InputError: the cap is not above 0.
        """
        if math.isnan(epsilon_cap) or epsilon_cap <= 0:
            raise InputError(f"the epsilon cap is {epsilon_cap!r}; a number above 0, or inf, is needed")
        row = (offer, paper, signer, float(epsilon_cap), now())
        with self._database.transaction() as run:
            return int(run("INSERT INTO consent VALUES (NULL, ?, ?, ?, ?, ?, NULL)", row).lastrowid)

    def current(self) -> Accepted | None:
        """The newest consent; None where there is none or it was taken back."""
        newest = self.history()[-1:]
        return newest[0] if newest and newest[0].withdrawn is None else None

    def withdraw(self) -> None:
        """Take back every consent: nothing is sent any more. What was sent stays sent."""
        with self._database.transaction() as run:
            run("UPDATE consent SET withdrawn = ? WHERE withdrawn IS NULL", [now()])

    def history(self) -> list[Accepted]:
        """Every consent, the oldest first."""
        return [Accepted(*row) for row in self._database.rows(f"SELECT {_COLUMNS} FROM consent ORDER BY id")]


class Releases:
    """The newest release of the shared adapter that this device took, for each study and signer.

    Args:
        database: where they lie.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self, scope: str) -> Release | None:
        """The newest of a scope (study and signer); what `check_release` compares with."""
        query = "SELECT offer, version, round, tensors, final FROM releases WHERE scope = ?"
        found = self._database.row(query, [scope])
        if found is None:
            return None
        offer, version, round, tensors, final = found
        return Release(offer, version, round, tensors, bool(final))

    def take(self, scope: str, release: Release) -> None:
        """Note that a release was taken."""
        row = (scope, release.offer, release.version, release.round, release.tensors, now(), release.final)
        with self._database.transaction() as run:
            run("INSERT OR REPLACE INTO releases VALUES (?, ?, ?, ?, ?, ?, ?)", row)


class Refusals:
    """What this device refused, counted by reason.

    Args:
        database: where they lie.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self, reason: str) -> int:
        """Count one more refusal; returns how many of this reason there are.

        Args:
            reason: one of the program's own constants: a server must not be able to fill the disk with its.

        Raises:
            InputError: the reason is too long to be one.
        """
        if len(reason) > MAX_REASON:
            raise InputError(f"the reason has {len(reason)} characters; at most {MAX_REASON} are accepted")
        time = now()
        with self._database.transaction() as run:
            run(
                "INSERT INTO refusals VALUES (?, 1, ?, ?) "
                "ON CONFLICT (reason) DO UPDATE SET count = count + 1, last = excluded.last",
                (reason, time, time),
            )
            found = self._database.row("SELECT count FROM refusals WHERE reason = ?", [reason])
        return 0 if found is None else int(found[0])

    def all(self) -> list[dict[str, Any]]:
        """Every reason with its count and times, the most frequent first."""
        query = "SELECT reason, count, first, last FROM refusals ORDER BY count DESC, reason"
        names = ("reason", "count", "first", "last")
        return [dict(zip(names, row, strict=True)) for row in self._database.rows(query)]
