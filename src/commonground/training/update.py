"""The local update, written once over a leading person axis.

A device calls it with P = 1, the fleet with many. The two phases are separate functions with separate
random streams: in the decoupled schedule nothing of the private phase can reach the shared one, because
the shared phase is given no private adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from commonground.comparisons import Tag
from commonground.losses import get_loss
from commonground.privacy.mechanisms import clip_per_pair
from commonground.randomness import generator, normal
from commonground.training import optimiser
from commonground.training.model import PreferenceModel, Rows, Tensors, person_rows
from commonground.training.plan import Plan, PrivatePlan, SharedPlan


@dataclass(frozen=True)
class People:
    """The people of one call.

    Attributes:
        index: person numbers in the run, the key of their random streams.
        rows: for each person and tag, the rows of the comparison table used for training.
    """

    index: tuple[int, ...]
    rows: tuple[Mapping[Tag, np.ndarray], ...]


def take(tensors: Tensors, people: int) -> Tensors:
    """Tensors without a person axis, repeated along a new leading axis of length `people`."""
    return {k: v.unsqueeze(0).expand(people, *v.shape).clone() for k, v in tensors.items()}


def shared_phase(
    model: PreferenceModel,
    people: People,
    shared: Tensors,
    plan: SharedPlan,
    *,
    seed: int,
    round: int,
    private: Tensors | None = None,
) -> Tensors:
    """Local training of the shared adapter; what it returns is clipped and sealed by the caller.

    Args:
        model: the preference model.
        people: P people; one without comparisons of the shared tags gets a zero update.
        shared: the round's shared adapter, no person axis.
        plan: see `SharedPlan`.
        seed: the run's seed.
        round: the round, for the random streams.
        private: None in the decoupled schedule (the private adapter is disabled); (P, ...) otherwise.

    Returns:
        The update `u_after - u`, name -> (P, *shape).
    """
    count = len(people.index)
    start = take(shared, count)
    loss = get_loss(plan.loss)
    if plan.pair_clip is not None:
        rows = _poisson(people, plan.tags, plan.pair_sampling, seed, ("shared-poisson", round))
        _, gradients = model.pair_gradients(rows, start, private, "shared", loss, plan.settings)
        sums, _ = clip_per_pair(gradients, plan.pair_clip)
        return {name: -plan.rate * value / plan.expected_batch for name, value in sums.items()}
    current, state = start, optimiser.init(plan.optimiser, start)
    gradient = _SharedGradient(model, people, plan, seed=seed, round=round)
    for step in range(plan.steps):
        mean = gradient.at(current, private, step)
        steps = torch.full((count,), step)
        current, state = optimiser.update(plan.optimiser, current, mean, state, steps, plan.rate, 0.0)
    has_some = torch.tensor([any(len(rows[tag]) for tag in plan.tags) for rows in people.rows])
    return {
        name: torch.where(has_some.reshape(-1, *[1] * (value.dim() - 1)), value - start[name], 0.0)
        for name, value in current.items()
    }


class _SharedGradient:
    """Mean gradient of each tag's batch, tags added, at any point: name -> (P, *shape)."""

    def __init__(
        self, model: PreferenceModel, people: People, plan: SharedPlan, *, seed: int, round: int
    ) -> None:
        self._model, self._people, self._plan = model, people, plan
        self._seed, self._round = seed, round
        self._loss = get_loss(plan.loss)
        self._kept: tuple[Rows, torch.Tensor] | None = None  # the same in every step without batches

    def at(self, shared: Tensors, private: Tensors | None, step: int) -> Tensors:
        """The gradient for local step `step`."""
        if self._kept is None or self._plan.batch is not None:
            self._kept = self._batch(step)
        rows, weights = self._kept
        if not rows.mask.any():
            return {name: torch.zeros_like(value) for name, value in shared.items()}
        _, gradients = self._model.pair_gradients(
            rows, shared, private, "shared", self._loss, self._plan.settings
        )
        return {name: torch.einsum("pb,pb...->p...", weights, value) for name, value in gradients.items()}

    def _batch(self, step: int) -> tuple[Rows, torch.Tensor]:
        """Rows of all tags side by side, and weights 1 / (comparisons of that tag in the batch)."""
        chosen, weights = [], []
        for person, rows in zip(self._people.index, self._people.rows, strict=True):
            parts = [self._drawn(person, rows[tag], tag, step) for tag in self._plan.tags]
            chosen.append(np.concatenate(parts))
            weights.append(np.concatenate([np.full(len(p), 1 / max(1, len(p)), np.float32) for p in parts]))
        table = person_rows(chosen)
        padded = torch.zeros_like(table.mask)
        for p, values in enumerate(weights):
            padded[p, : len(values)] = torch.from_numpy(values)
        return table, padded

    def _drawn(self, person: int, rows: np.ndarray, tag: Tag, step: int) -> np.ndarray:
        batch = self._plan.batch
        if batch is None or len(rows) <= batch:
            return rows
        draws = generator(self._seed, "shared-batch", self._round, person, step, tag)
        return draws.choice(rows, batch, replace=False)


