"""Welfare over people: the checks of methods J."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonground.errors import InputError
from commonground.evaluation.welfare import atkinson, gini, nash, welfare

utilities = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=30)


def test_equal_people_have_no_inequality_and_nash_is_the_mean() -> None:
    found = welfare([0.7] * 9)
    assert found["gini"] == pytest.approx(0, abs=1e-12)
    assert found["atkinson"] == pytest.approx(0, abs=1e-12)
    assert found["nash"] == pytest.approx(0.7)
    assert found["min"] == found["p10"] == pytest.approx(0.7)


def test_one_has_all() -> None:
    values = [0.0] * 9 + [1.0]
    assert gini(values) == pytest.approx(0.9)
    assert nash(values) == 0
    assert atkinson(values, 0.5) == pytest.approx(1 - 1 / 10)  # 1 - (0.1)^2 / 0.1
    assert atkinson(values, 2) == 1


def test_by_hand() -> None:
    """U = (0.2, 0.8): |difference| 0.6 twice / (2 * 4 * 0.5) = 0.3; sqrt(0.16) = 0.4."""
    assert gini([0.8, 0.2]) == pytest.approx(0.3)
    assert nash([0.8, 0.2]) == pytest.approx(0.4)
    assert atkinson([0.8, 0.2], 1) == pytest.approx(1 - 0.4 / 0.5)
    assert atkinson([0.8, 0.2], 2) == pytest.approx(1 - (2 / (1 / 0.8 + 1 / 0.2)) / 0.5)


def test_missing_people_are_left_out_and_nobody_is_none() -> None:
    assert welfare([0.5, math.nan, 0.7])["mean"] == pytest.approx(0.6)
    assert set(welfare([math.nan]).values()) == {None}
    assert gini([0.0, 0.0]) == atkinson([0.0, 0.0]) == 0


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"utility is -0\.1"):
        welfare([-0.1, 0.5])
    with pytest.raises(InputError, match="aversion is 0"):
        atkinson([0.5], 0)


@settings(max_examples=60, deadline=None)
@given(utilities, st.floats(0.1, 5.0))
def test_properties(values: list[float], scale: float) -> None:
    u = np.array(values)
    n = u.size
    assert gini(u) == pytest.approx(np.abs(u[:, None] - u).sum() / (2 * n * n * u.mean()), abs=1e-9)
    assert gini(scale * u) == pytest.approx(gini(u), abs=1e-9)
    assert atkinson(scale * u) == pytest.approx(atkinson(u), abs=1e-9)
    assert u.min() - 1e-12 <= nash(u) <= u.mean() + 1e-12
    assert atkinson(u, 0.5) <= atkinson(u, 1) + 1e-9 <= atkinson(u, 2) + 2e-9
    assert gini(u) == pytest.approx(gini(u[::-1]), abs=1e-12)


def test_a_transfer_from_the_rich_to_the_poor_lowers_inequality() -> None:
    before, after = [0.2, 0.5, 0.9], [0.3, 0.5, 0.8]
    assert gini(after) < gini(before)
    assert atkinson(after) < atkinson(before)
    assert nash(after) > nash(before)
