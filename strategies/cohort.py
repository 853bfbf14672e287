"""Who takes part in a round.

Amplification by sampling holds only for secret, independent coins that depend on nobody's data (methods
B2, condition i): one coin a person a round, keyed by (seed, round, person). A cohort may be empty; the
round then happens all the same, with noise alone, and counts.
"""

from __future__ import annotations

import numpy as np

from commonground.randomness import coins


def draw_cohort(seed: int, round: int, eligible: np.ndarray, q: float, band: int = 1) -> np.ndarray:
    """Toss everybody's coin; with a band above 1, the coins of those whose turn it is.

    Person i's coin is the i-th draw of the round's stream, so it does not depend on who else there is. With a
    band b everybody has a turn, drawn once, in one of every b rounds, and comes then with probability b q: so
    two visits of one person are at least b rounds apart, and as many are expected in a round as without.

    Args:
        seed: the run's seed (a simulation; a deployment takes its coins from the operating system).
        round: the round, from 1.
        eligible: (n,) indices of the people who may be drawn.
        q: probability that a person is drawn, in [0, 1]; with a band at most 1 / b.
        band: b, the least distance between two rounds of one person.

    Returns:
        The people drawn, ascending.
    """
    people = np.sort(eligible)
    count = int(people[-1]) + 1 if len(people) else 0
    tossed = coins(count, seed, "coin", round)
    drawn = people[tossed[people] < q * band]
    if band == 1:
        return np.asarray(drawn)
    turns = np.floor(band * coins(count, seed, "turn")).astype(np.int64)
    return np.asarray(drawn[turns[drawn] == round % band])


def under_cap(people: np.ndarray, taken_part: np.ndarray, cap: int | None) -> np.ndarray:
    """Those who have taken part less than `cap` times (None: everybody).

    A person at the cap sends nothing any more. The cap belongs to `trust=local`, whose accounting charges
    each upload as it is, and to banded noise; with coins that count as secret it would make one depend on
    earlier ones.

    Args:
        people: (n,) indices of people.
        taken_part: (people,) int64, rounds each person was drawn in.
        cap: k, or None.
    """
    return people if cap is None else people[taken_part[people] < cap]
