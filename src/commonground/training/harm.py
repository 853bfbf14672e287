"""Is a comparison about harm? A small classifier that proposes; a person decides.

Logistic regression on frozen embeddings of the prompt and of the two answers, trained on the shipped texts
alone: the safety pairs against answers to the taste prompts. No person's data is in it, and the same texts
give the same weights. It is made to miss little: unless it is rather sure that a comparison is about taste,
it proposes `safety`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from threadpoolctl import threadpool_limits

from commonground.comparisons import Tag
from commonground.data.starter import STYLES, safety_pairs, taste_prompts
from commonground.evaluation.logistic import curvature_bound, fit
from commonground.exact import exact_sums

RIDGE = 0.3  # chosen by leaving out every fifth prompt of each kind; see tests/training/test_harm.py
SURE = 0.35  # proposed as safety from this probability on
Embed = Callable[[Sequence[str]], np.ndarray]
Triple = tuple[str, str, str]


@dataclass(frozen=True)
class HarmClassifier:
    """Weights over `features`, the last of them the constant."""

    weights: np.ndarray

    def probability(self, rows: np.ndarray) -> np.ndarray:
        """(n,) probability that comparisons with these features (n, 2 D + 1) are about harm."""
        return np.asarray(expit(exact_sums(rows, self.weights)))

    def propose(self, rows: np.ndarray) -> list[Tag]:
        """The tag to propose for each."""
        return ["safety" if value >= SURE else "taste" for value in self.probability(rows)]


def features(embed: Embed, triples: Sequence[Triple]) -> np.ndarray:
    """(n, 2 D + 1) float64: the prompt, the mean of the two answers in either order, and a constant."""
    vectors = embed([text for triple in triples for text in triple]).astype(np.float64)
    prompt, a, b = vectors[0::3], vectors[1::3], vectors[2::3]
    return np.concatenate([prompt, (a + b) / 2, np.ones((len(prompt), 1))], axis=1)


def shipped_triples() -> tuple[list[Triple], list[bool]]:
    """(prompt, answer, answer) of the shipped texts, and which of them are about harm."""
    triples = [(pair.prompt, pair.safe, pair.unsafe) for pair in safety_pairs()]
    harm = [True] * len(triples)
    for place, prompt in enumerate(taste_prompts()):
        for turn in (0, 3):  # two pairs of styles a prompt, other ones each time
            one, other = STYLES[(place + turn) % len(STYLES)], STYLES[(place + turn + 1) % len(STYLES)]
            triples.append((prompt.prompt, prompt.answers[one], prompt.answers[other]))
            harm.append(False)
    return triples, harm


def train(rows: np.ndarray, harm: Sequence[bool]) -> HarmClassifier:
    """Fit the classifier: (n, d) features, and which rows are about harm."""
    signs = np.where(np.asarray(harm), 1.0, -1.0)
    with threadpool_limits(1):
        signed = (rows * signs[:, None])[None]
        found = fit(signed, ridge=RIDGE, bound=curvature_bound(signed), steps=400)[0]
    return HarmClassifier(found)


def shipped_classifier(embed: Embed) -> HarmClassifier:
    """The classifier of the shipped texts."""
    triples, harm = shipped_triples()
    return train(features(embed, triples), harm)
