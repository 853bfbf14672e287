"""What is left of a taste: the style's shift over shared, as a share of what it is without any bound.

    survival = (rate under the mechanism - rate of shared) / (rate without a bound - rate of shared)

A rate is the share of answers that visibly have the style (evaluation/writing.py: fixed patterns of words and
signs). Intervals are over prompts: a draw takes a prompt with all of its answers, under every mechanism.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commonground.errors import InputError

LEAST = 0.2  # a taste that moves a rate by less than this has no shift to keep or to lose
LEVEL = 0.95


@dataclass(frozen=True)
class Survival:
    """What is left.

    Attributes:
        rate: share of answers with the style, mean over tastes.
        kept: survival; None where the shift is too small to be shared out.
        low: end of the interval; None where there is none.
        high: likewise.
        answers: how many the rate rests on.
    """

    rate: float
    kept: float | None
    low: float | None
    high: float | None
    answers: int


def survival(under: np.ndarray, unbounded: np.ndarray, shared: np.ndarray, draws: np.ndarray) -> Survival:
    """Survival of one taste or of several together (the sum of their shifts over the sum of the unbounded).

    Args:
        under: (prompts, tastes) bool, whether the answer shows the style under the mechanism.
        unbounded: the same without a bound.
        shared: the same of the shared policy.
        draws: (resamples, prompts) int, prompts of each bootstrap draw.

    Raises:
        InputError: the tables do not fit each other, or there is no prompt.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in (under, unbounded, shared)]
    if len({table.shape for table in tables}) > 1 or tables[0].ndim != 2 or not tables[0].size:
        shapes = ", ".join(str(table.shape) for table in tables)
        raise InputError(f"the tables have the shapes {shapes}; one (prompts, tastes) is needed")
    by_prompt = [table.mean(1) for table in tables]
    rate, top, zero = (float(values.mean()) for values in by_prompt)
    if top - zero < LEAST:
        return Survival(rate, None, None, None, tables[0].size)
    drawn = [values[draws].mean(1) for values in by_prompt]
    shift = drawn[1] - drawn[2]
    known = shift > 0  # a draw without any shift says nothing about its share
    shares = (drawn[0] - drawn[2])[known] / shift[known]
    tail = (1 - LEVEL) / 2
    kept = (rate - zero) / (top - zero)
    if known.mean() <= LEVEL:
        return Survival(rate, kept, None, None, tables[0].size)
    low, high = np.quantile(shares, [tail, 1 - tail])
    return Survival(rate, kept, float(low), float(high), tables[0].size)


def resampled(prompts: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, prompts) places of prompts, drawn with replacement."""
    return rng.integers(0, prompts, size=(resamples, prompts))
