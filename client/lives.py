"""The lives of a private adapter: how it is trained step by step, begun anew, and gone back to.

A life is one run of the private phase's lifetime from the public start, under one secret seed. Rounds carry
it on; it is *finished* by the last private phase, or when it is fitted anew in one go. It is fitted anew from
the stored comparisons, under a fresh seed, when one that it learned from was taken back, when the base model
is another, and when it was finished and a newer version of the shared adapter came. Why is kept, and told.

Every version keeps what is needed to go on from it beside its numbers: a version that somebody goes back to
gets a fresh seed for what comes after, because two continuations under one noise would differ by what they
learned alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from commonground.client.feedback import OWNER, Verdict
from commonground.client.learner import Arrays, Insecure, Learner, Understood
from commonground.client.noise import secret_seed
from commonground.client.private_ledger import PrivateLedger
from commonground.client.store import Store
from commonground.comparisons import TAGS, Comparison, Tag
from commonground.errors import PrivacyError
from commonground.study.release import Release
from commonground.study.signing import digest
from commonground.training.update import PrivateState

TAKEN_BACK = "a comparison that it had learned from was taken back"
NEW_BASE = "the study has another base model or other settings"
NEW_SHARED = "a newer version of the shared adapter came"
ASKED = "you asked for it"
FROZEN = (
    "To fit it again all the same, raise the cap (commonground device private-cap); or forget what it "
    "learned (commonground device reset)"
)
_NEXT, _PENDING, _REFIT, _LABELS = "next life", "refit pending", "refit last", "label seed"
_BEGUN = "refit begun"
BEFORE = -1  # finished on the public start, before the first release


@dataclass(frozen=True)
class Life:
    """What a version of the private adapter is.

    Attributes:
        seed: of its draws; secret.
        fit: how many times it was begun, this life included.
        since: comparisons up to this id are forgotten (`reset`).
        newest: id of the newest comparison that it has seen.
        taste: comparisons that it learned from.
        said: taste comparisons that there were, whether they counted or not.
        steps: lifetime steps taken.
        done: version of the shared adapter that it was finished on; `BEFORE` where there was none; 0 while
            it goes on.
        offer: digest of that version's offer.
        paid: key of the charge that covers its steps; empty before it is charged.
        base: digest of everything that its numbers mean something under.
    """

    seed: int
    fit: int = 1
    since: int = 0
    newest: int = 0
    taste: int = 0
    said: int = 0
    steps: int = 0
    done: int = 0
    base: str = ""
    offer: str = ""
    paid: str = ""


class Lives:
    """The private adapters of a store, as lives.

    Args:
        store: where versions lie.
        insecure: a simulation's seed instead of secret ones.
    """

    def __init__(self, store: Store, insecure: Insecure | None = None) -> None:
        self._store, self._insecure = store, insecure
        self.ledger = PrivateLedger(store)

    def current(self) -> tuple[Life, Arrays | None]:
        """The life in use, and its numbers; None before its first step, when the policy is the shared one."""
        version = self._store.adapters.current()
        if version is not None:
            return self.of(version.version), self._store.adapters.state(version.version)
        found = self._store.get(_NEXT)
        if not found:
            life = Life(self._seed())
            self._store.put(_NEXT, _text(life))
            return life, None
        return Life(**json.loads(found)), None

    def of(self, version: int) -> Life:
        """The life of a version."""
        return Life(**json.loads(self._store.get(f"life {version}")))

    def learner(self, meant: Understood, life: Life) -> Learner:
        """A learner over what is not forgotten in this life; safety comparisons are never forgotten."""
        return self.begin(meant, life)[0]

    def begin(self, meant: Understood, life: Life, tags: Collection[str] = TAGS) -> tuple[Learner, Life]:
        """A learner, and the life with what it is about to see; both from one look at the comparisons.

        Args:
            meant: the accepted offer.
            life: which one.
            tags: over comparisons of these alone.
        """
        person = 0 if self._insecure is None else self._insecure.person
        said = self._store.feedback.all()
        known = [c for verdict in said if (c := _comparison(verdict, life.since)) is not None]
        found = [c for c in known if c.tag in tags]
        noise = None if self._insecure is None else self._insecure.private_noise_seed(meant)
        learner = Learner(meant, found, life.seed, person, self._label_seed(), noise)
        seen = replace(
            life,
            taste=len(learner.rows["taste"]),
            newest=max((verdict.id for verdict in said), default=0),
            said=len(_tastes(said, life.since)),
            base=base_of(meant),
        )
        return learner, seen

    def pay(self, meant: Understood) -> Life:
        """Charge the life in use for the steps that it has left, once, before any of them is taken.

        Args:
            meant: the accepted offer.

        Returns:
            The life, as it is kept now.

        Raises:
            PrivacyError: the cap would be exceeded; nothing is charged, and why is kept.
        """
        version, life = self._store.adapters.current(), self.current()[0]
        return self._charged(meant, life, _NEXT if version is None else f"life {version.version}")

    def _charged(self, meant: Understood, life: Life, name: str) -> Life:
        """Charge a life that is not paid for, and keep it under `name`, in one transaction."""
        claim = meant.terms.private_claim
        if life.paid or life.done or life.steps >= claim.steps:
            return life
        try:
            with self._store.transaction():
                life = replace(life, paid=self.ledger.charge(claim, life.steps))
                self._store.put(name, _text(life))
        except PrivacyError as error:
            self.ledger.freeze(f"It is frozen: {error.message}. {FROZEN}.")
            raise PrivacyError(error.message, hint=FROZEN, reason=error.reason) from error
        return life

    def save(self, meant: Understood, seen: Life, state: PrivateState, release: Release, note: str) -> int:
        """Keep a new version with its life, in one transaction; returns its number.

        Args:
            meant: the accepted offer.
            seen: what `begin` gave, before the training.
            state: after it.
            release: that it stands on.
            note: what made it.
        """
        steps = int(state.steps[0])
        with self._store.transaction():
            version = self._store.adapters.save(
                state.to_arrays(),
                offer=release.offer,
                round=release.round,
                shared_version=release.version,
                note=f"{note}: {steps} of {meant.plan.private.steps} steps, {seen.taste} comparisons",
            )
            self._store.put(f"life {version}", _text(replace(seen, steps=steps)))
            if self._gone(seen):
                self._store.put(_PENDING, TAKEN_BACK)
        return version

    def step(self, meant: Understood, release: Release, arrays: Arrays, memory: Arrays) -> None:
        """The private phase of a round: some more steps of the life in use, or its last ones.

        Raises:
            PrivacyError: as in `pay`; nothing is learned.
        """
        life, numbers = self.current()
        if life.done:
            return
        learner, seen = self.begin(meant, self.pay(meant))
        plan, final = meant.plan.private, release.final
        state = None if numbers is None else PrivateState.from_arrays(numbers)
        after = learner.private(arrays, state, memory, plan.steps if final else plan.steps_per_visit)
        seen = replace(seen, done=release.version, offer=release.offer) if final else seen
        with self._store.transaction():
            note = "last private phase" if final else f"round {release.round}"
            self.save(meant, seen, after, release, note)
            self.ledger.made(seen.paid)

    def pending(self, meant: Understood, release: Release | None) -> str:
        """Why the adapter in use has to be fitted anew; empty where it has not."""
        if self._store.adapters.current() is None:
            return ""
        if found := self._store.get(_PENDING):
            return found
        life, _ = self.current()
        if life.base != base_of(meant):
            return NEW_BASE
        # The last release alone: an operator can sign others for every round, and every fit costs.
        newer = release is not None and (release.offer, release.version) != (life.offer, life.done)
        if life.done and newer and release is not None and release.final:
            return NEW_SHARED
        return ""

    def refit(
        self,
        meant: Understood,
        release: Release,
        arrays: Arrays,
        memory: Arrays,
        why: str,
    ) -> int:
        """Fit anew from the stored comparisons; returns the version.

        A life that was going on goes on from as many steps as it had; one that was finished, or that was
        asked for, is finished at once.

        It is charged before it begins. One that a crash cut short was never shown: it is made again under
        the same charge and seed.

        Args:
            meant: the accepted offer.
            release: the newest release that this device took.
            arrays: what came with it.
            memory: what this device's half of the strategy keeps.
            why: in words.

        Raises:
            PrivacyError: as in `pay`; the adapter in use stays.
        """
        old, numbers = self.current()
        whole = why == ASKED or numbers is None or bool(old.done) or old.base != base_of(meant)
        plan = meant.plan.private
        fresh = Life(self._seed(), fit=old.fit + (numbers is not None), since=old.since, base=base_of(meant))
        if found := self._store.get(_BEGUN):
            begun = Life(**json.loads(found))
            if replace(fresh, seed=begun.seed, paid=begun.paid) == begun:
                fresh = begun
        life = self._charged(meant, fresh, _BEGUN)
        learner, seen = self.begin(meant, life)
        state = learner.private(arrays, None, memory, plan.steps if whole else old.steps)
        if whole:
            seen = replace(seen, done=release.version or BEFORE, offer=release.offer)
        with self._store.transaction():
            self._store.put(_PENDING, "")
            self._store.put(_BEGUN, "")
            self.ledger.made(life.paid)
            version = self.save(meant, seen, state, release, f"fitted anew because {why}")
            self._store.put(_REFIT, why)
        return version

    def taken_back(self, verdict: Verdict) -> None:
        """Note that a comparison was undone; what learned from it has to be fitted anew."""
        current = self._store.adapters.current()
        if current is None or verdict.tag != "taste" or verdict.verdict != "first":
            return
        life = self.of(current.version)
        if life.since < verdict.id <= life.newest:
            self._store.put(_PENDING, TAKEN_BACK)

    def reset(self) -> None:
        """Forget: the next life begins at the public start, and learns from later comparisons alone."""
        life, _ = self.current()
        fresh = Life(self._seed(), fit=life.fit + 1, since=self._store.feedback.newest())
        with self._store.transaction():
            self._store.adapters.reset()
            self._store.put(_NEXT, _text(fresh))
            self._store.put(_BEGUN, "")
            self._store.put(_PENDING, "")

    def rollback(self, version: int) -> None:
        """Use another version from now on; raises `InputError` where there is none such.

        Steps that it takes from there are taken a second time, under fresh noise: they are charged again.
        """
        with self._store.transaction():
            self._store.adapters.rollback(version)
            life = self.of(version)
            self._store.put(f"life {version}", _text(replace(life, seed=self._seed(), paid="")))
            self._store.put(_PENDING, TAKEN_BACK if self._gone(life) else "")

    def told(self, meant: Understood | None) -> dict[str, Any]:
        """What `status` says of the adapter in use."""
        life, numbers = self.current()
        version = self._store.adapters.current()
        return {
            "version": 0 if version is None else version.version,
            "steps": life.steps if numbers is not None else 0,
            "of": 0 if meant is None else meant.plan.private.steps,
            "taste": life.taste,
            "new": sum(id > life.newest for id in _tastes(self._store.feedback.all(), life.since)),
            "fits": life.fit,
            "frozen": self.ledger.frozen,
            "account": None if meant is None else account(self.ledger.summary(meant.terms.private_claim)),
        }

    def why(self) -> str | None:
        """Why the adapter is being, or was last, fitted anew; None where it never was."""
        if found := self._store.get(_PENDING):
            if frozen := self.ledger.frozen:
                return f"It has to be fitted anew: {found}. {frozen}"
            return f"It is being fitted anew: {found}."
        found = self._store.get(_REFIT)
        return f"It was fitted anew: {found}." if found else None

    def _gone(self, seen: Life) -> bool:
        """Whether a comparison that a life has seen is not there any more; it may go while it is learned."""
        now = _tastes(self._store.feedback.all(), seen.since)
        return seen.said != sum(id <= seen.newest for id in now)

    def _seed(self) -> int:
        """The seed of a new life."""
        return secret_seed() if self._insecure is None else self._insecure.seed

    def _label_seed(self) -> int:
        """The seed of the coins that flip choices: one for all lives, since a second coin is a second answer.

        Forgetting does not change it either: who says the same again after it gives the same answer again.
        """
        if self._insecure is not None:
            return self._insecure.seed
        with self._store.transaction():
            found = self._store.get(_LABELS)
            if not found:
                found = str(secret_seed())
                self._store.put(_LABELS, found)
        return int(found)


def account(found: dict[str, Any]) -> dict[str, Any]:
    """`PrivateLedger.summary` with values that JSON holds."""
    return {k: "inf" if isinstance(v, float) and math.isinf(v) else v for k, v in found.items()}


def base_of(meant: Understood) -> str:
    """Digest of everything that a private adapter's numbers mean something under."""
    model = meant.table.public
    shapes = {name: list(shape) for name, shape in model.private_spec().items()}
    return digest({"public": model.public_digests(), "shapes": shapes, "steps": meant.plan.private.steps})


def _tastes(said: Sequence[Verdict], since: int) -> list[int]:
    """Ids of the taste comparisons that are not forgotten."""
    return [v.id for v in said if v.tag == "taste" and v.id > since]


def _text(life: Life) -> str:
    return json.dumps(asdict(life))


def _comparison(verdict: Verdict, since: int) -> Comparison | None:
    if verdict.verdict != "first" or (verdict.tag == "taste" and verdict.id <= since):
        return None
    return Comparison(verdict.prompt, verdict.first, verdict.second, cast(Tag, verdict.tag), OWNER)
