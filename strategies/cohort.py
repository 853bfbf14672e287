"""Who takes part in a round.

Amplification by sampling holds only for secret, independent coins that depend on nobody's data (methods
B2, condition i): one coin a person a round, keyed by (seed, round, person). A cohort may be empty; the
round then happens all the same, with noise alone, and counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from commonground.randomness import generator


def draw_cohort(seed: int, round: int, eligible: Sequence[int], q: float) -> list[int]:
    """Toss everybody's coin.

    Args:
        seed: the run's seed (a simulation; a deployment takes its coins from the operating system).
        round: the round, from 1.
        eligible: indices of the people who may be drawn.
        q: probability that a person is drawn, in [0, 1].

    Returns:
        The people drawn, ascending.
    """
    return [person for person in sorted(eligible) if generator(seed, "coin", round, person).random() < q]


def under_cap(people: Sequence[int], taken_part: np.ndarray, cap: int | None) -> list[int]:
    """Those who have taken part less than `cap` times (None: everybody).

    A person at the cap sends nothing any more. The cap belongs to `trust=local`, whose accounting charges
    each upload as it is; with central noise it would make the coin depend on earlier coins.

    Args:
        people: indices of people.
        taken_part: (people,) int64, rounds each person was drawn in.
        cap: k, or None.
    """
    return [person for person in people if cap is None or taken_part[person] < cap]
