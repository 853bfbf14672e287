"""Accuracy tables and paired differences."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from commonground.errors import InputError
from commonground.evaluation.accuracy import (
    Attainable,
    calibration,
    low_agreement,
    paired,
    person_accuracy,
    policy_table,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_ties_count_half_and_a_person_without_comparisons_is_nan() -> None:
    margins = np.array([1.0, -1.0, 0.0, 1e-13, 2.0, 1e-11])
    found = person_accuracy(margins, np.array([0, 0, 0, 2, 2, 2]), 4)
    assert found[[0, 2]] == pytest.approx([0.5, 2.5 / 3])
    assert np.isnan(found[[1, 3]]).all()


def test_a_policy_that_knows_nothing_has_half() -> None:
    assert person_accuracy(np.zeros(10), np.arange(10) % 2, 2) == pytest.approx([0.5, 0.5])


def test_a_margin_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="1 of 2 margins"):
        person_accuracy(np.array([np.nan, 1.0]), np.array([0, 0]), 1)


def table() -> dict[str, object]:
    """Persons 0..3; person 3 has no taste comparison, safety comparisons only of 0 (three) and 3 (one)."""
    margins = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -2.0])
    person = np.array([0, 0, 1, 1, 2, 2, 0, 0, 0, 3])
    taste = np.array([True] * 6 + [False] * 4)
    return policy_table(
        margins,
        person,
        {"taste": taste, "safety": ~taste},
        people=4,
        groups=["a", "a", None, "b"],
        minority=np.array([False, True, True, False]),
        attainable=Attainable(personal=0.8, pooled=0.4),
        resamples=200,
        rng=rng(),
    )


def test_policy_table_by_hand() -> None:
    found = json.loads(json.dumps(table(), allow_nan=False))
    taste, safety = found["taste"], found["safety"]
    assert taste["accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert (taste["people"], taste["worst_decile"], taste["minority"]) == (3, 0.0, 0.25)
    assert taste["minority_low"] == 0 < taste["minority_high"] == 0.5
    assert taste["groups"]["a"] == {"accuracy": 0.75, "low": 0.5, "high": 1.0, "people": 2}
    assert taste["groups"]["b"] == {"accuracy": None, "low": None, "high": None, "people": 0}
    assert taste["attainable"] == pytest.approx({"accuracy": 0.8, "fraction": 0.625, "gap_closed": 0.25})
    assert safety["accuracy"] == pytest.approx(2 / 4)  # over comparisons, not over people
    assert (safety["comparisons"], safety["people"]) == (4, 2)


def test_nothing_to_measure_is_none() -> None:
    none = np.zeros(0, dtype=bool)
    found = policy_table(
        np.zeros(0), np.zeros(0, dtype=int), {"taste": none, "safety": none}, people=3, resamples=5, rng=rng()
    )
    assert json.dumps(found, allow_nan=False)
    assert found["taste"]["accuracy"] is found["taste"]["worst_decile"] is found["taste"]["minority"] is None
    assert found["taste"]["groups"] == {}
    assert found["safety"]["calibration"] == {"slope": None, "log_loss": None, "ece": None}


def test_worst_decile_is_the_mean_of_the_worst_tenth() -> None:
    margins = np.ones(100)
    margins[:20] = -1.0  # four of the 20 people have nothing right
    found = policy_table(
        margins,
        np.arange(100) // 5,
        {"taste": np.ones(100, bool), "safety": np.zeros(100, bool)},
        people=20,
        resamples=10,
        rng=rng(),
    )
    assert found["taste"]["worst_decile"] == 0.0
    assert found["taste"]["accuracy"] == pytest.approx(0.8)


def test_calibration_of_true_probabilities() -> None:
    draws = np.random.default_rng(1)
    utility = draws.normal(0, 2, 40_000)
    margins = utility * np.where(draws.random(40_000) < 1 / (1 + np.exp(-utility)), 1, -1)
    found = calibration(margins)
    assert found["slope"] == pytest.approx(1, abs=0.03)
    assert found["ece"] is not None
    assert found["ece"] < 0.01
    over = calibration(3 * margins)
    assert over["slope"] == pytest.approx(found["slope"] / 3 if found["slope"] else 0, rel=1e-6)
    assert over["ece"] is not None
    assert over["ece"] > 0.05
    assert calibration(np.zeros(4))["log_loss"] == pytest.approx(math.log(2))


def test_slope_agrees_with_scikit_learn_and_may_be_negative() -> None:
    margins = np.random.default_rng(2).normal(0.5, 1, 500)
    x = np.concatenate([margins, -margins])[:, None]
    y = np.repeat([1, 0], 500)
    other = LogisticRegression(C=1e10, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0, 0]
    assert calibration(margins)["slope"] == pytest.approx(other, rel=1e-4)
    assert calibration(-margins)["slope"] == pytest.approx(-other, rel=1e-4)
    assert calibration(np.array([1.0, 2.0]))["slope"] is None  # always right: no finite slope is best


def test_low_agreement_takes_the_fifth_that_agrees_least() -> None:
    accuracy = np.array([0.9, 0.1, np.nan, 0.8, 0.2, 0.7, 0.6, 0.95, 0.85, 0.75, 0.65])
    assert np.flatnonzero(low_agreement(accuracy)).tolist() == [1, 4]
    assert low_agreement(np.array([0.5, np.nan])).tolist() == [True, False]
    assert not low_agreement(np.array([np.nan])).any()


def test_paired_by_hand() -> None:
    accuracies = {
        "personal": np.array([0.8, 0.9, 0.6, np.nan]),
        "pooled": np.array([0.7, 0.9, 0.2, np.nan]),
        "base": np.full(4, 0.5),
    }
    found = paired(accuracies, minority=np.array([False, False, True, True]), resamples=300, rng=rng())
    assert list(found) == ["personal_minus_pooled"]  # the other pairs need a policy that is absent
    entry = found["personal_minus_pooled"]
    assert entry["mean"] == pytest.approx(0.5 / 3)
    assert entry["people"] == 3
    assert entry["minority"] == {"mean": pytest.approx(0.4), "low": None, "high": None, "people": 1}
    assert paired(accuracies, resamples=5, rng=rng())["personal_minus_pooled"]["minority"] is None


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 10))
def test_permuting_comparisons_and_scaling_margins_change_no_accuracy(n: int, people: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    margins, person = draws.normal(size=n), draws.integers(0, people, n)
    order = draws.permutation(n)
    first = person_accuracy(margins, person, people)
    assert person_accuracy(3 * margins[order], person[order], people) == pytest.approx(first, nan_ok=True)
    assert person_accuracy(-margins, person, people) == pytest.approx(1 - first, nan_ok=True)
