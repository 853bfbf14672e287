"""Oracle numbers: closed forms by hand, quadrature against sampling."""

from dataclasses import replace

import numpy as np
import pytest

from commonground.errors import InputError
from commonground.evaluation.closed_forms import gaussian, two_types
from commonground.simulations.planting import Planting, draw_person
from commonground.simulations.truth import (
    Truth,
    information_erased,
    oracle,
    personal_accuracy,
    pooled_accuracy,
)

EVERYBODY = (("all", 1.0, 0.2),)
# two styles one unit apart: margin gamma * 1 = 2, turned for a fifth of the people; nothing else is random
TWO = Planting(("a", "b"), (0.5, -0.5), ("a", "b"), 2.0, 0.0, 0.0, 0.0, 40.0, EVERYBODY)


def test_two_types_by_hand() -> None:
    s, t = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))
    p, weights = np.array([[s, t]]), np.array([0.8, 0.2])
    assert personal_accuracy(p, weights) == pytest.approx(0.8808, abs=5e-5)
    assert pooled_accuracy(p, weights) == pytest.approx(0.7285, abs=5e-5)
    assert pooled_accuracy(p, weights, np.array([0.0, 1.0])) == pytest.approx(0.1192, abs=5e-5)
    assert information_erased(p, weights) == pytest.approx(0.2194, abs=5e-5)


def test_the_law_of_two_types_is_their_closed_form() -> None:
    law = oracle(TWO).summary()
    known = two_types(0.8, 2.0)
    assert law["personal"] == pytest.approx(known["personal"])
    assert law["pooled"] == pytest.approx(known["pooled"])
    assert law["minority_pooled"] == pytest.approx(known["minority"])
    assert law["erased_nats"] == pytest.approx(known["nats"])
    assert known["difference"] == pytest.approx(0.1523, abs=5e-5)
    # two models are then as good as one a person
    assert law["two_models"] == pytest.approx(law["personal"])
    assert law["erased_nats_two_models"] == pytest.approx(0, abs=1e-12)


def test_gaussian_people_are_the_closed_form() -> None:
    """One type, margin N(.7, 1.3^2): gamma = 1, margin of centres .7, sqrt(2) tau = 1.3."""
    one = replace(TWO, centre=(0.35, -0.35), gamma=1.0, tau=1.3 / np.sqrt(2), groups=(("all", 1.0, 0.0),))
    law = oracle(one).summary()
    known = gaussian(0.7, 1.3)
    assert law["pooled"] == pytest.approx(0.6292, abs=5e-5)
    assert law["personal"] == pytest.approx(known["personal_noisy"], abs=1e-4)
    assert law["erased_nats"] == pytest.approx(known["nats"], abs=1e-6)
    assert law["minority_pooled"] is None


def test_quadrature_agrees_with_sampled_people() -> None:
    planting = Planting()
    exact = oracle(planting)
    first, second = exact.pairs.T
    p = np.array([draw_person(i, 3, planting).prefers(first, second) for i in range(4000)])
    error = p.std(0) / np.sqrt(len(p))
    assert (np.abs(p.mean(0) - exact.p_pool) < 4.5 * error).all()
    sampled = np.maximum(p, 1 - p).mean(1)
    law = exact.summary()
    assert abs(sampled.mean() - (law["personal"] or 0)) < 4 * sampled.std() / np.sqrt(len(p))
    assert exact.weights.sum() == pytest.approx(1)
    assert exact.weights[exact.minority].sum() == pytest.approx(planting.minority_share)


def test_flips_alone() -> None:
    """Sure people with flips: p is 1 - eta or eta, whose mean is .05, so every mean is known."""
    sure = replace(TWO, gamma=1000.0, flip=0.05, groups=(("all", 1.0, 0.0),))
    exact = oracle(sure)
    assert exact.p_pool == pytest.approx([0.95])
    eta = np.random.default_rng(0).beta(2, 38, 200_000)
    assert exact.summary()["erased_nats"] == pytest.approx(
        float(information_erased((1 - eta)[None], np.full(len(eta), 1 / len(eta)))), abs=2e-4
    )


def test_no_taste_no_gain() -> None:
    law = oracle(replace(Planting(), gamma=0.0)).summary()
    assert law["personal"] == pytest.approx(0.5)
    assert law["pooled"] == pytest.approx(0.5)
    assert law["erased_nats"] == pytest.approx(0, abs=1e-12)


def test_erased_is_never_negative_and_zero_for_equal_people() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(6))
    p = rng.random((40, 6))
    assert information_erased(p, weights) > 0.01
    same = np.repeat(p[:, :1], 6, axis=1)
    assert information_erased(same, weights) == pytest.approx(0, abs=1e-12)
    assert personal_accuracy(same, weights) == pytest.approx(pooled_accuracy(same, weights))


def hand_truth() -> Truth:
    """A person with .9 and .2 where the crowd has .6, a minority person with .3, and one safety pair."""
    return Truth(
        p_own=np.array([0.9, 0.2, 0.3, 0.96]),
        p_pool=np.array([0.6, 0.6, 0.6, 0.96]),
        taste=np.array([True, True, True, False]),
        safety=np.array([False, False, False, True]),
        owner=np.array([0, 0, 1, 1]),
        minority=np.array([False, True]),
        law={"erased_nats": 0.1},
    )


def test_summary_by_hand() -> None:
    found = hand_truth().summary()
    # person 0: personal (.9 + .8)/2, pooled (.9 + .2)/2; person 1: personal .7, pooled .3; mean over people
    assert found["taste"]["attainable"] == pytest.approx(
        {"personal": 0.775, "pooled": 0.425, "minority_personal": 0.7, "minority_pooled": 0.3}
    )
    assert found["taste"]["comparisons"] == 3
    assert found["safety"] == {"comparisons": 1, "attainable": pytest.approx(0.96)}


def test_summary_of_some_people() -> None:
    found = hand_truth().among(np.array([True, False])).summary()
    assert found["taste"]["attainable"]["personal"] == pytest.approx(0.85)
    assert found["taste"]["attainable"]["minority_personal"] is None
    assert "safety" not in found


def test_truth_does_not_depend_on_which_answer_was_recorded() -> None:
    truth = hand_truth()
    turned = replace(truth, p_own=1 - truth.p_own, p_pool=1 - truth.p_pool)
    assert turned.personal() == pytest.approx(truth.personal())
    assert turned.pooled() == pytest.approx(truth.pooled())


def test_bad_plantings_are_refused_with_both_values() -> None:
    with pytest.raises(InputError, match=r"sum to 0\.5; they must sum to 0"):
        replace(TWO, centre=(1.0, -0.5))
    with pytest.raises(InputError, match="opposed"):
        replace(TWO, opposed=("c",))
    with pytest.raises(InputError, match="shares must sum to 1"):
        replace(TWO, groups=(("all", 0.9, 0.2),))
    with pytest.raises(InputError, match=r"flip=0\.5"):
        replace(TWO, flip=0.5)
