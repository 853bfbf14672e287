"""One step of per-pair DP-SGD on a small reward, in three ways that give the same numbers.

The reward is r(x) = u . tanh(A x) with A 8 x 384: 3,080 numbers. A step clips the whole gradient of each of
16 pairs to C, sums, adds Gaussian noise of z C, divides by the 16 and moves. A visit to a person is 5 such
steps. Noise is drawn by name in all three. The embeddings are made up: arithmetic does not look at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from commonground.comparisons import Comparison, Tag
from commonground.losses import LossSettings, get_loss
from commonground.privacy.mechanisms import COVER, gaussian_noise, noisy_mean
from commonground.randomness import Streams, generator, normal
from commonground.training import optimiser
from commonground.training.basis import basis_within
from commonground.training.model import Rows, Tensors
from commonground.training.people import take
from commonground.training.reward import RewardFeatures, RewardModel

WIDTH, HIDDEN, PAIRS, STEPS, CHUNK, TEXTS = 384, 8, 16, 5, 64, 2000
SIZE = HIDDEN * WIDTH + HIDDEN
CLIP, NOISE, RATE, SEED = 0.3, 1.0, 0.5, 1
DEVIATION = NOISE * CLIP * COVER
TAG: Tag = "safety"
A, U = f"shared.{TAG}.A", f"shared.{TAG}.u"


@dataclass(frozen=True)
class Step:
    """The task.

    Attributes:
        model: over a table in which person p has the rows 16 p to 16 p + 15.
        people: how many have rows.
        start: everybody's adapter before the first step, no person axis.
    """

    model: RewardModel
    people: int
    start: Tensors


def step_task(people: int) -> Step:
    """The task for so many people."""
    draws = generator(SEED, "bench", "texts")
    vectors = draws.normal(size=(TEXTS, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    basis = basis_within([vectors], "made-up texts")
    names = [f"text {k}" for k in range(TEXTS)]
    sides = [draws.permutation(TEXTS)[: 2 * PAIRS].reshape(-1, 2) for _ in range(people)]
    table = [
        Comparison("", names[one], names[other], TAG, f"p{person}")
        for person, pairs in enumerate(sides)
        for one, other in pairs.tolist()
    ]
    embeddings = dict(zip(names, vectors, strict=True))
    features = RewardFeatures(table, embeddings, {"taste": basis, "safety": basis}, dims=HIDDEN)
    model = RewardModel(features, [TAG], "tanh", SEED)
    start = model.initial_shared() | {U: 0.5 * normal((HIDDEN,), SEED, "bench", "u")}
    return Step(model, people, start)


def by_fleet(task: Step, people: Sequence[int]) -> Tensors:
    """The fleet's kernel: closed form, features gathered once a visit, 64 people at a time."""
    loss, settings = get_loss("bradley_terry"), LossSettings(beta=1.0)
    done: list[Tensors] = []
    for first in range(0, len(people), CHUNK):
        chunk = people[first : first + CHUNK]
        every = torch.ones(len(chunk), PAIRS)
        rows = Rows(_rows_of(chunk), every, torch.zeros_like(every))
        batch = task.model.batch(rows, "shared", None)
        current, steps = take(task.start, len(chunk)), torch.zeros(len(chunk))
        for step in range(STEPS):
            sums = task.model.gradient_sums(batch, current, loss, settings, every, CLIP)
            mean = noisy_mean(sums, _noise(chunk, step), NOISE, CLIP, PAIRS)
            current, _ = optimiser.update("sgd", current, mean, {}, steps, RATE, 0.0)
        done.append(current)
    return {name: torch.cat([part[name] for part in done]) for name in (A, U)}


def by_vmap(task: Step, people: Sequence[int]) -> Tensors:
    """`torch.func`: a gradient a pair for all pairs of 64 people at once, then clipped and summed."""

    def loss(a: Tensor, u: Tensor, pair: Tensor) -> Tensor:
        rewards = torch.tanh(pair @ a.T) @ u
        return -logsigmoid(rewards[0] - rewards[1])

    of_a_pair = torch.func.grad(loss, argnums=(0, 1))
    of_all = torch.func.vmap(torch.func.vmap(of_a_pair, in_dims=(None, None, 0)))
    done: list[Tensors] = []
    for first in range(0, len(people), CHUNK):
        chunk = people[first : first + CHUNK]
        pairs, current = _pairs_of(task, chunk), take(task.start, len(chunk))
        for step in range(STEPS):
            gradients = of_all(current[A], current[U], pairs)
            norms = sum(g.flatten(2).square().sum(2) for g in gradients).sqrt()
            factors = (CLIP / norms).clamp(max=1)
            noise = _noise(chunk, step)
            for name, gradient in zip((A, U), gradients, strict=True):
                total = torch.einsum("pb,pb...->p...", factors, gradient)
                added = DEVIATION * torch.from_numpy(noise[name]).float()
                current[name] = current[name] - RATE * (total + added) / PAIRS
        done.append(current)
    return {name: torch.cat([part[name] for part in done]) for name in (A, U)}


def by_loop(task: Step, people: Sequence[int]) -> Tensors:
    """Autograd pair by pair, one person at a time: how per-pair clipping is first written."""
    done: list[Tensors] = []
    for person in people:
        pairs = _pairs_of(task, [person])[0]
        a, u = task.start[A], task.start[U]
        for step in range(STEPS):
            a, u = a.detach().requires_grad_(), u.detach().requires_grad_()
            total_a, total_u = torch.zeros_like(a), torch.zeros_like(u)
            for pair in pairs:
                rewards = torch.tanh(pair @ a.T) @ u
                by_a, by_u = torch.autograd.grad(-logsigmoid(rewards[0] - rewards[1]), (a, u))
                factor = (CLIP / (by_a.square().sum() + by_u.square().sum()).sqrt()).clamp(max=1)
                total_a += factor * by_a
                total_u += factor * by_u
            noise = {name: torch.from_numpy(n[0]).float() for name, n in _noise([person], step).items()}
            with torch.no_grad():
                a = a - RATE * (total_a + DEVIATION * noise[A]) / PAIRS
                u = u - RATE * (total_u + DEVIATION * noise[U]) / PAIRS
        done.append({A: a, U: u})
    return {name: torch.stack([part[name] for part in done]) for name in (A, U)}


def difference(left: Tensors, right: Tensors) -> float:
    """Largest difference of two adapters in any number."""
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def moved(task: Step, after: Tensors) -> float:
    """Largest change of any number from where everybody began: what a difference is to be compared with."""
    return difference(after, take(task.start, len(after[A])))


def _rows_of(people: Sequence[int]) -> Tensor:
    return torch.tensor(people).unsqueeze(1) * PAIRS + torch.arange(PAIRS)


def _pairs_of(task: Step, people: Sequence[int]) -> Tensor:
    """(P, 16, 2, 384) features of chosen and rejected."""
    features, index = task.model.features, _rows_of(people)
    return features.block[TAG][torch.stack([features.chosen[index], features.rejected[index]], 2)]


def _noise(people: Sequence[int], step: int) -> dict[str, np.ndarray]:
    """A whole adapter's noise for each person, from one stream a person and step."""
    streams = Streams(SEED, ["bench", "noise"])
    return gaussian_noise({A: (HIDDEN, WIDTH), U: (HIDDEN,)}, (streams.at(p, step) for p in people))
