"""Differences over people and seeds."""

import math

import numpy as np
import pytest

from commonground.errors import InputError
from commonground.evaluation.two_levels import Difference, two_level_differences

Floats = np.ndarray


def differ(*seeds: Floats, resamples: int = 999, **options: float) -> list[Difference]:
    rng = np.random.default_rng(3)
    return two_level_differences(seeds, resamples=resamples, rng=rng, **options)


def test_nobody_differs_is_a_tie() -> None:
    (found,) = differ(np.zeros((5, 1)), np.zeros((4, 1)))
    assert found == Difference(0.0, 0.0, 0.0, 1.0, 2, 9)


def test_the_mean_is_of_seeds_not_of_people() -> None:
    """Seed one: mean 1 of two people; seed two: mean 4 of four. (1 + 4) / 2, not (2 + 16) / 6."""
    (found,) = differ(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0], [4.0], [4.0]]))
    assert found.mean == 2.5
    assert (found.seeds, found.people) == (2, 6)


def test_one_seed_is_the_interval_over_people() -> None:
    values = np.random.default_rng(1).normal(0.02, 0.1, (400, 1))
    (found,) = differ(values, resamples=4000)
    half = 1.96 * float(values.std()) / math.sqrt(400)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)
    assert found.p < 0.01


def test_two_seeds_that_agree_in_sign_prove_nothing_where_seeds_differ() -> None:
    """Every person of a seed is moved alike, by 1 and by 3: a percentile interval would exclude 0."""
    people = np.random.default_rng(2).normal(0, 0.01, (50, 1))
    (found,) = differ(people + 1, people + 3, largest=10.0)
    assert found.p > 0.3
    assert found.low < 0 < found.high
    assert found.high <= 10


def test_a_large_difference_shared_by_all_seeds_is_found() -> None:
    draws = np.random.default_rng(4)
    (found,) = differ(*(draws.normal(0.05, 0.1, (200, 1)) for _ in range(5)), resamples=9999)
    assert found.p < 0.01
    assert 0 < found.low < 0.05 < found.high < 0.1


@pytest.mark.parametrize(("seeds", "between"), [(1, 0.0), (3, 0.0), (5, 0.02)])
def test_no_difference_is_called_real_about_one_time_in_twenty(seeds: int, between: float) -> None:
    draws, hits = np.random.default_rng(5), []
    for _ in range(40):
        values = [draws.normal(draws.normal(0, between, (1, 8)), 0.1, (60, 8)) for _ in range(seeds)]
        hits += [one.p <= 0.05 for one in two_level_differences(values, resamples=299, rng=draws)]
    assert np.mean(hits) < 0.1


def test_equal_columns_get_equal_answers_and_missing_people_are_left_out() -> None:
    values = np.random.default_rng(6).normal(0.1, 0.2, (30, 1))
    both = np.hstack([values, values])
    first, second = differ(both, both[:20])
    assert first == second
    hole = np.vstack([both, [[math.nan, math.nan]]])
    assert differ(hole, both[:20]) == [first, second]


def test_nobody_at_all_is_nothing_known() -> None:
    (found,) = differ(np.full((3, 1), math.nan))
    assert found.to_dict() == {"mean": None, "low": None, "high": None, "p": None, "seeds": 0, "people": 0}
    (one,) = differ(np.array([[0.5]]))
    assert (one.mean, one.to_dict()["p"]) == (0.5, None)


def test_bad_input_is_one_line() -> None:
    with pytest.raises(InputError, match="at least 1"):
        differ()
    with pytest.raises(InputError, match="of one width"):
        differ(np.zeros((2, 1)), np.zeros((2, 2)))
