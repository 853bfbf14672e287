"""Can the choice be told from the format alone? A probe that catches leaks.

If length and punctuation predict which answer was chosen, a model may look good without having read a
word. The probe sees counts only, never words; it is always reported beside the policies.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonground.comparisons import TAGS, Comparison
from commonground.evaluation.accuracy import person_accuracy
from commonground.evaluation.intervals import finite, interval
from commonground.evaluation.logistic import curvature_bound, fit

Floats = NDArray[np.float64]
_MARKS = (".", ",", "!", "?", "\n", "-", "*", ":", ";", '"', "(")
FEATURES: tuple[str, ...] = (
    *("characters", "words"),
    *(f"mark {mark!r}" for mark in _MARKS),
    *("digits", "capitals", "non_ascii"),
)
RIDGE = 3.0  # prior precision of a weight; features are scaled to root mean square 1
NOTE = (
    "A model that sees only length, punctuation, digits, capitals and non-ASCII counts. Above 50 % it "
    "shows how much of the choice can be told from format; a policy has to beat it."
)


def format_counts(text: str) -> Floats:
    """log(1 + count) of each of `FEATURES` in one answer, (len(FEATURES),) float64."""
    counts = [len(text), len(text.split()), *(text.count(mark) for mark in _MARKS)]
    counts.append(sum(c in string.digits for c in text))
    counts.append(sum(c.isupper() for c in text))
    counts.append(sum(not c.isascii() for c in text))
    return np.log1p(np.array(counts, dtype=np.float64))


def format_differences(comparisons: Sequence[Comparison]) -> Floats:
    """Chosen minus rejected, (n, len(FEATURES)) float64."""
    if not comparisons:
        return np.zeros((0, len(FEATURES)))
    texts = {text for c in comparisons for text in (c.chosen, c.rejected)}  # few texts, many comparisons
    counts = {text: format_counts(text) for text in texts}
    return np.stack([counts[c.chosen] - counts[c.rejected] for c in comparisons])


def format_probe(
    train: Sequence[Comparison],
    test: Sequence[Comparison],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Accuracy of format alone on held-out comparisons, by tag.

    Args:
        train: comparisons to learn from, any tags.
        test: held-out comparisons.
        resamples: bootstrap draws over people.
        rng: the source of the draws.

    Returns:
        tag -> {"accuracy", "low", "high", "people", "comparisons", "longer"}, and "note". `longer` is the
        accuracy of always preferring the longer answer. None where a tag has no comparisons.
    """
    result: dict[str, Any] = {}
    for tag in TAGS:
        learn = format_differences([c for c in train if c.tag == tag])
        held = [c for c in test if c.tag == tag]
        rows = format_differences(held)
        # Scaled, never centred: centring would tell the probe which side is the chosen one.
        scale = np.sqrt(np.square(learn).mean(0)) if len(learn) else np.ones(len(FEATURES))
        scale = np.where(scale > 0, scale, 1.0)
        learn = learn / scale
        weights = fit(learn[None], ridge=RIDGE, bound=curvature_bound(learn[None]))[0]
        names = sorted({c.person for c in held})
        index = {name: i for i, name in enumerate(names)}
        person = np.array([index[c.person] for c in held], dtype=np.int64)
        accuracy = person_accuracy(rows / scale @ weights, person, len(names))
        # The same statistics as the policies': taste over people, safety over comparisons.
        count = np.bincount(person, minlength=len(names)).astype(np.float64)
        options: dict[str, Any] = {"resamples": resamples, "rng": rng}
        weights_of = None if tag == "taste" else count
        found = interval(accuracy, weights=weights_of, **options)
        longer = interval(person_accuracy(rows[:, 0], person, len(names)), weights=weights_of, **options)
        result[tag] = found.to_dict("accuracy") | {
            "comparisons": len(held),
            "longer": finite(longer.mean),
        }
    return result | {"note": NOTE}
