"""Features of texts in a simulation: the public bases, or those that only a simulation can know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from commonground.comparisons import Comparison
from commonground.config import Config
from commonground.simulations.known_basis import planted_basis, widened, with_styles
from commonground.simulations.population import Population
from commonground.training.basis import basis_within
from commonground.training.features import starter_bases, text_vectors
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
    catalogue = list(population.catalogue)
    texts = [*catalogue, *also, *(text for c in table for text in (c.chosen, c.rejected))]
    vectors = text_vectors(config, texts, progress)
    bases = starter_bases(vectors)
    dims = bases["taste"].matrix.shape[0]
    if config.data.taste.source == "ratings":
        rank = min(len(set(catalogue)) - 1, bases["taste"].dims)
        items = np.stack([vectors[text] for text in sorted(set(catalogue))])
        bases["taste"] = basis_within([items], "the item catalogue", rank=rank)
    if config.model.basis == "planted":
        bases = {"taste": planted_basis(dims), "safety": widened(bases["safety"])}
        vectors = with_styles(vectors)
    return RewardFeatures(table, vectors, bases, config.model.dims, also)
