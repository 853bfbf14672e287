"""The device's own account of privacy, and the only way by which a message comes to be.

One release of the shared adapter is answered by one message at most. Before anything of it exists it is
charged, in one transaction that is on the disk (methods E9, L1); then it is made, kept and noted as made, in
another; only then may it leave. A crash in between leaves a charge that counts; asked again, the device makes
the message under the charge it has, or answers with the very bytes that it kept. Nothing is refunded.

A real device is on or off for its own reasons and the server knows who took part, so nothing is amplified:
each message costs one Gaussian with sampling rate 1. How often a device takes part, and how far apart, is
held here whatever the server asks. Epsilon is computed here, from the noise that the accepted offer fixes,
over every study, signer and run of this profile; no number of a server is read. Everything is charged under
one kind of neighbours, whatever each offer claims: all that this person sent is replaced by anything else
(`Terms.account`); costs under different neighbours do not add up to anything.

The account is as old as its file. Whoever puts back an older copy of the store takes charges out of it; the
server, which knows who took part, then stands alone for k and b.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from commonground.client.database import Failure, now
from commonground.client.feedback import OWNER
from commonground.client.outbox import Sent
from commonground.client.private_ledger import PrivateLedger
from commonground.client.store import Store
from commonground.errors import PrivacyError, Reason
from commonground.manifest import Sealed
from commonground.privacy.accounting import Charge, epsilon_composed
from commonground.privacy.banded import may_join
from commonground.privacy.ledger import Ledger
from commonground.privacy.statement import refuse_if_unaccounted
from commonground.study.offer import Terms
from commonground.study.release import Release

MECHANISM = "shared"
ACCOUNTANT = "gaussian"  # exact, because every sampling rate is 1
STEPS = ("asked", "reserved", "made", "kept")  # where a crash is tested; see `DeviceLedger._reached`
_NAMES: tuple[str, ...] = (
    "scope",
    "key",
    "sampling",
    "noise_multiplier",
    "steps",
    "status",
    "time",
    "offer",
    "round",
)
_NAMES += ("trust", "neighbours")
_ENTRIES = (
    "SELECT e.run, e.key, e.q, e.z, e.steps, e.status, e.time, u.offer, u.round, u.trust, u.neighbours "
    "FROM entries e LEFT JOIN uploads u ON u.scope = e.run AND u.key = e.key "
    f"WHERE e.mechanism = '{MECHANISM}' ORDER BY e.id"
)


def scope_of(study: str, signer: str) -> str:
    """What keys are unique within: the study's name and the operator's public key, never a run's number."""
    return f"{study} {signer}"


@dataclass(frozen=True)
class Upload:
    """The answer to one release.

    Attributes:
        scope: `scope_of` study and signer.
        release: the release, checked.
    """

    scope: str
    release: Release

    @property
    def key(self) -> str:
        """What makes the charge idempotent."""
        return f"release-{self.release.version}"


