"""Who attacks, and how many of them meet in a cohort."""

from __future__ import annotations

import numpy as np

from commonground.randomness import coins
from commonground.strategies.cohort import draw_cohort


def attackers(people: int, eligible: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Indices of the attackers, ascending: `round(fraction * eligible)` of the people who may be drawn.

    Everybody has one draw by number, so that who attacks does not depend on the run's seed, on what the
    attack is, or on how people are counted; those of a smaller fraction are among those of a larger one.
    Where a source has other people, a person of the same number attacks.

    Args:
        people: how many there are.
        eligible: indices of those who take part in shared training.
        fraction: share of `eligible`, 0 to 1.
        seed: `attack.seed`.
    """
    count = int(np.floor(fraction * len(eligible) + 0.5))
    if count == 0:
        return np.zeros(0, np.int64)
    draws = coins(people, seed, "attackers")[eligible]
    return np.sort(eligible[np.argsort(draws, kind="stable")[:count]]).astype(np.int64)


def cohorts(eligible: np.ndarray, who: np.ndarray, seed: int, q: float, rounds: int) -> np.ndarray:
    """(rounds, 2) how many were drawn in each round, and how many of them attack."""
    drawn = [draw_cohort(seed, round, eligible, q) for round in range(1, rounds + 1)]
    return np.array([(len(one), int(np.isin(one, who).sum())) for one in drawn], np.int64).reshape(-1, 2)
