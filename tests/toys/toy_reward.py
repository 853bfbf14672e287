"""A reward model over six-dimensional embeddings drawn from a seed: a table of a few people, in no time."""

from __future__ import annotations

import numpy as np

from commonground.comparisons import Comparison, Tag
from commonground.randomness import generator
from commonground.training.basis import PublicBasis, basis_within
from commonground.training.public_models import PublicModels
from commonground.training.reward import Form, RewardFeatures, RewardModel
from commonground.training.reward_basis import BasisRewardModel
from commonground.training.update import People

SIZE, DIMS = 6, 3
BOTH: tuple[Tag, ...] = ("safety", "taste")


def bases(seed: int = 0) -> dict[Tag, PublicBasis]:
    """One basis a tag, from texts that nobody compares."""
    groups = {tag: generator(seed, "toy basis", tag).standard_normal((4, 5, SIZE)) for tag in BOTH}
    return {tag: basis_within(list(group.astype(np.float32)), f"toy {tag}") for tag, group in groups.items()}


def features(
    counts: dict[Tag, int] | None = None, people: int = 3, dims: int = DIMS, basis: int = 0
) -> RewardFeatures:
    """Features of `people` times `counts` comparisons, person by person, safety before taste."""
    table = []
    for person in range(people):
        for tag, count in (counts or {"safety": 3, "taste": 4}).items():
            for number in range(count):
                name = f"{person} {tag} {number}"
                table.append(Comparison("", f"{name} chosen", f"{name} rejected", tag, str(person)))
    return over(table, dims, basis)


def over(table: list[Comparison], dims: int = DIMS, basis: int = 0) -> RewardFeatures:
    """Features of a table, whose texts are drawn from their own names."""
    texts = [text for c in table for text in (c.chosen, c.rejected)]
    vectors = {text: generator(1, "toy text", text).standard_normal(SIZE) for text in texts}
    unit = {text: (v / np.linalg.norm(v)).astype(np.float32) for text, v in vectors.items()}
    return RewardFeatures(table, unit, bases(basis), dims)


def with_public(model: RewardModel, pairs: int = 8) -> RewardModel:
    """The model with public safety pairs: so many that train, and as many probes."""
    sides = [
        [
            Comparison(f"{side} {n}", f"{side} {n} safe", f"{side} {n} unsafe", "safety", "public")
            for n in range(pairs)
        ]
        for side in ("train", "probe")
    ]
    found = model.over(model.features)
    trains, probes = (model.over(over(side)) for side in sides)
    prompts = tuple(c.prompt for side in sides for c in side)
    found.public = PublicModels(trains, probes, prompts, prompts[pairs:], (pairs, pairs))
    return found


def model(form: Form = "linear", tags: tuple[Tag, ...] = BOTH, people: int = 3) -> RewardModel:
    """The model of `features` for so many people."""
    own = features(people=people)
    return BasisRewardModel(own) if form == "basis" else RewardModel(own, tags, form)


def crowd(people: int = 3, safety: int = 3, taste: int = 4, start: int = 0) -> People:
    """People whose rows are those of `features` with these counts, from person `start` on."""
    size = safety + taste
    return People(
        tuple(range(start, start + people)),
        tuple(
            {
                "safety": np.arange(person * size, person * size + safety),
                "taste": np.arange(person * size + safety, (person + 1) * size),
            }
            for person in range(start, start + people)
        ),
    )
