"""A person's device in a simulation: the same boundary as a real one, with the run's store behind it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from commonground.errors import EgressError
from commonground.manifest import Manifest, Sealed
from commonground.privacy.banded import may_join
from commonground.privacy.claims import SharedClaim
from commonground.privacy.mechanisms import noise_on_grid
from commonground.sealing import seal_update, seeded_normals
from commonground.simulations.attacks.liars import lying
from commonground.simulations.store import PrivateStore, Store
from commonground.simulations.world import Arm, World, current_run, world_of
from commonground.training.client_half import Answer, ClientHalf, Visit, answer, split
from commonground.training.model import PreferenceModel, Tensors
from commonground.training.update import People, PrivateState, first_private, private_phase, take

STREAM = "private"


class SimulatedDevice:
    """See `commonground.client.devices.Device`.

    Args:
        world: the run's world.
        store: the run's private side.
        arm: which shared adapter is being trained.
        person: index.
    """

    def __init__(self, world: World, store: Store, arm: Arm, person: int) -> None:
        self._world, self._store, self._arm, self._person = world, store, arm, person
        self._plan = world.plans[arm]
        self._people = People((person,), (world.train_rows[person],))

    @property
    def manifest(self) -> Manifest:
        """What may leave, rebuilt from the device's own copy of the configuration."""
        return self._world.manifests[self._arm]

    def shared_update(
        self,
        round: int,
        shared: dict[str, np.ndarray],
        clip: float | None = None,
        release: str | None = None,  # nobody signs in a simulation
    ) -> Sealed:
        """Shared phase, clip, the device's own noise where it adds it, seal, receipt."""
        model, manifest = self._world.models[self._arm], self.manifest
        # In the decoupled schedule the private state is not even read: a damaged one could stop the message.
        state = None if self._plan.schedule == "decoupled" else self._before(round)
        most = manifest.accepted(clip)
        if not join(self._world, self._store, self._arm, [self._person], round)[0]:
            raise EgressError(
                f"round {round} comes too early, or too often, for this device; it does not join"
            )
        found = respond(self._world, self._store, self._arm, model, self._people, shared, state, round, most)
        sealed = seal_update(
            manifest,
            {name: value[0].numpy() for name, value in found.update.items()},
            round=round,
            clip=clip,
            deviation=self._world.noise_std,
            draw=lambda _: _first(device_normals(self._world, self._arm, [self._person], round)),
        )
        remember(self._store, self._arm, [self._person], round, found)
        epsilon = epsilon_words(self._world.claim, round)
        self._store.keep_receipt(self._arm, self._person, sealed.receipt, epsilon)
        return sealed

    def private_update(
        self, round: int, shared: dict[str, np.ndarray], final: bool, release: str | None = None
    ) -> None:
        """Private phase at the given shared adapter; the new state is stored and nothing is returned."""
        plan = self._plan.private
        state = private_phase(
            self._world.models[self._arm],
            self._people,
            frozen_shared(self._world, self._store, self._arm, [self._person], shared, round),
            self._before(round),
            plan,
            seed=self._plan.seed,
            noise_seed=self._plan.noise_seed,
            steps=plan.steps if final else plan.steps_per_visit,
        )
        self._store.write(STREAM, self._person, round, state.to_arrays())

    def _before(self, round: int) -> PrivateState:
        arrays = self._store.read(STREAM, self._person, round)
        if arrays is None:
            return first_private(self._world.models[self._arm], 1, self._plan.private)
        return PrivateState.from_arrays(arrays)


def device_normals(world: World, arm: Arm, people: Sequence[int], round: int) -> dict[str, np.ndarray]:
    """What people's devices make their noise of in a round, name -> (P, *shape) standard normal."""
    return seeded_normals(world.manifests[arm], world.noise_seed(arm), people, round)


def device_noise(world: World, arm: Arm, people: Sequence[int], round: int) -> dict[str, np.ndarray]:
    """What people's devices add to their messages in a round, where devices add the noise."""
    normals, step = device_normals(world, arm, people, round), world.manifests[arm].grid
    return {name: noise_on_grid(value, world.noise_std, step) for name, value in normals.items()}


def _first(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value[0] for name, value in arrays.items()}


def join(world: World, store: PrivateStore, arm: Arm, people: Sequence[int], round: int) -> np.ndarray:
    """(P,) bool: who joins a round, by their devices' own records, which note it before anything leaves.

    A device joins at most k rounds, any two at least b apart (`Manifest.participation`), whatever the server
    asks; and none before one that it has joined. Asked again for a round it has joined, it joins again.
    """
    limits = world.manifests[arm].participation
    if limits is None:
        return np.ones(len(people), dtype=bool)
    stream, none = f"joined-{arm}", np.zeros(len(people), np.int64)
    before = store.read_many(stream, people, round)[1]
    newest = store.read_many(stream, people, world.config.rounds + 2)[1].get("last", none)
    count, last = before.get("count", none), before.get("last", none)
    joins = np.array(
        [
            now <= round and may_join(times, then, round, *limits)
            for times, then, now in zip(count.tolist(), last.tolist(), newest.tolist(), strict=True)
        ],
        dtype=bool,
    )
    if joins.any():
        who = [person for person, joined in zip(people, joins.tolist(), strict=True) if joined]
        record = {"count": count[joins] + 1, "last": np.full(len(who), round, np.int64)}
        store.write_many(stream, who, round, record)
    return joins


