"""The fleet: the local update of many people in one tensor operation, behind the same egress contract.

A chunk of people is trained, clipped, sealed and (in the private phase) stored together. What a chunk's
people send is added up as it goes where the release is a sum, and kept one by one where a rule needs it.
`policy` models are not batched: there one person is a chunk, since arithmetic and not overhead is the bound.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from commonground.comparisons import Tag
from commonground.manifest import Receipt, SealedBatch
from commonground.sealing import seal_updates
from commonground.simulations.devices import (
    STREAM,
    device_normals,
    epsilon_words,
    frozen_shared,
    join,
    remember,
    respond,
)
from commonground.simulations.store import PrivateStore
from commonground.simulations.world import Arm, World
from commonground.strategies.together import CohortReply
from commonground.training.plan import PrivatePlan
from commonground.training.private_phase import PrivateState, first_private, private_phase

Arrays = dict[str, np.ndarray]
log = logging.getLogger("commonground.simulations")


class Trainer(Protocol):
    """Who trains a cohort: one process, or several."""

    def train(
        self,
        round: int,
        shared: Arrays,
        people: Sequence[int],
        *,
        each: bool,
        clip: float | None = None,
    ) -> CohortReply:
        """The shared phase of a cohort.

        Args:
            round: from 1; asked again for a round, the same comes.
            shared: the shared adapter.
            people: indices, ascending.
            each: True for the sealed updates one by one instead of their sum.
            clip: the clip that the server asks for, where it is adapted.
        """
        ...

    def train_private(self, round: int, shared: Arrays, people: Sequence[int], *, final: bool) -> None:
        """The private phase of a cohort; asked again for a round, the same is stored."""
        ...


class Fleet:
    """A `Trainer` in this process.

    Args:
        world: the run's world.
        arm: which shared adapter is being trained.
        store: private states and receipts.
    """

    def __init__(self, world: World, arm: Arm, store: PrivateStore) -> None:
        self._world, self._arm, self._store = world, arm, store
        self._model, self._plan = world.models[arm], world.plans[arm]
        self._manifest = world.manifests[arm]
        self._chunk = world.config.fleet.chunk if self._model.kind == "reward" else 1

    def train(
        self,
        round: int,
        shared: Arrays,
        people: Sequence[int],
        *,
        each: bool,
        clip: float | None = None,
    ) -> CohortReply:
        """See `Trainer`."""
        answered: list[int] = []
        parts: list[Arrays] = []
        total = {spec.name: np.zeros(spec.shape) for spec in self._manifest.sent}
        receipts: list[Receipt] = []
        for asked in self._chunks(people):
            joins = join(self._world, self._store, self._arm, asked, round)
            chunk = [person for person, joined in zip(asked, joins.tolist(), strict=True) if joined]
            if not chunk:
                continue
            sealed = self._sealed(round, shared, chunk, clip)
            answered += [person for person, kept in zip(chunk, sealed.kept.tolist(), strict=True) if kept]
            receipts += sealed.receipts
            if each:
                parts.append(sealed.tensors)
            else:
                for name, value in sealed.totals().items():
                    total[name] += value
        if receipts:
            digests = [receipt.digest for receipt in receipts]
            size, names = receipts[0].bytes, receipts[0].names
            epsilon = epsilon_words(self._world.claim, round)
            self._store.keep_receipts(self._arm, round, answered, digests, size, names, epsilon)
        if refused := len(people) - len(answered):
            log.warning("round %d: %d updates were refused by the manifest", round, refused)
        if each:
            empty = {spec.name: np.zeros((0, *spec.shape), spec.dtype) for spec in self._manifest.sent}
            total = {name: np.concatenate([none, *(p[name] for p in parts)]) for name, none in empty.items()}
        return CohortReply(answered, refused, total)

    def train_private(self, round: int, shared: Arrays, people: Sequence[int], *, final: bool) -> None:
        """See `Trainer`."""
        plan = self._plan.private
        for chunk in self._chunks(people):
            model, crowd = self._world.crowd.visit(self._model, chunk, plan.tags)
            state = private_phase(
                model,
                crowd,
                frozen_shared(self._world, self._store, self._arm, chunk, shared, round),
                self._before(round, chunk),
                plan,
                seed=self._plan.seed,
                noise_seed=self._plan.noise_seed,
                steps=plan.steps if final else plan.steps_per_visit,
            )
            self._store.write_many(STREAM, chunk, round, state.to_arrays())

    def _sealed(self, round: int, shared: Arrays, people: list[int], clip: float | None) -> SealedBatch:
        """Train, clip, add the devices' own noise where they add it, seal."""
        decoupled = self._plan.schedule == "decoupled"
        # In the decoupled schedule the private state is not even read: a damaged one could stop the message.
        state = None if decoupled else self._before(round, people)
        tags: set[Tag] = {*self._plan.shared.tags, *(() if decoupled else self._plan.private.tags)}
        model, crowd = self._world.crowd.visit(self._model, people, sorted(tags))
        most = self._manifest.accepted(clip)
        found = respond(self._world, self._store, self._arm, model, crowd, shared, state, round, most)
        sealed = seal_updates(
            self._manifest,
            {name: value.numpy() for name, value in found.update.items()},
            round=round,
            clip=clip,
            deviation=self._world.noise_std,
            draw=lambda _: device_normals(self._world, self._arm, people, round),
        )
        remember(self._store, self._arm, people, round, found)
        return sealed

    def _before(self, round: int, people: Sequence[int]) -> PrivateState:
        return states_before(self._store, self._world, STREAM, people, round)

    def _chunks(self, people: Sequence[int]) -> Iterator[list[int]]:
        for first in range(0, len(people), self._chunk):
            yield list(people[first : first + self._chunk])


def states_before(
    store: PrivateStore,
    world: World,
    stream: str,
    people: Sequence[int],
    round: int,
    plan: PrivatePlan | None = None,
) -> PrivateState:
    """The private states of people from before a round; those without one are at the public start.

    A stream that another plan than the shared arm's writes needs that plan.
    """
    there, arrays = store.read_many(stream, people, round)
    start = first_private(world.models["shared"], len(people), plan or world.plans["shared"].private)
    if not there.any():
        return start
    fresh = start.to_arrays()
    for name, value in fresh.items():
        value[there] = arrays[name][there]
    return PrivateState.from_arrays(fresh)
