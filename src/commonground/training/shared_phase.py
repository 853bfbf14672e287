"""The shared phase: local training of the shared adapter from where the round starts it."""

from __future__ import annotations

import numpy as np
import torch

from commonground.comparisons import Tag
from commonground.losses import get_loss
from commonground.privacy.mechanisms import poisson_draw
from commonground.randomness import fleeting, generator
from commonground.training import optimiser
from commonground.training.model import Batch, PreferenceModel, Rows, Tensors, person_rows, rectangle
from commonground.training.people import People, along
from commonground.training.plan import SharedPlan
from commonground.training.steering import Steering, begin


def shared_phase(
    model: PreferenceModel,
    people: People,
    shared: Tensors,
    plan: SharedPlan,
    *,
    seed: int,
    round: int,
    private: Tensors | None = None,
    steering: Steering | None = None,
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
        steering: what an algorithm adds to the steps; None adds nothing.

    Returns:
        The update `u_after - u`, name -> (P, *shape).
    """
    count = len(people.index)
    start = begin(shared, count, steering)
    if plan.pair_clip is not None:
        if steering is not None:
            raise ValueError("a step whose pairs are clipped one by one cannot be steered")
        return _one_clipped_step(model, people, start, private, plan, seed, round)
    current, state = start, optimiser.init(plan.optimiser, start)
    gradient = SharedGradient(model, people, plan, seed=seed, round=round)
    for step in range(plan.steps):
        mean = gradient.at(current, private, step)
        current, state = local_step(plan, current, mean, state, start, step, steering)
    has_some = torch.tensor([any(len(rows[tag]) for tag in plan.tags) for rows in people.rows])
    return {
        name: torch.where(along(has_some, value), value - start[name], 0.0) for name, value in current.items()
    }


def local_step(
    plan: SharedPlan,
    current: Tensors,
    mean: Tensors,
    state: Tensors,
    start: Tensors,
    step: int,
    steering: Steering | None,
) -> tuple[Tensors, Tensors]:
    """One local step of everybody, steered where there is a steering; the new point and optimiser state."""
    steps = torch.full((len(next(iter(current.values()))),), step)
    if steering is None:
        return optimiser.update(plan.optimiser, current, mean, state, steps, plan.rate, 0.0)
    turned = steering.turn(mean, current, start, step)
    after, state = optimiser.update(plan.optimiser, current, turned, state, steps, plan.rate, 0.0)
    return steering.hold(after, current, step), state


def _one_clipped_step(
    model: PreferenceModel,
    people: People,
    start: Tensors,
    private: Tensors | None,
    plan: SharedPlan,
    seed: int,
    round: int,
) -> Tensors:
    """One Poisson step whose pairs are clipped one by one; the caller's noise covers a pair."""
    tables = [np.concatenate([rows[tag] for tag in plan.tags]) for rows in people.rows]
    drawn = [
        mine[poisson_draw(len(mine), plan.pair_sampling, fleeting(seed, "shared-poisson", round, person))]
        for person, mine in zip(people.index, tables, strict=True)
    ]
    batch = model.batch(person_rows(drawn), "shared", private)
    loss = get_loss(plan.loss)
    sums = model.gradient_sums(batch, start, loss, plan.settings, batch.rows.mask, plan.pair_clip)
    return {name: -plan.rate * value / plan.expected_batch for name, value in sums.items()}


class SharedGradient:
    """Mean gradient of each tag's batch, tags added, at any point: name -> (P, *shape)."""

    def __init__(
        self, model: PreferenceModel, people: People, plan: SharedPlan, *, seed: int, round: int
    ) -> None:
        self._model, self._people, self._plan = model, people, plan
        self._seed, self._round = seed, round
        self._loss = get_loss(plan.loss)
        self._kept: tuple[Batch, torch.Tensor] | None = None  # the same in every step without batches

    def at(self, shared: Tensors, private: Tensors | None, step: int) -> Tensors:
        """The gradient for local step `step`."""
        if self._kept is None or self._plan.batch is not None or self._kept[0].frozen is not private:
            self._kept = self._batch(private, step)
        batch, weights = self._kept
        if not batch.rows.mask.any():
            return {name: torch.zeros_like(value) for name, value in shared.items()}
        return self._model.gradient_sums(batch, shared, self._loss, self._plan.settings, weights)

    def _batch(self, private: Tensors | None, step: int) -> tuple[Batch, torch.Tensor]:
        """Rows of all tags side by side, and weights 1 / (comparisons of that tag in the batch)."""
        people = zip(self._people.index, self._people.rows, strict=True)
        tags = self._plan.tags
        parts = [self._drawn(person, rows[tag], tag, step) for person, rows in people for tag in tags]
        counts = np.array([len(part) for part in parts], dtype=np.int64)
        lengths = counts.reshape(-1, len(tags)).sum(1)
        index, real = rectangle(np.concatenate([np.zeros(0, np.int64), *parts]), lengths)
        weights, _ = rectangle(np.repeat((1 / np.maximum(counts, 1)).astype(np.float32), counts), lengths)
        mask = torch.from_numpy(real.astype(np.float32))
        rows = Rows(torch.from_numpy(index), mask, torch.zeros_like(mask))
        return self._model.batch(rows, "shared", private), torch.from_numpy(weights)

    def _drawn(self, person: int, rows: np.ndarray, tag: Tag, step: int) -> np.ndarray:
        size = self._plan.batch
        if size is None or len(rows) <= size:
            return rows
        draws = generator(self._seed, "shared-batch", self._round, person, step, tag)
        return draws.choice(rows, size, replace=False)
