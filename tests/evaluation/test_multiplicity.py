"""Holm's correction, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonground.errors import InputError
from commonground.evaluation.multiplicity import holm


def test_four_by_hand() -> None:
    """Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and none below one before it."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_one_alone_is_itself_and_nothing_exceeds_one() -> None:
    assert holm([0.2]).tolist() == [0.2]
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_what_could_not_be_compared_is_not_counted() -> None:
    found = holm([0.02, math.nan, 0.03])
    np.testing.assert_allclose(found[[0, 2]], [0.04, 0.04])
    assert math.isnan(found[1])


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_p_value_is_between_0_and_1(p: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([0.5, p])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_between_the_raw_value_and_bonferroni_in_the_same_order(p: list[float]) -> None:
    found, raw = holm(p), np.array(p)
    assert (found >= raw).all()
    assert (found <= np.minimum(1, raw * len(p)) + 1e-15).all()
    assert (np.diff(found[np.argsort(raw, kind="stable")]) >= 0).all()
