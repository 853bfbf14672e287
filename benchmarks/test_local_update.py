"""How long one local update of the reward model takes, for one person and for many at once.

Run with `make bench`; not part of `make test`. Made-up embeddings of MiniLM's width: the arithmetic is the
same as on real ones.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from commonground.comparisons import Comparison, Tag
from commonground.config import Config
from commonground.privacy.claims import private_claim, shared_claim
from commonground.randomness import generator
from commonground.recipe import all_tags, make_plan, resolve
from commonground.training.basis import basis_within
from commonground.training.plan import Plan
from commonground.training.reward import RewardFeatures, RewardModel
from commonground.training.update import People, first_private, private_phase, shared_phase, take

WIDTH, PAIRS, BASIS = 384, 40, 64
PEOPLE = [1, 64]


@pytest.fixture(scope="module")
def plan() -> Plan:
    torch.set_num_threads(1)
    config = resolve(Config())
    private = private_claim(epsilon_target=8.0, sampling=0.25, steps=40, cap=PAIRS)
    shared = shared_claim(people=config.people, cohort=config.cohort or 1, rounds=config.rounds)
    return make_plan(config, all_tags(), shared, private)


@pytest.fixture(scope="module")
def world() -> tuple[RewardModel, People]:
    draws = generator(0, "benchmark")
    texts = [f"text {k}" for k in range(400)]
    vectors = draws.normal(size=(len(texts), WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    basis = basis_within([vectors], "made-up texts", rank=BASIS)
    comparisons: list[Comparison] = []
    rows: list[dict[Tag, np.ndarray]] = []
    for person in range(max(PEOPLE)):
        first = len(comparisons)
        for tag in all_tags():
            for one, other in draws.permutation(len(texts))[: 2 * PAIRS].reshape(-1, 2).tolist():
                comparisons.append(Comparison("", texts[one], texts[other], tag, f"p{person}"))
        rows.append(
            {tag: np.arange(first + k * PAIRS, first + (k + 1) * PAIRS) for k, tag in enumerate(all_tags())}
        )
    embeddings = dict(zip(texts, vectors, strict=True))
    bases = dict.fromkeys(all_tags(), basis)
    model = RewardModel(RewardFeatures(comparisons, embeddings, bases, dims=8), all_tags())
    return model, People(tuple(range(max(PEOPLE))), tuple(rows))


def first(people: People, count: int) -> People:
    return People(people.index[:count], people.rows[:count])


@pytest.mark.parametrize("count", PEOPLE)
def test_shared_phase(
    benchmark: BenchmarkFixture, world: tuple[RewardModel, People], plan: Plan, count: int
) -> None:
    model, people = world[0], first(world[1], count)
    benchmark(shared_phase, model, people, model.initial_shared(), plan.shared, seed=1, round=1)


@pytest.mark.parametrize("count", PEOPLE)
def test_private_phase(
    benchmark: BenchmarkFixture, world: tuple[RewardModel, People], plan: Plan, count: int
) -> None:
    """A whole private life: 40 noisy steps a person."""
    model, people = world[0], first(world[1], count)
    shared, state = take(model.initial_shared(), 1), first_private(model, count, plan.private)
    benchmark(private_phase, model, people, shared, state, plan.private, seed=1, steps=plan.private.steps)
