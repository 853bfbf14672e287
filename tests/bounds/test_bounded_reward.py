"""The large-margin guarantee of the bounded reward, and best-of-n, as theorems."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from commonground.bounds.reward import (
    best_of,
    best_of_bound,
    bounded_margin,
    bounded_reward,
    centred,
    rank,
)
from commonground.errors import InputError

anything = st.floats(allow_nan=True, allow_infinity=True)
finite = st.floats(-1e6, 1e6)
clamps = st.floats(1e-3, 1e3)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@settings(max_examples=120)
@given(finite, finite, anything, anything, clamps)
def test_a_shared_margin_above_2c_keeps_its_order(
    left: float, right: float, a: float, b: float, c: float
) -> None:
    assume(left - right > 2 * c)
    shared, private = torch.tensor([left, right]).double(), torch.tensor([a, b]).double()
    reward = bounded_reward(shared, private, c)
    assert reward[0] >= reward[1]  # equal only where doubles cannot tell the margin from 2c
    assert rank(shared, private, c) == [0, 1]
    assert rank(shared.flip(0), private.flip(0), c) == [1, 0]
    assert bounded_margin(shared[:1] - shared[1:], private[:1], private[1:], c).item() >= 0


@settings(max_examples=60)
@given(finite, anything, clamps)
def test_no_answer_moves_by_more_than_c(shared: float, private: float, c: float) -> None:
    moved = bounded_reward(one(shared), one(private), c).item()
    assert abs(moved - shared) <= c * (1 + 1e-12) + 1e-9


def test_the_bound_is_tight_and_says_nothing_below_it() -> None:
    """A saturating adapter turns a pair of margin 2c - 0.01 and cannot turn one of 2c + 0.01."""
    c, private = 0.5, torch.tensor([-1e9, 1e9]).double()
    for margin, order in ((2 * c - 0.01, [1, 0]), (2 * c + 0.01, [0, 1])):
        assert rank(torch.tensor([margin, 0.0]).double(), private, c) == order


def test_numbers_by_hand() -> None:
    found = bounded_reward(
        torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([0.5, math.inf, -math.inf, math.nan]), 0.5
    )
    assert found.tolist() == pytest.approx([1 + 0.5 * math.tanh(1), 1.5, 0.5, 1.0])
    assert bounded_reward(one(2.0), one(7.0), 0.0).item() == 2.0
    small = bounded_reward(one(0.0), one(1e-3), 1.0).item()
    assert small == pytest.approx(1e-3, rel=1e-5)  # a modest private reward counts as it is


@pytest.mark.parametrize("c", [-1.0, math.nan, math.inf])
def test_a_clamp_that_bounds_nothing_is_refused(c: float) -> None:
    with pytest.raises(InputError, match=r"c is .*finite"):
        bounded_reward(one(0.0), one(0.0), c)


def test_a_shared_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to bound"):
        bounded_reward(one(math.nan), one(0.0), 1.0)


SHARED = {0: 0.55, 1: 0.3, 2: 0.1, 3: 0.05}
SCORES: dict[str, Callable[[int], float]] = {
    "rarest first": float,
    "constant": lambda y: 0.0,
    "nan for the likely": lambda y: math.nan if y < 3 else 1.0,
    "infinite": lambda y: math.inf if y == 3 else -math.inf,
}


@pytest.mark.parametrize("n", [1, 2, 4, 6])
@pytest.mark.parametrize("name", SCORES)
def test_best_of_n_is_within_ln_n_of_shared(n: int, name: str) -> None:
    """All tuples of n draws: no answer gets more than n times its probability under shared."""
    law = dict.fromkeys(SHARED, 0.0)
    for drawn in itertools.product(SHARED, repeat=n):
        winner = drawn[best_of([SCORES[name](y) for y in drawn])]
        law[winner] += math.prod(SHARED[y] for y in drawn)
    assert sum(law.values()) == pytest.approx(1)
    ratios = {y: math.log(law[y] / SHARED[y]) for y in law if law[y] > 0}
    assert max(ratios.values()) <= best_of_bound(n) + 1e-12
    if name == "rarest first":  # exactly: 1 - (1 - p)^n for the answer that always wins
        assert law[3] == pytest.approx(1 - 0.95**n)
        kl = sum(p * math.log(p / SHARED[y]) for y, p in law.items() if p > 0)
        assert kl <= math.log(n) - (n - 1) / n + 1e-12


def test_no_draw_is_refused() -> None:
    with pytest.raises(InputError, match="best of 0"):
        best_of([])
    with pytest.raises(InputError, match="best of 0"):
        best_of_bound(0)


@pytest.mark.parametrize("shift", [0.0, 3.0, -1e6])
def test_what_a_private_reward_says_of_all_answers_changes_nothing(shift: float) -> None:
    """Without that, a constant of 3 would use up the tanh, and the taste with it."""
    private = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64) + shift
    assert centred(private).tolist() == pytest.approx([0.2 - 1 / 6, -0.1 - 1 / 6, 0.4 - 1 / 6], abs=1e-9)
    found = bounded_margin(one(0.3), private[:1], private[1:2], 0.25).item()
    assert found == pytest.approx(0.3 + 0.5 * math.tanh(0.3 / 0.5), abs=1e-9)
    two = bounded_reward(torch.tensor([0.3, 0.0], dtype=torch.float64), centred(private[:2]), 0.25)
    assert found == pytest.approx(float(two[0] - two[1]), abs=1e-9)  # the same as the two rewards apart
    assert rank(torch.zeros(3).double(), private, 0.01) == [2, 0, 1]


def test_a_mean_is_taken_over_finite_rewards_alone() -> None:
    assert centred(torch.tensor([math.inf, 1.0, 3.0, math.nan])).tolist()[:3] == [math.inf, -1.0, 1.0]
    assert centred(torch.tensor([math.inf, -math.inf])).tolist() == [math.inf, -math.inf]
    assert bounded_margin(one(1.0), one(math.inf), one(math.inf), 0.5).item() == 1.0