@dataclass(frozen=True)
class PrivateState:
    """Everything a device keeps of private adapters between visits, with leading axis P.

    Attributes:
        adapter: the current iterate.
        total: sum of the averaged iterates.
        moments: the optimiser's state.
        steps: (P,) int64, lifetime steps taken, which the privacy claim counts.
    """

    adapter: Tensors
    total: Tensors
    moments: Tensors
    steps: torch.Tensor

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Flat name -> array, P first; `from_arrays` takes them back."""
        parts = {"adapter": self.adapter, "total": self.total, "moments": self.moments}
        flat = {f"{part}/{k}": v.numpy() for part, tensors in parts.items() for k, v in tensors.items()}
        return flat | {"steps": self.steps.numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PrivateState:
        """The state that `to_arrays` gave."""
        parts: dict[str, Tensors] = {"adapter": {}, "total": {}, "moments": {}}
        for key, value in arrays.items():
            if key != "steps":
                part, name = key.split("/", 1)
                parts[part][name] = torch.from_numpy(np.array(value))
        return cls(**parts, steps=torch.from_numpy(np.array(arrays["steps"])))

    @classmethod
    def stack(cls, states: Sequence[PrivateState]) -> PrivateState:
        """States of several calls as one along the person axis."""

        def join(parts: list[Tensors]) -> Tensors:
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        return cls(
            join([s.adapter for s in states]),
            join([s.total for s in states]),
            join([s.moments for s in states]),
            torch.cat([s.steps for s in states]),
        )


def first_private(model: PreferenceModel, people: int, plan: PrivatePlan) -> PrivateState:
    """The public starting state of `people` private adapters."""
    adapter = take(model.initial_private(), people)
    zeros = {name: torch.zeros_like(value) for name, value in adapter.items()}
    moments = optimiser.init(plan.optimiser, adapter)
    return PrivateState(adapter, zeros, moments, torch.zeros(people, dtype=torch.int64))


def private_phase(
    model: PreferenceModel,
    people: People,
    shared: Tensors | None,
    state: PrivateState,
    plan: PrivatePlan,
    *,
    seed: int,
    steps: int,
    stream: str = "private",
) -> PrivateState:
    """Up to `steps` more steps on the private adapters, at a frozen shared adapter.

    With noise, every step is a subsampled Gaussian mechanism per comparison: a Poisson draw at
    `plan.sampling`, each pair's gradient clipped to `plan.clip`, noise of std `noise_multiplier * clip` on
    the sum, and the public denominator `sampling * cap`. An empty draw is a step of noise alone. A person
    whose lifetime steps are spent is left exactly as she was. Draws are keyed by (person, lifetime step):
    however the steps are cut into visits, they are the same.

    Args:
        model: the preference model.
        people: P people.
        shared: the frozen shared adapter with leading axis 1 or P; None = the base policy (local models).
        state: where the people are.
        plan: see `PrivatePlan`.
        seed: the run's seed.
        steps: at most so many steps now.
        stream: name of the random streams.

    Returns:
        The new state.
    """
    if len(people.index) != state.steps.shape[0]:
        raise ValueError(f"state of {state.steps.shape[0]} people; {len(people.index)} people were given")
    for _ in range(steps):
        active = state.steps < plan.steps
        if not active.any():
            break
        gradient = _private_gradient(model, people, shared, state, plan, seed, stream)
        rate: float | torch.Tensor = plan.rate
        if plan.decay:
            rate = plan.rate * (1 - state.steps / plan.steps).clamp(min=0)
        adapter, moments = optimiser.update(
            plan.optimiser, state.adapter, gradient, state.moments, state.steps, rate, plan.ridge
        )
        averaged = active & (state.steps >= int(plan.average_from * plan.steps))
        state = PrivateState(
            _where(active, adapter, state.adapter),
            _where(averaged, {k: state.total[k] + v for k, v in adapter.items()}, state.total),
            _where(active, moments, state.moments),
            state.steps + active.long(),
        )
    return state


def _private_gradient(
    model: PreferenceModel,
    people: People,
    shared: Tensors | None,
    state: PrivateState,
    plan: PrivatePlan,
    seed: int,
    stream: str,
) -> Tensors:
    steps = state.steps.tolist()
    drawn = []
    for person, rows, step in zip(people.index, people.rows, steps, strict=True):
        mine = np.concatenate([rows[tag] for tag in plan.tags])
        if plan.sampling < 1:
            mine = _draw(mine, plan, generator(seed, stream, "poisson", person, step))
        drawn.append(mine)
    rows_ = person_rows(drawn)
    if plan.flip_probability > 0:
        rows_ = Rows(rows_.index, rows_.mask, _flips(people, rows_, plan, seed, stream))
    count = len(people.index)
    if not rows_.mask.any():  # nobody drew anything: no forward pass, only the noise below
        sums = {name: torch.zeros(count, *shape) for name, shape in model.private_spec().items()}
    else:
        frozen = None if shared is None else {k: v.expand(count, *v.shape[1:]) for k, v in shared.items()}
        _, gradients = model.pair_gradients(
            rows_, frozen, state.adapter, "private", get_loss(plan.loss), plan.settings
        )
        sums, _ = clip_per_pair(gradients, plan.clip)
    if plan.noise_multiplier > 0:
        expected = max(plan.sampling * plan.cap, 1e-9)
        std = plan.noise_multiplier * plan.clip
        for name, value in sums.items():
            keys = zip(people.index, steps, strict=True)
            noise = [normal(tuple(value.shape[1:]), seed, stream, "noise", p, s, name) for p, s in keys]
            sums[name] = (value + std * torch.stack(noise)) / expected
        return sums
    counts = rows_.mask.sum(1).clamp(min=1)
    return {k: v / counts.reshape(-1, *[1] * (v.dim() - 1)) for k, v in sums.items()}


def _draw(rows: np.ndarray, plan: PrivatePlan, coins: np.random.Generator) -> np.ndarray:
    """One step's comparisons: independent coins, or, where no noise asks for them, always as many."""
    if plan.noise_multiplier > 0:
        return rows[coins.random(len(rows)) < plan.sampling]
    count = min(len(rows), max(1, round(plan.sampling * plan.cap)))
    return coins.choice(rows, count, replace=False)


