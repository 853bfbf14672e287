"""Information erased by aggregation, against its closed form and its null."""

import json

import numpy as np
import pytest
from scipy.special import expit

from commonground.errors import InputError
from commonground.evaluation.closed_forms import two_types
from commonground.evaluation.erased import erased
from commonground.evaluation.logistic import curvature_bound, fit, log_loss


def population(people: int, pairs: int, share: float, gap: float, seed: int, d: int = 6):  # type: ignore[no-untyped-def]
    """Two types who want opposite things along the first direction; the other directions are noise."""
    draws = np.random.default_rng(seed)
    side = np.where(np.arange(people) < share * people, 1.0, -1.0)
    person = np.repeat(np.arange(people), pairs)
    x = 0.3 * draws.standard_normal((people * pairs, d))
    x[:, 0] = draws.choice([-1.0, 1.0], people * pairs)
    first = draws.random(people * pairs) < expit(gap * side[person] * x[:, 0])
    return np.where(first[:, None], x, -x), person


def measure(share: float, gap: float, pairs: int, people: int = 150, seed: int = 1) -> dict[str, object]:
    train, owner = population(people, pairs, share, gap, seed)
    test, test_owner = population(people, 40, share, gap, seed + 1)
    return erased(
        train,
        owner,
        test,
        test_owner,
        people=people,
        rng=np.random.default_rng(3),
        resamples=500,
        directions=4,
    )


def test_it_approaches_the_closed_form_from_below_and_the_null_is_not_above_zero() -> None:
    truth = two_types(0.8, 2.0)["nats"]
    few, many = measure(0.8, 2.0, 15), measure(0.8, 2.0, 120)
    assert 0 < few["nats"] < many["nats"] < truth + 0.005  # type: ignore[operator]
    assert many["nats"] > 0.9 * truth  # type: ignore[operator]
    assert few["low"] > 0  # type: ignore[operator]
    for found in (few, many):
        null = found["null"]
        assert isinstance(null, dict)
        assert null["low"] <= 0.002
        assert null["nats"] <= 0.002
        assert null["high"] < found["low"]
        assert found["bound"] == "lower"


def test_where_everybody_agrees_nothing_is_erased() -> None:
    found = measure(1.0, 2.0, 30)
    assert found["low"] <= 0.001  # type: ignore[operator]
    assert abs(found["nats"]) < 0.01  # type: ignore[arg-type]


def test_the_null_is_not_trivial_when_residuals_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the way out (an infinite ridge) dealt-out comparisons make personal residuals a loss."""
    monkeypatch.setattr("commonground.evaluation.erased.PERSONAL_RIDGES", (1.0,))
    null = measure(0.8, 2.0, 15)["null"]
    assert isinstance(null, dict)
    assert null["high"] < 0


def test_the_order_in_which_a_pair_is_shown_cannot_matter() -> None:
    """All labels are 'the first': a constant feature would be a leak, and carries none after symmetrising."""
    train, _ = population(40, 20, 0.5, 0.0, 5)
    draws = np.random.default_rng(1)
    rows = train * draws.choice([-1.0, 1.0], len(train))[:, None]
    weights = fit(rows[None], ridge=1.0, bound=curvature_bound(rows[None]))[0]
    assert log_loss(rows @ weights).mean() == pytest.approx(np.log(2), abs=0.01)
    assert log_loss(np.zeros(3)) == pytest.approx(np.log(2))


def test_it_is_reproducible_and_json() -> None:
    first, second = measure(0.8, 1.0, 12, people=30), measure(0.8, 1.0, 12, people=30)
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)


def test_people_without_test_comparisons_and_tiny_runs() -> None:
    train, owner = population(4, 10, 0.5, 1.0, 1)
    found = erased(
        train,
        owner,
        train[:10],
        owner[:10],
        people=4,
        rng=np.random.default_rng(1),
        resamples=20,
        permutations=1,
    )
    assert found["people"] == 1
    assert found["low"] is None
    nothing = erased(
        train[:2], owner[:2], train[:0], owner[:0], people=4, rng=np.random.default_rng(1), resamples=20
    )
    assert nothing["nats"] is None
    assert nothing["null"]["nats"] is None


def test_bad_shapes() -> None:
    with pytest.raises(InputError, match=r"\(3, 2\) and \(3, 4\)"):
        erased(
            np.ones((3, 2)),
            np.zeros(3, int),
            np.ones((3, 4)),
            np.zeros(3, int),
            people=2,
            rng=np.random.default_rng(1),
            resamples=5,
        )


def test_500_people_with_384_features() -> None:
    train, owner = population(500, 40, 0.8, 2.0, 1, d=384)
    test, test_owner = population(500, 20, 0.8, 2.0, 2, d=384)
    found = erased(train, owner, test, test_owner, people=500, rng=np.random.default_rng(1), resamples=500)
    assert found["low"] > 0


def test_ridges_are_chosen_on_things_nobody_trained_on() -> None:
    """People's noise on known items repeats in their other pairs; an unknown item has none of it."""
    people, items, d = 60, 40, 16
    draws = np.random.default_rng(1)
    features = draws.standard_normal((items, d)) / np.sqrt(d)
    liked = 3.0 * draws.standard_normal((people, items))  # learned by heart it predicts, but only known items

    def pairs(pool: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        owner = np.repeat(np.arange(people), count)
        pair = np.array([draws.choice(pool, 2, replace=False) for _ in owner])
        better = liked[owner, pair[:, 0]] > liked[owner, pair[:, 1]]
        pair = np.where(better[:, None], pair, pair[:, ::-1])
        return features[pair[:, 0]] - features[pair[:, 1]], owner, pair

    x, owner, pair = pairs(np.arange(28), 40)
    test, test_owner, _ = pairs(np.arange(28, items), 20)

    def nats(texts: np.ndarray | None) -> float:
        rng = np.random.default_rng(2)
        found = erased(x, owner, test, test_owner, people=people, rng=rng, resamples=50, texts=texts)
        return float(found["nats"])

    assert nats(None) < -0.05  # trusted on known items, the residuals cost a lot on unknown ones
    assert nats(pair) > -0.02


def test_texts_that_leave_nothing_to_try_on_fall_back() -> None:
    train, owner = population(20, 10, 0.8, 2.0, 1)
    same = np.zeros((len(train), 2), dtype=np.int64)
    found = erased(
        train, owner, train, owner, people=20, rng=np.random.default_rng(1), resamples=20, texts=same
    )
    assert found["nats"] is not None
