"""The private phase: steps on private adapters at a frozen shared adapter, with noise a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from commonground.losses import get_loss
from commonground.privacy import mechanisms
from commonground.randomness import Streams
from commonground.training import optimiser
from commonground.training.constrained import Constraint, first_dual
from commonground.training.label_coins import flips, numbered
from commonground.training.model import Batch, PreferenceModel, Rows, Tensors, padded, person_rows
from commonground.training.people import People, along, choose, take
from commonground.training.plan import PrivatePlan


@dataclass(frozen=True)
class PrivateState:
    """Everything a device keeps of private adapters between visits, with leading axis P.

    Attributes:
        adapter: the current iterate.
        total: sum of the averaged iterates.
        moments: the optimiser's state.
        steps: (P,) int64, lifetime steps taken, which the privacy claim counts.
        dual: prices of a constraint, (P,) each; empty without one. They tell about a person, and stay here.
    """

    adapter: Tensors
    total: Tensors
    moments: Tensors
    steps: torch.Tensor
    dual: Tensors = field(default_factory=dict)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Flat name -> array, P first; `from_arrays` takes them back."""
        parts = {"adapter": self.adapter, "total": self.total, "moments": self.moments, "dual": self.dual}
        flat = {f"{part}/{k}": v.numpy() for part, tensors in parts.items() for k, v in tensors.items()}
        return flat | {"steps": self.steps.numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PrivateState:
        """The state that `to_arrays` gave."""
        parts: dict[str, Tensors] = {"adapter": {}, "total": {}, "moments": {}, "dual": {}}
        for key, value in arrays.items():
            if key != "steps":
                part, name = key.split("/", 1)
                parts[part][name] = torch.tensor(value)  # in torch's own memory, which is aligned
        return cls(**parts, steps=torch.tensor(arrays["steps"]))

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
            join([s.dual for s in states]),
        )


def first_private(model: PreferenceModel, people: int, plan: PrivatePlan) -> PrivateState:
    """The public starting state of `people` private adapters."""
    adapter = take(model.initial_private(), people)
    zeros = {name: torch.zeros_like(value) for name, value in adapter.items()}
    moments = optimiser.init(plan.optimiser, adapter)
    steps = torch.zeros(people, dtype=torch.int64)
    return PrivateState(adapter, zeros, moments, steps, first_dual(people, plan.constraint))


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
    label_seed: int | None = None,
    noise_seed: int | None = None,
) -> PrivateState:
    """Up to `steps` more steps on the private adapters, at a frozen shared adapter.

    With noise, every step is a subsampled Gaussian mechanism per comparison: a Poisson draw at
    `plan.sampling`, each pair's gradient clipped to `plan.clip`, noise of std `noise_multiplier * clip` on
    the sum, and the public denominator `sampling * cap`. An empty draw is a step of noise alone. A person
    whose lifetime steps are spent is left exactly as she was. Draws are keyed by (person, lifetime step):
    however the steps are cut into visits, they are the same. A constraint adds the gradient of public pairs
    to a step that is noised already: it is post-processing, and nothing more is spent.

    Args:
        model: the preference model.
        people: P people.
        shared: the frozen shared adapter with leading axis 1 or P; None = the base policy (local models).
        state: where the people are.
        plan: see `PrivatePlan`.
        seed: of coins and batches.
        steps: at most so many steps now.
        stream: name of the random streams.
        label_seed: of the coins that flip choices, which every stream shares; None is `seed`.
        noise_seed: of the noise; None is `seed`.

    Returns:
        The new state.
    """
    count = len(people.index)
    if count != state.steps.shape[0]:
        raise ValueError(f"state of {state.steps.shape[0]} people; {count} people were given")
    if not (state.steps < plan.steps).any() or steps < 1:
        return state
    labels = seed if label_seed is None else label_seed
    noise = seed if noise_seed is None else noise_seed
    gradient = _PrivateGradient(model, people, shared, plan, seed, stream, labels, noise)
    constraint = _constraint(model, people, shared, plan, seed, stream)
    for _ in range(steps):
        active = state.steps < plan.steps
        if not active.any():
            break
        found, dual = gradient.at(state), state.dual
        if constraint is not None:
            pulled, dual = constraint.pull(state.adapter, state.dual, state.steps)
            found = {name: value + pulled[name] for name, value in found.items()}
        rate: float | torch.Tensor = plan.rate
        if plan.decay:
            rate = plan.rate * (1 - state.steps / plan.steps).clamp(min=0)
        adapter, moments = optimiser.update(
            plan.optimiser, state.adapter, found, state.moments, state.steps, rate, plan.ridge
        )
        averaged = active & (state.steps >= int(plan.average_from * plan.steps))
        state = PrivateState(
            choose(active, adapter, state.adapter),
            choose(averaged, {k: state.total[k] + v for k, v in adapter.items()}, state.total),
            choose(active, moments, state.moments),
            state.steps + active.long(),
            choose(active, dual, state.dual),
        )
    return state