def _flips(people: People, rows: Rows, plan: PrivatePlan, seed: int, stream: str) -> torch.Tensor:
    """Randomised response: each comparison's label is flipped once and for all, (P, B) of 0 and 1."""
    flips = torch.zeros_like(rows.mask)
    for p, (person, mine) in enumerate(zip(people.index, people.rows, strict=True)):
        table = np.sort(np.concatenate([mine[tag] for tag in plan.tags]))
        coins = generator(seed, stream, "label", person).random(len(table)) < plan.flip_probability
        here = rows.mask[p] > 0
        places = np.searchsorted(table, rows.index[p][here].numpy())
        flips[p, here] = torch.from_numpy(coins[places].astype(np.float32))
    return flips


def release_ready(state: PrivateState, plan: PrivatePlan) -> Tensors:
    """The adapters that the personal policies use: the mean of the averaged iterates where there is one."""
    first = int(plan.average_from * plan.steps)
    counts = (state.steps - first).clamp(min=0)
    use = counts > 0
    means = {k: v / counts.clamp(min=1).reshape(-1, *[1] * (v.dim() - 1)) for k, v in state.total.items()}
    return _where(use, means, state.adapter)


def _where(mask: torch.Tensor, left: Tensors, right: Tensors) -> Tensors:
    return {k: torch.where(mask.reshape(-1, *[1] * (v.dim() - 1)), v, right[k]) for k, v in left.items()}


def _poisson(
    people: People, tags: Sequence[Tag], rate: float, seed: int, name: tuple[str | int, ...]
) -> Rows:
    drawn = []
    for person, rows in zip(people.index, people.rows, strict=True):
        mine = np.concatenate([rows[tag] for tag in tags])
        drawn.append(mine[generator(seed, *name, person).random(len(mine)) < rate])
    return person_rows(drawn)


def visit(
    model: PreferenceModel,
    people: People,
    shared: Tensors,
    state: PrivateState | None,
    plan: Plan,
    round: int,
) -> tuple[Tensors, PrivateState | None]:
    """One visit in the plan's schedule: the update to seal, and the private state it already changed.

    `decoupled` looks at no state and returns None: the private phase comes after the message has left.
    `alternating` (FedAlt, arXiv 2204.03809) trains the private part first and the shared part through it.
    `joint` (FedSim, same paper) takes both gradients at the same point, step by step.
    """
    if plan.schedule == "decoupled":
        return shared_phase(model, people, shared, plan.shared, seed=plan.seed, round=round), None
    if state is None:
        raise ValueError(f"schedule {plan.schedule} trains through the private state; None was given")
    if plan.schedule == "alternating":
        steps_now = plan.private.steps_per_visit
        after = private_phase(
            model, people, take(shared, 1), state, plan.private, seed=plan.seed, steps=steps_now
        )
        update = shared_phase(
            model, people, shared, plan.shared, seed=plan.seed, round=round, private=after.adapter
        )
        return update, after
    start = take(shared, len(people.index))
    current, moments = start, optimiser.init(plan.shared.optimiser, start)
    gradient = _SharedGradient(model, people, plan.shared, seed=plan.seed, round=round)
    for step in range(plan.shared.steps):
        mean = gradient.at(current, state.adapter, step)
        if step < plan.private.steps_per_visit:
            state = private_phase(model, people, current, state, plan.private, seed=plan.seed, steps=1)
        steps = torch.full((len(people.index),), step)
        current, moments = optimiser.update(
            plan.shared.optimiser, current, mean, moments, steps, plan.shared.rate, 0.0
        )
    return {name: value - start[name] for name, value in current.items()}, state
