"""Coins: independent, keyed, and legal when nobody is drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from commonground.strategies.cohort import draw_cohort, under_cap


@given(st.integers(0, 50), st.integers(1, 50), st.sets(st.integers(0, 40), min_size=1), st.floats(0, 1))
def test_a_coin_does_not_depend_on_who_else_is_there(
    seed: int, round: int, people: set[int], q: float
) -> None:
    everybody = draw_cohort(seed, round, np.arange(41), q).tolist()
    some = draw_cohort(seed, round, np.array(list(people)), q).tolist()
    assert some == [p for p in everybody if p in people]


def test_extremes() -> None:
    assert draw_cohort(1, 1, np.arange(30), 1.0).tolist() == list(range(30))
    assert draw_cohort(1, 1, np.arange(30), 0.0).tolist() == []
    assert draw_cohort(1, 1, np.zeros(0, np.int64), 1.0).tolist() == []


def test_rate_and_independence_between_rounds() -> None:
    drawn = np.zeros((200, 50))
    for round in range(200):
        drawn[round, draw_cohort(4, round, np.arange(50), 0.3)] = 1
    assert abs(drawn.mean() - 0.3) < 0.02  # 10,000 coins: standard error 0.0046
    sizes = drawn.sum(axis=1)
    assert 2.4 < sizes.std() < 4.2  # binomial: 3.24; a fixed-size draw would give 0
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.05


def test_cap() -> None:
    assert under_cap(np.arange(3), np.array([2, 1, 3]), 2).tolist() == [1]
    assert under_cap(np.arange(3), np.array([2, 1, 3]), None).tolist() == [0, 1, 2]
