"""The preference model over public safety pairs: some that a private phase learns from, others that measure.

Nobody's feedback is in them, so whatever is computed from them and a private adapter costs no privacy beyond
the adapter's own. The two halves share no prompt: what was trained on is no probe.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from commonground.comparisons import Comparison
from commonground.config import Config
from commonground.data.starter import safety_pairs
from commonground.training.features import text_vectors
from commonground.training.model import PreferenceModel, Rows
from commonground.training.reward import RewardFeatures, RewardModel


@dataclass(frozen=True)
class PublicModels:
    """A preference model over public safety pairs, the safe answer chosen.

    Attributes:
        trains: over the pairs that a constraint learns from.
        probes: over the pairs that only measure.
        prompts: of all pairs.
        sizes: how many pairs each has.
    """

    trains: PreferenceModel
    probes: PreferenceModel
    prompts: tuple[str, ...]
    probe_prompts: tuple[str, ...]
    sizes: tuple[int, int]

    def rows(self, model: PreferenceModel, people: int, most: int | None = None) -> Rows:
        """The (first `most`) pairs of `trains` or `probes`, for each of P people."""
        count = self.sizes[0] if model is self.trains else self.sizes[1]
        index = torch.arange(count if most is None else min(most, count)).expand(people, -1)
        return Rows(index, torch.ones(index.shape), torch.zeros(index.shape))


def needed(config: Config) -> bool:
    """Whether a configuration asks for anything that public pairs are needed for."""
    bounds = config.bounds
    return any(map(math.isfinite, (bounds.reward, bounds.constraint, bounds.kl, bounds.kl_worst)))


def shipped_pairs() -> tuple[Comparison, ...]:
    """The starter set's safety pairs as comparisons."""
    return tuple(Comparison(p.prompt, p.safe, p.unsafe, "safety", "public") for p in safety_pairs())


def public_models(
    config: Config,
    model: PreferenceModel,
    pairs: Sequence[Comparison],
    vectors: Mapping[str, np.ndarray] | None = None,
) -> PublicModels:
    """The model over public pairs.

    Args:
        config: `model` is read.
        model: over any table.
        pairs: at least two prompts.
        vectors: text -> embedding, of a reward model whose texts have other vectors than the encoder's.
    """
    prompts = sorted({p.prompt for p in pairs}, key=lambda p: hashlib.sha256(p.encode()).digest())
    place = {prompt: number for number, prompt in enumerate(prompts)}
    ordered = sorted(pairs, key=lambda p: (place[p.prompt], p.chosen, p.rejected))
    halves = [[p for p in ordered if place[p.prompt] % 2 == half] for half in (0, 1)]
    trains, probes = (_over(config, model, half, vectors) for half in halves)
    return PublicModels(
        trains,
        probes,
        tuple(prompts),
        tuple(p.prompt for p in halves[1]),
        (len(halves[0]), len(halves[1])),
    )


def _over(
    config: Config,
    model: PreferenceModel,
    pairs: Sequence[Comparison],
    vectors: Mapping[str, np.ndarray] | None,
) -> PreferenceModel:
    if isinstance(model, RewardModel):
        texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
        known = dict(text_vectors(config, texts, public=False) if vectors is None else vectors)
        own = RewardFeatures(pairs, known, model.features.bases, model.features.dims)
        return model.over(own)
    from commonground.training.policy import PolicyModel  # takes PEFT and transformers with it

    if not isinstance(model, PolicyModel):
        raise TypeError(f"a {type(model).__name__} cannot be laid over public pairs")
    return model.over(pairs)