class DeviceLedger:
    """The account of one profile.

    Args:
        store: the open store; charges lie in the same file as messages and receipts.

    Attributes:
        private: the account of private adapters, whose unit is another.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._one = threading.Lock()
        self._ledgers: dict[str, Ledger] = {}
        self._ledger("")  # makes the table
        self.private = PrivateLedger(store)

    def once(
        self,
        upload: Upload,
        terms: Terms,
        cap: float,
        make: Callable[[], Sealed],
        *,
        clip: float | None = None,
        along: Callable[[Sealed], None] | None = None,
    ) -> Sent:
        """The message that answers a release: charged, made and kept once, the same bytes ever after.

        Args:
            upload: which release is answered.
            terms: of the accepted offer: charge, k, b, delta.
            cap: the participant's own epsilon over everything of this profile, at the terms' delta.
            make: trains, clips, adds noise and seals; not called where the message is kept already.
            clip: the clip that the server asked for, for the receipt.
            along: writes that belong to the message (a strategy's memory), in the transaction that keeps it.

        Returns:
            What may leave, with `message` set.

        Raises:
            PrivacyError: k, b or the cap would be exceeded, or the release was answered before and the bytes
                are no longer kept; nothing was made.
            StorageError: the disk refused; nothing may leave.
        """
        with self._one:
            self._reached("asked")
            _, sent = self._charge(upload, terms, cap)
            if sent is None:
                self._reached("reserved")
                sealed = make()
                self._reached("made")
                sent = self._keep(upload, sealed, clip, along)
                self._reached("kept")
            if sent.message is None:
                raise self._twice(upload)
            return sent

    def reserve(self, upload: Upload, terms: Terms, cap: float) -> bool:
        """Charge a release before anything of it exists, on the disk when this returns.

        Args:
            upload: which release.
            terms: of the accepted offer.
            cap: as in `once`.

        Returns:
            True if it was charged now, False if it had been and no message came of it.

        Raises:
            PrivacyError: as in `once`, or the release was answered; nothing is charged.
        """
        fresh, sent = self._charge(upload, terms, cap)
        if sent is not None:
            raise self._twice(upload)
        return fresh

    def spent(self) -> tuple[Charge, ...]:
        """The flattened history of this profile, reservations included."""
        with self._store.database.held():
            return self._ledger("").spent(OWNER)

    def epsilon(self, delta: float) -> float:
        """What was spent over every study, signer and run of this profile, at `delta`.

        Raises:
            PrivacyError: something left that no charge covers, so that no number is true.
        """
        self.refuse_if_unaccounted()
        return epsilon_composed(self.spent(), delta, ACCOUNTANT)

    def refuse_if_unaccounted(self) -> None:
        """Raise `PrivacyError` where a receipt has no charge."""
        released = [f"{sent.scope} {sent.key}" for sent in self._store.outbox.receipts()]
        refuse_if_unaccounted(released, [f"{e['scope']} {e['key']}" for e in self.entries()])

    def entries(self) -> list[dict[str, Any]]:
        """Every charge of a message, the oldest first, as plain values."""
        return [dict(zip(_NAMES, row, strict=True)) for row in self._store.database.rows(_ENTRIES)]

    def _charge(self, upload: Upload, terms: Terms, cap: float) -> tuple[bool, Sent | None]:
        """Whether it was charged now; and the message, where there is one already."""
        release, ledger = upload.release, self._ledger(upload.scope)
        if terms.charge.sampling != 1 or terms.claim.unit != "person":
            raise PrivacyError(
                f"the offer counts on sampling at rate {terms.charge.sampling:g}, unit {terms.claim.unit}; "
                "accepted: rate 1 and unit person, because a real device is not drawn in secret",
                hint="the operator has to make an offer without amplification",
                reason=Reason.AMPLIFIED,
            )
        known = "SELECT offer, round, tensors FROM uploads WHERE scope = ? AND key = ?"
        joined = "SELECT COUNT(*), COALESCE(MAX(round), 0) FROM uploads WHERE scope = ? AND offer = ?"
        with self._store.database.transaction() as run:
            # Under the write lock: another process may be answering the same release.
            sent = self._store.outbox.find(upload.scope, upload.key)
            found = run(known, (upload.scope, upload.key)).fetchone()
            if found != (release.offer, release.round, release.tensors) and (found or sent):
                raise self._twice(upload)
            if sent is not None:
                return False, sent
            if found is None:
                count, last = run(joined, (upload.scope, release.offer)).fetchone()
                if not may_join(count, last, release.round, terms.most, terms.separation):
                    raise PrivacyError(
                        f"round {release.round} comes too often or too early: this device has taken part in "
                        f"{count} round(s), in round {last} lately; accepted: at most {terms.most}, any two "
                        f"at least {terms.separation} apart",
                        hint="wait for a later round, or for a new offer",
                        reason=Reason.TOO_OFTEN,
                    )
                run(
                    "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(upload.scope, upload.key, release.offer, release.round, release.tensors),
                        *(terms.most, terms.separation, terms.claim.trust, terms.claim.neighbours, now()),
                    ),
                )
            elif self._made(upload):
                raise self._twice(upload)
            limit = (cap, terms.claim.delta)
            return ledger.reserve(OWNER, MECHANISM, upload.key, terms.account, limit), None

    def _keep(
        self, upload: Upload, sealed: Sealed, clip: float | None, along: Callable[[Sealed], None] | None
    ) -> Sent:
        with self._store.transaction():
            # Another process may have been quicker: then its message is the one, and this one never was.
            sent = self._store.outbox.find(upload.scope, upload.key)
            if sent is None:
                sent = self._store.outbox.keep(upload.scope, upload.key, upload.release.offer, sealed, clip)
                if along is not None:
                    along(sealed)
                self._ledger(upload.scope).commit(upload.key, mechanism=MECHANISM, person=OWNER)
        return sent

    def _made(self, upload: Upload) -> bool:
        query = "SELECT 1 FROM entries WHERE run = ? AND mechanism = ? AND key = ? AND status = 'committed'"
        return self._store.database.row(query, [upload.scope, MECHANISM, upload.key]) is not None

    def _ledger(self, scope: str) -> Ledger:
        with self._store.database.held():
            if scope not in self._ledgers:
                database = self._store.database
                self._ledgers[scope] = Ledger(
                    database.path, scope, ACCOUNTANT, connect=lambda: database.connection, failure=Failure
                )
            return self._ledgers[scope]

    def _twice(self, upload: Upload) -> PrivacyError:
        return PrivacyError(
            f"release {upload.release.version} was answered before, and these are not its bytes or they are "
            "no longer kept; a second message for one release is never made",
            hint="the operator has to make a new release",
            reason=Reason.ANSWERED,
        )

    def _reached(self, step: str) -> None:
        """Nothing; tests end the process here."""
