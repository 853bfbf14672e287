"""Paired differences over people and seeds: is one strategy better than another beyond noise?

People are nested in seeds: another seed is another population, with other noise. Differences of people of
one seed are not independent, because they share that seed's noise; the mean over everybody is therefore
only as certain as the seeds allow. Both levels are resampled: seeds with replacement, and in each drawn
seed its people with replacement.

With few seeds a plain percentile interval is far too narrow (two seeds that happen to agree in sign would
always be 'significant'). So every resample is divided by its own standard error, sqrt((B + W) / S), with B
the variance of the seeds' means and W the mean squared standard error within a seed (bootstrap-t: Efron
1982; Hall 1988; Davison and Hinkley 1997, sections 3.8 and 5.2). Resamples in which the same seed comes
again and again have a small error and a large quotient: they widen the interval as they should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commonground.errors import InputError
from commonground.evaluation.intervals import finite

Floats = NDArray[np.float64]
_DRAWS = 4_000_000  # people drawn at once: 32 MB


@dataclass(frozen=True)
class Difference:
    """A mean difference over people and seeds.

    Attributes:
        mean: mean over seeds of the mean over people; nan without people.
        low: lower end of the interval; nan where nothing is known about the error.
        high: upper end.
        p: two-sided p-value of 'no difference', never below 1 / (resamples + 1); nan as `low`.
        seeds: seeds with people. With one, only people were resampled.
        people: how many people, all seeds together.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    people: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain values for JSON, nan as None."""
        numbers = {name: finite(getattr(self, name)) for name in ("mean", "low", "high", "p")}
        return {**numbers, "seeds": self.seeds, "people": self.people}


def two_level_differences(
    seeds: Sequence[Floats],
    *,
    resamples: int,
    rng: np.random.Generator,
    level: float = 0.95,
    largest: float = np.inf,
) -> list[Difference]:
    """Differences of several strategies from a reference, resampled together.

    Args:
        seeds: for each seed (people, k): a person's difference for each of k strategies; nan rows (a person
            without a value) are left out. The same draws serve all k, so equal columns get equal answers.
        resamples: bootstrap draws.
        rng: the source of the draws.
        level: coverage of the interval.
        largest: no difference can be larger, 1 for shares; ends of intervals stop there.

    Returns:
        k differences.

    Raises:
        InputError: no seed, resamples below 1, or seeds with different numbers of strategies.
    """
    if not seeds or resamples < 1 or len({one.shape[1:] for one in seeds}) != 1:
        shapes = [one.shape for one in seeds]
        raise InputError(f"{resamples} resamples of seeds with shapes {shapes}; at least 1, of one width")
    width = seeds[0].shape[1]
    kept = [one[np.isfinite(one).all(axis=1)] for one in seeds]
    kept = [one for one in kept if len(one)]
    if not kept:
        return [Difference(np.nan, np.nan, np.nan, np.nan, 0, 0)] * width
    count, people = len(kept), sum(map(len, kept))
    means = np.stack([one.mean(0) for one in kept])
    within = np.stack([_within(one.mean(0), (one**2).mean(0), len(one)) for one in kept])
    mean, error = means.mean(0), _error(means[None], within[None])[0]
    chosen = rng.integers(0, count, (resamples, count))
    drawn, spread = np.empty((resamples, count, width)), np.empty((resamples, count, width))
    for seed, values in enumerate(kept):
        here = np.nonzero(chosen == seed)
        drawn[here], spread[here] = _resample(values, len(here[0]), rng)
    errors = _error(drawn, spread)
    off = np.abs(drawn.mean(1) - mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(off <= 1e-12, 0.0, off / errors)
        own = np.where(np.abs(mean) <= 1e-12, 0.0, np.abs(mean) / error)
    reach = np.quantile(quotient, level, axis=0, method="higher")
    found = []
    for k in range(width):
        if people < 2 or (error[k] == 0 and mean[k] != 0):
            low = high = p = np.nan
        elif error[k] == 0:  # nobody differs at all
            low, high, p = 0.0, 0.0, 1.0
        else:
            low = max(-largest, mean[k] - reach[k] * error[k])
            high = min(largest, mean[k] + reach[k] * error[k])
            p = (1 + np.count_nonzero(quotient[:, k] >= own[k])) / (resamples + 1)
        found.append(Difference(float(mean[k]), float(low), float(high), float(p), count, people))
    return found


def _within(mean: Floats, square: Floats, people: int) -> Floats:
    """Squared standard error of a mean over people; 0 for a single person, about whom nothing is known."""
    if people < 2:
        return np.zeros_like(mean)
    return np.asarray(np.maximum(0.0, square - mean**2) / (people - 1), dtype=np.float64)


def _error(means: Floats, within: Floats) -> Floats:
    """(r, k) standard errors of (r, seeds, k) means and squared errors within a seed."""
    count = means.shape[1]
    between = means.var(axis=1, ddof=1) if count > 1 else 0.0
    return np.asarray(np.sqrt((between + within.mean(axis=1)) / count), dtype=np.float64)


def _resample(values: Floats, draws: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(draws, k) means of people drawn with replacement, and their squared standard errors."""
    people, width = values.shape
    means, errors = np.empty((draws, width)), np.empty((draws, width))
    square = values**2
    chunk = max(1, _DRAWS // people)
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        index = rng.integers(0, people, (rows, people)) + people * np.arange(rows)[:, None]
        times = np.bincount(index.ravel(), minlength=rows * people).reshape(rows, people) / people
        part = slice(start, start + rows)
        means[part] = times @ values
        errors[part] = _within(means[part], times @ square, people)
    return means, errors
