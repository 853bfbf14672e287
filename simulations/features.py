"""Features of texts on bases that are made of public texts alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from commonground.comparisons import Comparison, Tag
from commonground.config import Config
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.embeddings import Encoder
from commonground.simulations.known_basis import planted_basis, widened, with_styles
from commonground.simulations.population import Population
from commonground.training.basis import PublicBasis, basis_within
from commonground.training.reward import RewardFeatures

Progress = Callable[[str, int, int], None]


def reward_features(
    config: Config,
    population: Population,
    table: tuple[Comparison, ...],
    progress: Progress | None,
    also: Sequence[str],
) -> RewardFeatures:
    """Features of a table's texts on public bases.

    Args:
        config: `model` and `data` are read.
        population: for the catalogue of rated items, whose basis is its own.
        table: comparisons.
        progress: called with (what, done, total) while texts are embedded.
        also: further texts that need features.
    """
    encoder = Encoder(config.model.base if config.model.kind == "reward" else "")
    answers = [list(prompt.answers.values()) for prompt in taste_prompts()]
    pairs = [[pair.safe, pair.unsafe] for pair in safety_pairs()]
    catalogue = list(population.catalogue)
    texts = [text for group in answers + pairs for text in group] + catalogue
    texts += [*also, *(text for c in table for text in (c.chosen, c.rejected))]
    unique = list(dict.fromkeys(texts))
    show = None if progress is None else functools.partial(progress, "embedding texts")
    vectors = dict(zip(unique, encoder.embed(unique, show), strict=True))

    def stack(group: Sequence[str]) -> np.ndarray:
        return np.stack([vectors[text] for text in group])

    starter = basis_within(
        [stack(group) for group in answers],
        "answers of the starter set, by prompt, style means first",
        kinds=[list(prompt.answers) for prompt in taste_prompts()],
    )
    taste = starter
    if config.data.taste.source == "ratings":
        rank = min(len(set(catalogue)) - 1, starter.dims)
        taste = basis_within([stack(sorted(set(catalogue)))], "the item catalogue", rank=rank)
    safety = basis_within([stack(group) for group in pairs], "safety pairs of the starter set")
    if config.model.basis == "planted":
        taste, safety = planted_basis(starter.matrix.shape[0]), widened(safety)
        vectors = with_styles(vectors)
    bases: dict[Tag, PublicBasis] = {"taste": taste, "safety": safety}
    return RewardFeatures(table, vectors, bases, config.model.dims, also)
