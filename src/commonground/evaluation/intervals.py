"""Confidence intervals. The unit that is resampled is always the person, never the comparison.

A person's comparisons share that person's taste, so they are not independent: resampling comparisons
would make intervals too narrow. Percentile bootstrap: Efron and Tibshirani, 1993.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from commonground.errors import InputError

Floats = NDArray[np.float64]
_DRAWS = 2_000_000  # bootstrap indices held at once: 16 MB


@dataclass(frozen=True)
class Interval:
    """A mean over people and how far it can be trusted.

    Attributes:
        mean: the (weighted) mean; nan when nobody has a value.
        low: lower end; nan when fewer than 2 people have a value, because then nothing is known.
        high: upper end; as `low`.
        people: how many people have a value.
    """

    mean: float
    low: float
    high: float
    people: int

    def to_dict(self, name: str = "mean") -> dict[str, float | int | None]:
        """Plain values for JSON, nan as None; `name` is the key of the mean."""
        return {
            name: finite(self.mean),
            "low": finite(self.low),
            "high": finite(self.high),
            "people": self.people,
        }


def finite(value: float | None) -> float | None:
    """The value, or None where JSON has no word for it (nan, infinity)."""
    return float(value) if value is not None and math.isfinite(value) else None


def interval(
    values: ArrayLike,
    *,
    resamples: int,
    rng: np.random.Generator,
    level: float = 0.95,
    weights: ArrayLike | None = None,
) -> Interval:
    """Mean over people with a percentile bootstrap interval over people.

    Args:
        values: (people,) one number a person, e.g. accuracy; nan for a person without one (left out).
        resamples: bootstrap draws.
        rng: the source of the draws.
        level: coverage, in (0, 1).
        weights: (people,) e.g. the comparisons of each person, for the mean over comparisons; the draw is
            still over people, each with all of its comparisons. None weighs people equally.

    Raises:
        InputError: resamples below 1, a level outside (0, 1), or arrays of different lengths.
    """
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; at least 1 is needed")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; accepted: between 0 and 1, e.g. 0.95")
    value = np.asarray(values, dtype=np.float64).ravel()
    weight = np.ones_like(value) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if value.shape != weight.shape:
        raise InputError(f"{value.size} values but {weight.size} weights; one weight a person is needed")
    keep = np.isfinite(value) & (weight > 0)
    value, weight = value[keep], weight[keep]
    people = value.size
    if people == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    # Centring makes the interval of a constant exact instead of a rounding error wide.
    centre = float(value[0])
    mean = centre + float(np.average(value - centre, weights=weight))
    if people == 1:
        return Interval(mean, math.nan, math.nan, 1)
    means = centre + _resampled_means(value - centre, weight, resamples, rng)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), people)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    resamples: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> Interval:
    """Mean of `first - second` over the people who have both, with its interval.

    Args:
        first: (people,) nan where a person has no value.
        second: (people,) the same people in the same order.
        resamples: bootstrap draws.
        rng: the source of the draws.
        level: coverage, in (0, 1).
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise InputError(f"paired values have shapes {a.shape} and {b.shape}; they must be the same people")
    return interval(a - b, resamples=resamples, rng=rng, level=level)


def clopper_pearson(events: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a proportion from independent trials. Clopper and Pearson, 1934.

    Args:
        events: how often it happened.
        trials: independent trials, e.g. probes with one answer each (not comparisons of one person).
        level: coverage of the two-sided interval. The one-sided upper bound at 95 % is `high` at 0.90.

    Returns:
        (low, high), fractions; low is 0 for no event, high is 1 when every trial is an event.
    """
    if not 0 <= events <= trials or trials < 1:
        raise InputError(f"{events} events in {trials} trials; accepted: 0 <= events <= trials, trials >= 1")
    tail = (1 - level) / 2
    low = 0.0 if events == 0 else float(beta.ppf(tail, events, trials - events + 1))
    high = 1.0 if events == trials else float(beta.ppf(1 - tail, events + 1, trials - events))
    return low, high


def _resampled_means(value: Floats, weight: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """(resamples,) weighted means of people drawn with replacement, in chunks that bound the memory."""
    people = value.size
    product = value * weight
    chunk = max(1, _DRAWS // people)
    means = np.empty(resamples)
    for start in range(0, resamples, chunk):
        stop = min(resamples, start + chunk)
        drawn = rng.integers(0, people, (stop - start, people))
        means[start:stop] = product[drawn].sum(1) / weight[drawn].sum(1)
    return means