def _constraint(
    model: PreferenceModel, people: People, shared: Tensors | None, plan: PrivatePlan, seed: int, stream: str
) -> Constraint | None:
    """What the plan's constraint means here; None without one."""
    if plan.constraint is None:
        return None
    if model.public is None:
        raise ValueError("the plan has a constraint on public pairs, and the model was given none")
    frozen = _everybody(shared, len(people.index))
    return Constraint(model.public, people.index, frozen, plan.constraint, seed, stream)


def _everybody(shared: Tensors | None, count: int) -> Tensors | None:
    """A shared adapter of leading axis 1 or P, for each of P people."""
    return None if shared is None else {k: v.expand(count, *v.shape[1:]) for k, v in shared.items()}


class _PrivateGradient:
    """What the people's next step moves against, over all their comparisons, made ready once a visit."""

    def __init__(
        self,
        model: PreferenceModel,
        people: People,
        shared: Tensors | None,
        plan: PrivatePlan,
        seed: int,
        stream: str,
        label_seed: int,
        noise_seed: int,
    ) -> None:
        self._model, self._people, self._plan, self._label_seed = model, people, plan, label_seed
        self._seed, self._stream, self._loss = seed, stream, get_loss(plan.loss)
        self._noise_seed = noise_seed
        tables = [np.concatenate([rows[tag] for tag in plan.tags]) for rows in people.rows]
        self._counts = [len(table) for table in tables]
        rows, count = person_rows(tables), len(people.index)
        if plan.flip_probability > 0:
            rows = Rows(rows.index, rows.mask, self._flips(tables))
        frozen = _everybody(shared, count)
        self._batch: Batch = model.batch(rows, "private", frozen)

    def at(self, state: PrivateState) -> Tensors:
        """The noised (or plain) mean gradient of each person's next step."""
        plan, steps = self._plan, state.steps.tolist()
        drawn = self._batch.rows.mask if plan.sampling >= 1 else self._draws(steps)
        if drawn.any():
            settings = plan.settings
            sums = self._model.gradient_sums(
                self._batch, state.adapter, self._loss, settings, drawn, plan.clip
            )
        else:  # nobody drew anything: no forward pass, only the noise below
            sums = {name: torch.zeros_like(value) for name, value in state.adapter.items()}
        if plan.noise_multiplier > 0:
            noise, expected = self._noise(sums, steps), max(plan.sampling * plan.cap, 1e-9)
            return mechanisms.noisy_mean(sums, noise, plan.noise_multiplier, plan.clip, expected)
        counts = drawn.sum(1).clamp(min=1)
        return {name: value / along(counts, value) for name, value in sums.items()}

    def _noise(self, sums: Tensors, steps: Sequence[int]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for name, value in sums.items():  # a stream a tensor: no order of tensors decides a draw
            streams = Streams(self._noise_seed, [self._stream, "noise"], [name])
            found |= mechanisms.gaussian_noise({name: tuple(value.shape[1:])}, self._each(streams, steps))
        return found

    def _draws(self, steps: Sequence[int]) -> torch.Tensor:
        """(P, B): 1 where a comparison is in the step."""
        plan, mask = self._plan, self._batch.rows.mask
        generators = self._each(Streams(self._seed, [self._stream, "poisson"]), steps)
        if plan.noise_multiplier > 0:  # independent coins
            return mechanisms.poisson_rows(mask, plan.sampling, generators)
        drawn = np.zeros(tuple(mask.shape), np.float32)
        for p, (count, generator) in enumerate(zip(self._counts, generators, strict=True)):
            size = min(count, max(1, round(plan.sampling * plan.cap)))  # always as many
            drawn[p, generator.choice(count, size, replace=False)] = 1
        return torch.from_numpy(drawn)

    def _each(self, streams: Streams, steps: Sequence[int]) -> Iterator[np.random.Generator]:
        """Everybody's generator for their next step, each good until the next is asked for."""
        return (streams.at(person, step) for person, step in zip(self._people.index, steps, strict=True))

    def _flips(self, tables: Sequence[np.ndarray]) -> torch.Tensor:
        """Randomised response: each comparison's label is flipped once and for all, (P, B) of 0 and 1.

        Every stream of a run has the same coins: adapters that learn from one choice learn from one report.
        """
        found = []
        for place, (person, table) in enumerate(zip(self._people.index, tables, strict=True)):
            names = self._names(place, table)
            flipped = flips(names, self._plan.flip_probability, self._label_seed, person)
            found.append(flipped.astype(np.float32))
        return torch.from_numpy(padded(found)[0])

    def _names(self, place: int, table: np.ndarray) -> list[str]:
        """A name for each comparison of a person's table, each its own."""
        if self._people.names is not None:
            return [name for tag in self._plan.tags for name in self._people.names[place][tag]]
        # Numbered in the order of the run's table, whatever order the tags come in.
        order = np.argsort(table)
        names = np.empty(len(table), dtype=object)
        names[order] = numbered(self._model.pair_names(table[order]))
        return list(names)


def release_ready(state: PrivateState, plan: PrivatePlan) -> Tensors:
    """The adapters that the personal policies use: the mean of the averaged iterates where there is one."""
    first = int(plan.average_from * plan.steps)
    counts = (state.steps - first).clamp(min=0)
    means = {k: v / along(counts.clamp(min=1), v) for k, v in state.total.items()}
    return choose(counts > 0, means, state.adapter)
