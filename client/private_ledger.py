"""The device's account of private adapters: what every fit costs, charged before it begins.

A fit is one lifetime of the private phase under one secret seed, or what is left of one that somebody went
back to. Each is a fresh look at the same comparisons, and all versions are kept, so their costs compose; the
unit is one comparison, and these charges are never added to those of messages, whose unit is the person. A
charge is on the disk before the fit begins, is for the whole lifetime, and is never refunded.

Under the label mechanism every fit is made of the same reported choices
(`commonground.training.label_coins`): they are reported once, and what is computed of them costs no more.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

from commonground.client.database import Failure
from commonground.client.feedback import OWNER
from commonground.client.store import Store
from commonground.errors import InputError
from commonground.privacy.accounting import Charge, epsilon_composed
from commonground.privacy.ledger import Ledger
from commonground.privacy.private_claims import PrivateClaim

RUN, MECHANISM, UNIT, ACCOUNTANT = "private adapters", "private", "comparison", "prv"
TIMES = 2.0  # the default cap, over the epsilon of one fit: it leaves room for a second or a third
_CAP, _FROZEN, _LABELS = "private cap", "private frozen", "label epsilons"
_FITS = "SELECT key, q, z, steps, status, time FROM entries WHERE mechanism = ? AND unit = ? ORDER BY id"
_NAMES = ("key", "sampling", "noise_multiplier", "steps", "status", "time")


class PrivateLedger:
    """The account of private adapters of one profile.

    Args:
        store: the open store; charges lie in the same file as the versions that they pay for.
    """

    def __init__(self, store: Store) -> None:
        self._store, database = store, store.database
        with database.held():
            self._ledger = Ledger(
                database.path, RUN, ACCOUNTANT, connect=lambda: database.connection, failure=Failure
            )

    def charge(self, claim: PrivateClaim, taken: int) -> str:
        """Charge the rest of a lifetime; call it in the transaction that notes what is paid for.

        Args:
            claim: what the accepted offer says of private adapters.
            taken: steps of this lifetime that another charge covers already.

        Returns:
            The key of the charge.

        Raises:
            PrivacyError: the cap would be exceeded, and nothing is charged (`Reason.BUDGET`).
            StorageError: the disk refused.
        """
        with self._store.transaction():
            key = f"fit-{len(self.fits()) + 1}"
            if claim.mechanism == "label":
                known = self._labels() | {repr(claim.flip_probability): claim.epsilon}
                self._store.put(_LABELS, json.dumps(known))
            else:
                cost = claim.charge(max(0, claim.steps - taken))
                # Without noise there is nothing to hold below a cap, and the offer says so.
                cap = None if claim.noise_multiplier == 0 else (self.cap(claim), claim.delta)
                self._ledger.reserve(OWNER, MECHANISM, key, cost, cap, unit=UNIT)
            self._store.put(_FROZEN, "")
        return key

    def made(self, key: str) -> None:
        """Note that numbers under a charge were kept."""
        self._ledger.commit(key, mechanism=MECHANISM, person=OWNER)

    def fits(self) -> list[dict[str, Any]]:
        """Every charge, the oldest first, as plain values."""
        rows = self._store.database.rows(_FITS, (MECHANISM, UNIT))
        return [dict(zip(_NAMES, row, strict=True)) for row in rows]

    def epsilon(self, delta: float) -> float:
        """What all fits cost one comparison together, at `delta`, reservations included."""
        with self._store.database.held():
            spent = self._ledger.spent(OWNER, unit=UNIT)
        return _composed(spent, delta)

    def cap(self, claim: PrivateClaim) -> float:
        """The most that one comparison may be charged: her own number, or twice what one fit costs."""
        own = self._store.get(_CAP)
        return float(own) if own else TIMES * claim.epsilon

    def set_cap(self, epsilon: float) -> None:
        """Her own cap from now on; raises `InputError` unless it is above 0 (infinity is none)."""
        if math.isnan(epsilon) or epsilon <= 0:
            raise InputError(f"the private cap is {epsilon!r}; a number above 0, or inf, is needed")
        with self._store.transaction():
            self._store.put(_CAP, repr(float(epsilon)))
            self._store.put(_FROZEN, "")

    @property
    def frozen(self) -> str:
        """Why no fit is begun, in one line; empty where nothing stands against one."""
        return self._store.get(_FROZEN)

    def freeze(self, why: str) -> None:
        """Note that a fit was refused."""
        self._store.put(_FROZEN, why)

    def summary(self, claim: PrivateClaim) -> dict[str, Any]:
        """The account as plain values.

        Returns:
            mechanism, unit, charged (fits), epsilon (of all of them together; 0 before the first, infinity
            without noise), one (of a single fit), delta, cap, frozen (one line, or empty).
        """
        fits = self.fits()
        if claim.mechanism == "label":  # one report a choice and probability, however many fits
            epsilon = float(sum(self._labels().values()))
        else:
            epsilon = self.epsilon(claim.delta) if fits else 0.0
        return {
            "mechanism": claim.mechanism,
            "unit": claim.unit,
            "charged": len(fits),
            "epsilon": epsilon,
            "one": claim.epsilon,
            "delta": claim.delta,
            "cap": self.cap(claim),
            "frozen": self.frozen,
        }

    def in_words(self, claim: PrivateClaim) -> str:
        """One paragraph that is true read alone."""
        found = self.summary(claim)
        who = "towards whoever sees every version of your private adapter, kept and exported ones included"
        if claim.mechanism == "label":
            return (
                "Your private adapter is fitted to choices as they were reported once, turned round by a "
                f"coin that is kept: epsilon = {found['epsilon']:.4g} for each choice, {who}. Fitting it "
                "again to the same reports costs nothing more."
            )
        if not claim.steps:
            return "Private adapters take no steps in this study, and cost nothing."
        fits = f"By its own record this device has charged {found['charged']} fit(s) of your private adapter"
        if math.isinf(found["epsilon"]):
            return f"{fits}, of which one or more had no noise: epsilon is infinite, and nothing is promised."
        cap = "you set no cap" if math.isinf(found["cap"]) else f"the cap is {found['cap']:.4g}"
        frozen = f" {found['frozen']}" if found["frozen"] else ""
        return (
            f"{fits}. Together they cost one comparison epsilon = {found['epsilon']:.4g} at delta = "
            f"{found['delta']:.4g}, {who}; a single fit costs {found['one']:.4g}, and {cap}. Nothing is ever "
            f"refunded, and this is never added to what messages cost, whose unit is another.{frozen}"
        )

    def _labels(self) -> dict[str, float]:
        """Flip probability -> epsilon, of every mechanism that reported her choices."""
        return dict(json.loads(self._store.get(_LABELS) or "{}"))


@lru_cache(maxsize=64)
def _composed(spent: tuple[Charge, ...], delta: float) -> float:
    return epsilon_composed(spent, delta, ACCOUNTANT)
