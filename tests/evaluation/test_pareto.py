"""Pareto fronts, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonground.errors import InputError
from commonground.evaluation.pareto import pareto_front


def test_by_hand() -> None:
    """More of the first is better, less of the second: (3,3) beats (2,4) and (3,5); the rest stand."""
    values = [(3, 3), (2, 4), (3, 5), (1, 1), (4, 9)]
    assert pareto_front(values, (True, False)).tolist() == [True, False, False, True, True]


def test_equals_stand_together_and_infinity_is_a_value() -> None:
    assert pareto_front([(1, 8), (1, 8)], (True, False)).tolist() == [True, True]
    assert pareto_front([(1, math.inf), (1, 8)], (True, False)).tolist() == [False, True]
    assert pareto_front([(2, math.inf), (1, 8)], (True, False)).tolist() == [True, True]


def test_what_is_unknown_is_on_no_front_and_beats_nobody() -> None:
    assert pareto_front([(9, math.nan), (1, 2)], (True, True)).tolist() == [False, True]


def test_every_column_has_a_direction() -> None:
    with pytest.raises(InputError, match="2 columns"):
        pareto_front([(1, 2, 3)], (True, True))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_somebody_is_on_it_and_everybody_else_is_beaten_by_one_of_them(rows: list[tuple[int, int]]) -> None:
    on = pareto_front(rows, (True, True))
    assert on.any()
    table = np.array(rows)
    for row in table[~on]:
        assert ((table[on] >= row).all(1) & (table[on] > row).any(1)).any()
