"""A person's device in a simulation: the same boundary as a real one, with the run's store behind it."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import torch

from commonground.manifest import Manifest, Sealed, clip_update, seal
from commonground.privacy.claims import SharedClaim
from commonground.randomness import normal
from commonground.simulations.store import Store
from commonground.simulations.world import Arm, World, current_run, world_of
from commonground.training.model import Tensors
from commonground.training.update import People, PrivateState, first_private, private_phase, take, visit

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

    def shared_update(self, round: int, shared: dict[str, np.ndarray]) -> Sealed:
        """Shared phase, clip, the device's own noise where it adds it, seal, receipt."""
        model, manifest = self._world.models[self._arm], self.manifest
        # In the decoupled schedule the private state is not even read: a damaged one could stop the message.
        state = None if self._plan.schedule == "decoupled" else self._before(round)
        update, after = visit(model, self._people, tensors(shared), state, self._plan, round)
        clipped = clip_update({name: value[0].numpy() for name, value in update.items()}, manifest.clip)
        noise = self._noise(round) if manifest.noise_on_device else None
        sealed = seal(manifest, clipped, round=round, noise=noise)
        if after is not None and self._arm == "shared":
            self._store.write(STREAM, self._person, round, after.to_arrays())
        epsilon = epsilon_words(self._world.claim, round)
        self._store.keep_receipt(self._arm, self._person, sealed.receipt, epsilon)
        return sealed

    def private_update(self, round: int, shared: dict[str, np.ndarray], final: bool) -> None:
        """Private phase at the given shared adapter; the new state is stored and nothing is returned."""
        plan = self._plan.private
        state = private_phase(
            self._world.models[self._arm],
            self._people,
            take(tensors(shared), 1),
            self._before(round),
            plan,
            seed=self._plan.seed,
            steps=plan.steps if final else plan.steps_per_visit,
        )
        self._store.write(STREAM, self._person, round, state.to_arrays())

    def _before(self, round: int) -> PrivateState:
        arrays = self._store.read(STREAM, self._person, round)
        if arrays is None:
            return first_private(self._world.models[self._arm], 1, self._plan.private)
        return PrivateState.from_arrays(arrays)

    def _noise(self, round: int) -> dict[str, np.ndarray]:
        seed = self._world.config.seed
        return {
            spec.name: self._world.noise_std
            * normal(spec.shape, seed, "device noise", round, self._person, spec.name).numpy()
            for spec in self.manifest.tensors
        }


def tensors(arrays: dict[str, np.ndarray]) -> Tensors:
    """Arrays as tensors of their own memory."""
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


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
