"""The planted truth as a basis: only a simulation can have it.

With `model.basis=planted` a taste is learned in the directions it was planted in: a text's features are its
style, one direction a style, centred. What is then missing to the attainable accuracy is what few noisy
comparisons cost, and not what embeddings of texts do not show.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from commonground.data.starter import taste_prompts
from commonground.training.basis import PublicBasis

SOURCE = "the planted styles themselves (a simulation's privilege)"


def styles_of_texts() -> dict[str, np.ndarray]:
    """Starter taste text -> (S,) float32 indicator of its style, centred: sums to 0."""
    prompts = taste_prompts()
    styles = list(prompts[0].answers)
    centred = np.eye(len(styles), dtype=np.float32) - np.float32(1 / len(styles))
    return {
        text: centred[styles.index(style)]
        for prompt in taste_prompts()
        for style, text in prompt.answers.items()
    }


def with_styles(vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Embeddings (D,) with the S style coordinates of each text behind them; zeros for other texts."""
    known = styles_of_texts()
    none = np.zeros_like(next(iter(known.values())))
    return {text: np.concatenate([vector, known.get(text, none)]) for text, vector in vectors.items()}


def planted_basis(dims: int) -> PublicBasis:
    """The style coordinates of vectors (dims + S,); two different styles are at distance 1."""
    styles = len(taste_prompts()[0].answers)
    matrix = np.concatenate([np.zeros((dims, styles)), np.eye(styles)]).astype(np.float32)
    return PublicBasis(matrix, float(1 / np.sqrt(2)), SOURCE)


def widened(basis: PublicBasis) -> PublicBasis:
    """The same basis for such vectors: it does not look at the style coordinates."""
    styles = len(taste_prompts()[0].answers)
    rows = np.zeros((styles, basis.dims), np.float32)
    return PublicBasis(np.concatenate([basis.matrix, rows]), basis.scale, basis.source)
