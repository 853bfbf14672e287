"""What the Flower node is answered: the one place where something comes to leave.

Order of a round: consent, pause and time; the signed release; how often and how far apart, and the charge, on
the disk; training, clip, noise and seal; the sealed bytes, their receipt and the charge's commit in one
transaction; the answer. Whatever stops a round is one of two constants to the caller; why is counted in the
store under a reason of our own, and said in this device's log alone.

When an answer comes must not tell what its person is doing. So the answer has a model of its own and takes no
lock that chatting, fitting anew or the private phase hold; and an update that her own texts make fail is
answered like that of somebody who has said nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import NoReturn

import torch

from commonground.client.consent import Accepted
from commonground.client.device_ledger import DeviceLedger, Upload, scope_of
from commonground.client.learner import Arrays, Insecure, Understood, seal_answer, understand
from commonground.client.lives import NEW_SHARED, Life, Lives
from commonground.client.noise_secret import read_secret
from commonground.client.profile import Profile
from commonground.client.store import Store
from commonground.comparisons import TAGS
from commonground.errors import (
    CommonGroundError,
    EgressError,
    InputError,
    PrivacyError,
    Reason,
    StorageError,
    TrustError,
)
from commonground.manifest import Manifest, Sealed, reopen
from commonground.study.release import Release, check_release
from commonground.study.signing import digest
from commonground.training.client_half import Answer
from commonground.training.update import PrivateState

log = logging.getLogger("commonground.vault")

PAUSED = "paused"
GIVE_WAY = 120.0  # seconds that a text which is being written waits for a message, at most


class RefusedError(Exception):
    """The vault does not take part in a round; why goes no further than this device.

    Args:
        reason: one of the constants.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Rounds:
    """Answers the node.

    Args:
        profile: whose signer and offer count.
        store: everything private.
        insecure: a simulation's draws instead of the operating system's; tests only.
    """

    def __init__(self, profile: Profile, store: Store, insecure: Insecure | None = None) -> None:
        self.profile, self.store, self.insecure = profile, store, insecure
        self.lives = Lives(store, insecure)
        self.ledger = DeviceLedger(store)
        self.scope = scope_of(profile.study, profile.signer)
        self.busy = threading.Event()  # something is learned
        self._free = threading.Event()  # no message is being made
        self._free.set()
        self.model = threading.RLock()  # of the workshop's model: one at a time trains or writes
        self._understood: Understood | None = None
        self._workshop: Understood | None = None
        self._deriving, self._taking = threading.Lock(), threading.Lock()
        self._counting, self._learners = threading.Lock(), 0

    def describe(self) -> Manifest:
        """What this person agreed may leave; raises `RefusedError` before she agreed."""
        return self._contract()[0].manifest

    def shared_update(self, round: int, arrays: Arrays, clip: float | None, release: str) -> Sealed:
        """The sealed message that answers a release: made once, the same bytes whenever it is asked again.

        Args:
            round: the round that is asked for.
            arrays: everything that the server sent.
            clip: the clip that it asks for, or None.
            release: the signed release.

        Raises:
            RefusedError: this device does not take part; nothing was made.
            CommonGroundError: it failed, with a text for this device's log alone.
        """
        meant, accepted = self._may(round)
        if round > meant.config.rounds:  # the claim is over the study's rounds; none follows the last
            self._refuse(Reason.OTHER_ROUND)
        taken = self._take(meant, round, arrays, release)
        try:
            meant.manifest.accepted(clip)
        except EgressError as error:
            self._refuse(Reason.OTHER_CLIP, error)
        try:
            self.secret(meant, taken)
        except InputError as error:
            self._refuse(error.reason or Reason.FAILED, error)
        try:
            if meant.plan.schedule != "decoupled":  # the private adapter takes steps in the shared phase too
                with self.model:
                    self.lives.pay(meant)
            sent = self.ledger.once(
                Upload(self.scope, taken),
                meant.terms,
                accepted.epsilon_cap,
                lambda: self._make(meant, taken, arrays, clip),
                clip=clip,
                along=lambda _: self._along(meant, taken),
            )
        except PrivacyError as error:
            self._refuse(error.reason or Reason.FAILED, error)
        if sent.message is None:
            raise EgressError("the message is not kept any more")
        self._may(round)  # it may have trained for minutes: she may have paused since, or the study closed
        return reopen(meant.manifest, sent.message, sent.receipt, sent.clip)

    def private_update(self, round: int, arrays: Arrays, release: str) -> None:
        """The private phase of a round; nothing is handed out.

        Whether it is the last one, which ends a lifetime, stands in the signed release.

        Args:
            round: the round; one that is done is left as it is.
            arrays: everything that the server sent.
            release: the signed release.

        Raises:
            RefusedError: as in `shared_update`.
        """
        meant, _ = self._may(round)
        taken = self._take(meant, round, arrays, release)
        with self.model, self._learning():
            meant = self.workshop()
            # Once a round, so that whoever signs releases cannot keep this machine at it.
            if self.store.adapters.of_round(taken.offer, taken.round) is not None:
                return
            memory = self.store.memory.read(taken.offer, taken.round + 1)
            why = self.lives.pending(meant, taken)
            with self._within_the_cap():
                if why:
                    self.lives.refit(meant, taken, arrays, memory, why)
                else:
                    self.lives.step(meant, taken, arrays, memory)

    def catch_up(self) -> bool:
        """Fit the private adapter anew where something was taken back or changed; whether there was need."""
        with self.model:
            if self.accepted() is None:
                return False
            meant, newest = self.workshop(), self.newest()
            why = self.lives.pending(meant, newest)
            if newest is None or not why or why == NEW_SHARED:  # a newer version comes with its private phase
                return False
            done = False
            with self._within_the_cap():
                self.refit(why)
                done = True
            return done

    def refit(self, why: str) -> int:
        """Fit the private adapter anew, now; returns the version.

        Raises:
            InputError: nothing is accepted yet.
            PrivacyError: the cap on what fits may cost together would be exceeded.
        """
        if self.accepted() is None:
            raise InputError("nothing is learned before the offer is accepted", hint="read and accept it")
        with self.model, self._learning():
            meant, newest = self.workshop(), self.newest()
            arrays = self.shared(meant)
            release = newest or Release(meant.offer.digest, 0, 0, "")
            memory = self.store.memory.read(release.offer, release.round + 1)
            return self.lives.refit(meant, release, arrays, memory, why)

    def newest(self) -> Release | None:
        """The newest release that this device took, under the offer that counts."""
        found = self.store.releases.newest(self.scope)
        return found if found is not None and found.offer == self.profile.offer else None

    def shared(self, meant: Understood) -> Arrays:
        """The newest shared adapter, with all that came with it; the public start before the first."""
        newest = self.newest()
        if newest is not None:
            found = self.store.memory.read(_kept(newest.offer), newest.version + 1)
            if found:
                return found
        return {name: value.numpy() for name, value in meant.table.public.initial_shared().items()}

    def understood(self) -> Understood:
        """What the profile's offer means here, accepted or not; derived once. Errors as in `understand`."""
        with self._deriving:
            if self._understood is None:
                profile = self.profile
                self._understood = understand(profile.terms(), profile.parts(), profile.charter())
            return self._understood

    def give_way(self) -> None:
        """Wait while a message is made; what writes a text asks before each piece."""
        self._free.wait(GIVE_WAY)

    def workshop(self) -> Understood:
        """What `understood` found, over a model of its own: for all that is done under `model`.

        Training and writing change a model's modules in place. With one model, a round's answer would have
        to wait until its person has finished chatting, and the delay would tell the server so.
        """
        meant = self.understood()
        with self.model:
            if self._workshop is None:
                self._workshop = dataclasses.replace(meant, table=meant.table.apart())
            return self._workshop

    @property
    def derived(self) -> Understood | None:
        """What `understood` found, if it was called; never waits for a model."""
        return self._understood

    def accepted(self) -> Accepted | None:
        """The consent that counts: to exactly the offer in the profile."""
        found = self.store.consent.current()
        return found if found is not None and found.offer == self.profile.offer else None

    def _contract(self) -> tuple[Understood, Accepted]:
        accepted = self.accepted()
        if accepted is None:
            self._refuse(Reason.NO_CONSENT)
        try:
            return self.understood(), accepted
        except CommonGroundError as error:
            self._refuse(Reason.UNFIT, error)

    def _may(self, round: int) -> tuple[Understood, Accepted]:
        meant, accepted = self._contract()
        if self.store.get(PAUSED):
            self._refuse(Reason.PAUSED)
        if not meant.offer.is_open():
            self._refuse(Reason.CLOSED)
        if not 1 <= round <= meant.config.rounds + 1:
            self._refuse(Reason.OTHER_ROUND)
        return meant, accepted

    def _take(self, meant: Understood, round: int, arrays: Arrays, text: str) -> Release:
        """Check a release and note that it was taken, with its tensors; once it was, again and again."""
        with self._taking:  # a call that is late must not put its older release over a newer one
            return self._taken(meant, round, arrays, text)

    def _taken(self, meant: Understood, round: int, arrays: Arrays, text: str) -> Release:
        last = self.store.releases.newest(self.scope)
        offer, signer = meant.offer.digest, self.profile.signer
        if last is not None and last.offer != offer:
            last = None  # versions of another offer count for themselves
        try:
            release = check_release(text, arrays, meant.manifest, signer=signer, offer=offer, last=last)
        except TrustError as error:
            self._refuse(error.reason or Reason.UNREADABLE, error)
        if release.round != round:
            self._refuse(Reason.OTHER_ROUND)
        if release.final != (release.round > meant.config.rounds):  # the offer says which is the last
            self._refuse(Reason.NOT_THE_LAST)
        if release != last:
            with self.store.transaction():
                self.store.releases.take(self.scope, release)
                self.store.memory.save(_kept(offer), release.version, arrays)
        return release

    def secret(self, meant: Understood, release: Release) -> tuple[bytes, str] | None:
        """What the noise of an answer to a release is made with; None where this device adds none of its own.

        Raises:
            InputError: this machine has no secret for the store.
        """
        if self.insecure is not None or not meant.manifest.noise_on_device:
            return None
        return read_secret(self.store.identity), f"{self.scope}\n{digest(asdict(release))}"

    def _make(self, meant: Understood, release: Release, arrays: Arrays, clip: float | None) -> Sealed:
        # Where the private adapter takes part in the shared phase, the answer waits for what trains it.
        private = contextlib.nullcontext() if meant.plan.schedule == "decoupled" else self.model
        self._free.clear()
        try:
            with private, self._learning():
                found, seen = self._answer(meant, release, arrays, meant.manifest.accepted(clip))
                self._made = found, seen
                secret = self.secret(meant, release)
                return seal_answer(meant, found, release.round, clip, self.insecure, secret)
        finally:
            self._free.set()

    def _answer(
        self, meant: Understood, release: Release, arrays: Arrays, clip: float
    ) -> tuple[Answer, Life]:
        # What the shared phase must not depend on it does not even read. A failure that her own texts cause
        # would tell about them: she is answered for as one who has said nothing. One that they do not cause
        # comes again, and is the constant one.
        try:
            tags = meant.config.shared.tags if meant.plan.schedule == "decoupled" else TAGS
            return self._update(meant, release, arrays, clip, tags)
        except StorageError:
            raise
        except (Exception, SystemExit) as error:
            log.warning("the local update failed: %s; answered without it", type(error).__name__)
        found = self._update(meant, release, arrays, clip, ())
        self.store.refusals.count(Reason.FAILED.value)
        return found

    def _update(
        self, meant: Understood, release: Release, arrays: Arrays, clip: float, tags: Collection[str]
    ) -> tuple[Answer, Life]:
        state = None
        learner, seen = self.lives.begin(meant, self.lives.current()[0], tags)
        if meant.plan.schedule != "decoupled":  # else the private state is not even read
            numbers = self.lives.current()[1]
            state = learner.first() if numbers is None else PrivateState.from_arrays(numbers)
        memory = self.store.memory.read(release.offer, release.round)
        return learner.answer(release.round, arrays, clip, memory, state), seen

    def _along(self, meant: Understood, release: Release) -> None:
        """What a message changes on this device, in the transaction that keeps it."""
        found, seen = self._made
        if found.memory is not None:
            kept = {name: value[0].numpy() for name, value in found.memory.items()}
            self.store.memory.save(release.offer, release.round, kept)
        if found.after is not None:
            self.lives.save(meant, seen, found.after, release, f"round {release.round}")

    @contextmanager
    def _within_the_cap(self) -> Iterator[None]:
        """Let a fit that the cap does not allow be none: the adapter stays as it is, and says why."""
        try:
            yield
        except PrivacyError as error:
            if error.reason is not Reason.BUDGET:
                raise
            log.warning("not fitted: %s", error.message)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        # In every call, since any thread may serve it: several add floats in another order than one.
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        with self._counting:
            self._learners += 1
            self.busy.set()
        try:
            yield
        finally:
            with self._counting:
                self._learners -= 1
                if not self._learners:
                    self.busy.clear()

    def _refuse(self, reason: Reason, error: CommonGroundError | None = None) -> NoReturn:
        self.store.refusals.count(reason.value)
        # Cut short: a server may have named its tensors in it.
        why = "" if error is None else f" ({error.message[:300]})"
        log.warning("refused: %s%s", reason.value, why)
        raise RefusedError(reason) from error


def _kept(offer: str) -> str:
    """The name under which shared adapters of an offer are kept, beside what strategies remember."""
    return f"shared {offer}"
