"""Reward features of texts, on bases that are made of public texts alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from commonground.comparisons import Comparison, Tag
from commonground.config import Config
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.embeddings import Encoder
from commonground.given import Parts
from commonground.training.basis import PublicBasis, basis_within, given_bases
from commonground.training.reward import RewardFeatures

Progress = Callable[[str, int, int], None]
Vectors = dict[str, np.ndarray]


def public_texts() -> list[str]:
    """The shipped texts whose embeddings the bases are made of."""
    answers = [text for prompt in taste_prompts() for text in prompt.answers.values()]
    return answers + [text for pair in safety_pairs() for text in (pair.safe, pair.unsafe)]


def encoder_of(config: Config) -> Encoder:
    """The encoder of a reward run, the packaged one otherwise."""
    return Encoder(config.model.base if config.model.kind == "reward" else "")


def text_vectors(
    config: Config, texts: Sequence[str], progress: Progress | None = None, *, public: bool = True
) -> Vectors:
    """Embedding of every text, and of the public ones: text -> (D,) float32.

    Args:
        config: `model` is read: the encoder of a reward run, the packaged one otherwise.
        texts: any texts.
        progress: called with (what, done, total) while texts are embedded.
        public: False leaves the public texts out.
    """
    encoder = encoder_of(config)
    unique = list(dict.fromkeys([*(public_texts() if public else ()), *texts]))
    show = None if progress is None else functools.partial(progress, "embedding texts")
    return dict(zip(unique, encoder.embed(unique, show), strict=True))


def starter_bases(vectors: Vectors) -> dict[Tag, PublicBasis]:
    """The bases of the shipped texts; on one kind of processor they are the same bit for bit."""

    def stack(group: Sequence[str]) -> np.ndarray:
        return np.stack([vectors[text] for text in group])

    taste = basis_within(
        [stack(list(prompt.answers.values())) for prompt in taste_prompts()],
        "answers of the starter set, by prompt, style means first",
        kinds=[list(prompt.answers) for prompt in taste_prompts()],
    )
    safety = basis_within(
        [stack([pair.safe, pair.unsafe]) for pair in safety_pairs()], "safety pairs of the starter set"
    )
    return {"taste": taste, "safety": safety}


def public_features(
    config: Config,
    table: Sequence[Comparison],
    progress: Progress | None = None,
    parts: Parts | None = None,
) -> RewardFeatures:
    """Features of a table's texts on the starter set's bases.

    Args:
        config: `model` is read.
        table: comparisons; at least one.
        progress: see `text_vectors`.
        parts: public parts with the bases; None computes them from the shipped texts.

    Raises:
        ModelError: the parts do not fit.
    """
    texts = [text for c in table for text in (c.chosen, c.rejected)]
    vectors = text_vectors(config, texts, progress, public=parts is None)
    bases = starter_bases(vectors) if parts is None else given_bases(parts, len(vectors[texts[0]]))
    return RewardFeatures(tuple(table), vectors, bases, config.model.dims)
