"""Intervals over people."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonground.errors import InputError
from commonground.evaluation.intervals import clopper_pearson, finite, interval, paired_difference


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_mean_and_width_of_a_known_normal_sample() -> None:
    values = np.random.default_rng(1).normal(0.6, 0.1, 400)
    found = interval(values, resamples=4000, rng=rng())
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean(), abs=1e-12)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)
    assert found.people == 400


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(2)
    covered = sum(
        i.low <= 0.7 <= i.high
        for i in (interval(draws.beta(7, 3, 60), resamples=400, rng=draws) for _ in range(300))
    )
    assert 0.90 <= covered / 300 <= 0.985


def test_the_person_is_resampled_not_the_comparison() -> None:
    """Two kinds of people, 100 comparisons each: the interval is as wide as 10 people make it."""
    values, weights = np.array([0.0, 1.0] * 5), np.full(10, 100.0)
    by_person = interval(values, weights=weights, resamples=4000, rng=rng())
    by_comparison = interval(np.repeat(values, 100), resamples=1000, rng=rng())
    assert by_person.high - by_person.low > 5 * (by_comparison.high - by_comparison.low)


def test_weights_give_the_mean_over_comparisons() -> None:
    found = interval([1.0, 0.0, 0.5], weights=[6, 3, 1], resamples=200, rng=rng())
    assert found.mean == pytest.approx(0.65)
    assert interval([1.0, 0.0], weights=[1, 0], resamples=10, rng=rng()).people == 1


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_nobody_is_none_in_json(values: list[float]) -> None:
    found = interval(values, resamples=10, rng=rng())
    assert found.to_dict("accuracy") == {"accuracy": None, "low": None, "high": None, "people": 0}


def test_one_person_has_a_mean_but_no_interval() -> None:
    assert interval([0.8, math.nan], resamples=10, rng=rng()).to_dict() == {
        "mean": 0.8,
        "low": None,
        "high": None,
        "people": 1,
    }


def test_constant_values_have_an_exact_interval_of_width_zero() -> None:
    found = interval([0.1] * 7, resamples=50, rng=rng(), weights=[1, 2, 3, 4, 5, 6, 7])
    assert (found.mean, found.low, found.high) == (0.1, 0.1, 0.1)


def test_pairing_removes_what_both_share() -> None:
    person = np.random.default_rng(3).uniform(0.2, 0.9, 200)
    found = paired_difference(person + 0.05, person, resamples=500, rng=rng())
    assert found.mean == pytest.approx(0.05)
    assert found.high - found.low < 1e-9


def test_pairing_takes_only_people_with_both() -> None:
    found = paired_difference([1.0, math.nan, 0.5], [0.5, 0.1, 0.5], resamples=100, rng=rng())
    assert (found.mean, found.people) == (0.25, 2)
    with pytest.raises(InputError, match="same people"):
        paired_difference([1.0], [1.0, 2.0], resamples=10, rng=rng())


def test_same_generator_same_interval_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random(30)
    whole = interval(values, resamples=300, rng=rng())
    monkeypatch.setattr("commonground.evaluation.intervals._DRAWS", 100)
    assert interval(values, resamples=300, rng=rng()) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "resamples is 0"),
        ({"level": 1.0}, "level is 1.0"),
        ({"weights": [1, 2]}, "2 weights"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        interval([0.5], rng=rng(), **({"resamples": 10} | options))  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_the_interval_holds_its_mean_and_stays_in_range(values: list[float]) -> None:
    found = interval(values, resamples=200, rng=rng(), level=0.999)
    assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9 or len(values) < 6


@pytest.mark.parametrize(
    ("events", "trials", "upper"),
    [(0, 100, 0.0295), (0, 1000, 0.00299), (1, 1000, 0.00474), (5, 1000, 0.01048)],
)
def test_clopper_pearson_golden_upper_bounds(events: int, trials: int, upper: float) -> None:
    """One-sided 95 % (methods F6): `high` at two-sided 90 %."""
    assert clopper_pearson(events, trials, level=0.90)[1] == pytest.approx(upper, rel=3e-3)


def test_clopper_pearson_zero_failures_needs_299_for_one_percent() -> None:
    assert clopper_pearson(0, 299, level=0.90)[1] <= 0.01 < clopper_pearson(0, 298, level=0.90)[1]
    assert clopper_pearson(0, 299)[0] == 0.0
    assert clopper_pearson(5, 5)[1] == 1.0
    low, high = clopper_pearson(3, 10)
    assert clopper_pearson(7, 10) == pytest.approx((1 - high, 1 - low))
    with pytest.raises(InputError, match="3 events in 2 trials"):
        clopper_pearson(3, 2)


def test_finite() -> None:
    assert finite(math.nan) is None
    assert finite(math.inf) is None
    assert finite(None) is None
    assert finite(0.5) == 0.5