def respond(
    world: World,
    store: PrivateStore,
    arm: Arm,
    model: PreferenceModel,
    people: People,
    shared: dict[str, np.ndarray],
    state: PrivateState | None,
    round: int,
    clip: float,
) -> Answer:
    """What people answer in a round, whatever the strategy: its device's half, or the plain update.

    Args:
        world: the run's world.
        store: where devices keep what they keep.
        arm: which shared adapter is being trained.
        model: over the people's comparisons.
        people: P people.
        shared: everything that the server sent.
        state: their private states; None in the decoupled schedule.
        round: the round.
        clip: C of this round.
    """
    spec = model.shared_spec()
    own, received = split(tensors(shared), spec)
    memory = recall(world, store, arm, people.index, round)
    groups = world.group_of(people.index)
    visit = Visit(model, people, own, received, memory, groups, clip, state, world.plans[arm], round)
    if world.attack is not None and world.attack.claims is not None:
        visit = lying(visit, world.attackers, world.attack.claims)
    return answer(world.half, visit)


def remember(store: PrivateStore, arm: Arm, people: Sequence[int], round: int, found: Answer) -> None:
    """Keep what people's devices keep of a round: private states that it changed, and their half's memory."""
    if found.after is not None and arm == "shared":
        store.write_many(STREAM, people, round, found.after.to_arrays())
    if found.memory is not None:
        arrays = {name: value.numpy() for name, value in found.memory.items()}
        store.write_many(memory_stream(arm), people, round, arrays)


def recall(world: World, store: PrivateStore, arm: Arm, people: Sequence[int], before: int) -> Tensors:
    """What people's devices kept for the strategy from rounds below `before`, name -> (P, *shape)."""
    kept = {} if world.half is None else world.half.kept(world.models[arm].shared_spec())
    if not kept:
        return {}
    _, arrays = store.read_many(memory_stream(arm), people, before)
    return {n: torch.zeros(len(people), *shape) for n, shape in kept.items()} | tensors(arrays)


def as_used(
    world: World, store: PrivateStore, arm: Arm, people: Sequence[int], shared: Tensors, round: int
) -> Tensors | None:
    """The shared adapter as people's devices use it after a round, name -> (P, *shape).

    None where everybody uses it as it is in `shared`, which has no person axis.
    """
    if world.half is None or type(world.half).own is ClientHalf.own:
        return None
    return world.half.own(shared, recall(world, store, arm, people, round + 1))


def frozen_shared(
    world: World,
    store: PrivateStore,
    arm: Arm,
    people: Sequence[int],
    shared: dict[str, np.ndarray],
    round: int,
) -> Tensors:
    """What people's private phase of a round stands on, with leading axis P or 1."""
    own = adapter(world.models[arm], shared)
    used = as_used(world, store, arm, people, own, round)
    return take(own, 1) if used is None else used


def memory_stream(arm: Arm) -> str:
    """The stream of what devices keep for a strategy; it never leaves them, as little as private adapters."""
    return f"strategy-{arm}"


def adapter(model: PreferenceModel, arrays: dict[str, np.ndarray]) -> Tensors:
    """The shared adapter alone, of everything that a server sent."""
    return split(tensors(arrays), model.shared_spec())[0]


def tensors(arrays: dict[str, np.ndarray]) -> Tensors:
    """Copies of arrays in torch's own memory: products round by how their operands are aligned."""
    return {name: torch.tensor(value) for name, value in arrays.items()}


def open_device(person: int) -> SimulatedDevice:
    """The device of one simulated person, in whatever process is asked; entry point `simulation`."""
    run, arm = current_run()
    return SimulatedDevice(world_of(run), _store(run), arm, person)


@functools.lru_cache(maxsize=1)
def _store(run: str) -> Store:
    return Store(Path(run) / "state")


def close_stores() -> None:
    """Forget the open store: a later run of this process may use a folder of the same name."""
    if _store.cache_info().currsize:
        _store(current_run()[0]).close()
    _store.cache_clear()


@functools.lru_cache(maxsize=4096)
def epsilon_words(claim: SharedClaim, round: int) -> str:
    """What a receipt may quote: no number that the statement does not claim."""
    spent = claim.epsilon_after(round)
    return f"{spent:.6g}" if claim.meaningful or math.isinf(spent) else "not claimed"
