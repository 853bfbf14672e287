"""The numerics of single rules: geometric median, trust scores, the simplex, centred clipping."""

from __future__ import annotations

import numpy as np
import pytest
import toy_bed as toy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from commonground.strategies.centred_clipping import CentredClippingDevice
from commonground.strategies.fltrust import trusted_mean
from commonground.strategies.maxmin import MaxMin, project_simplex
from commonground.strategies.rfa import geometric_median


def test_in_one_dimension_the_geometric_median_is_the_median() -> None:
    points = np.array([[0.0], [1.0], [2.5], [10.0], [100.0]])
    assert geometric_median(points, 2000, 1e-9)[0] == pytest.approx(2.5, abs=1e-3)


def test_at_the_geometric_median_the_pulls_cancel() -> None:
    points = np.random.default_rng(0).standard_normal((9, 4))
    middle = geometric_median(points, 500, 1e-9)
    away = points - middle
    pull = (away / np.linalg.norm(away, axis=1, keepdims=True)).sum(0)
    assert float(np.linalg.norm(pull)) < 1e-6


@pytest.mark.parametrize("far", [1e3, 1e6, 1e9])
def test_less_than_half_cannot_carry_the_geometric_median_away(far: float) -> None:
    points = np.vstack([np.random.default_rng(1).uniform(-1, 1, (5, 3)), np.full((4, 3), far)])
    assert float(np.abs(geometric_median(points, 500, 1e-9)).max()) < 3


def test_trust_by_hand() -> None:
    """Root (1, 0): trust 1, 0 and cos 45; each brought to length 1."""
    updates = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-5.0, 0.1], [0.0, 0.0]])
    c = np.sqrt(0.5)
    expected = (np.array([1.0, 0.0]) + c * np.array([c, c])) / (1 + c)
    np.testing.assert_allclose(trusted_mean(updates, np.array([1.0, 0.0])), expected)
    np.testing.assert_allclose(trusted_mean(1e6 * updates, np.array([1.0, 0.0])), expected)
    np.testing.assert_allclose(trusted_mean(updates, np.array([2.0, 0.0])), 2 * expected)


def test_nobody_is_trusted_and_nothing_happens() -> None:
    against = np.array([[-1.0, 0.0], [-1.0, 1.0], [0.0, 0.0]])
    assert (trusted_mean(against, np.array([1.0, 0.0])) == 0).all()
    assert (trusted_mean(against, np.zeros(2)) == 0).all()


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.integers(1, 6), elements=st.floats(-3, 3)))
def test_the_projection_on_the_simplex(values: np.ndarray) -> None:
    found = project_simplex(values)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(project_simplex(found), found, atol=1e-12)
    np.testing.assert_allclose(project_simplex(values + 0.7), found, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_projection_is_what_a_solver_of_quadratic_programs_finds(seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(5)
    solved = minimize(
        lambda x: ((x - values) ** 2).sum(),
        np.full(5, 0.2),
        jac=lambda x: 2 * (x - values),
        bounds=[(0, None)] * 5,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: np.ones(5)},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(project_simplex(values), solved.x, atol=1e-6)


def test_a_group_below_the_noise_keeps_its_weight() -> None:
    half = MaxMin(rate=1.0)
    half.attach(q=0.2, noise=10.0)
    start = {
        "x": np.zeros(()),
        "extra.group_loss": np.zeros(2),
        "extra.group_count": np.zeros(2),
        "extra.group_weight": np.ones(2),
    }
    loud = {"x": np.ones(()), "extra.group_loss": np.ones(2), "extra.group_count": np.full(2, 0.5)}
    moved = half.step(start, [{**loud, "extra.group_weight": np.zeros(2)}])
    assert (moved["extra.group_weight"] == 1).all()
    assert float(moved["x"]) == 1.0


@pytest.mark.parametrize(("radius", "bound"), [(0.0, 2.5), (1.0, 1.0), (9.0, 2.5)])
def test_centred_clipping_bounds_messages_with_and_without_privacy(radius: float, bound: float) -> None:
    half = CentredClippingDevice(radius)
    assert half.bound(2.5, private=True) == half.bound(2.5, private=False) == bound


def test_a_clip_around_the_centre_follows_what_a_clip_around_zero_cannot() -> None:
    """Everybody moves by 0.65 a round and nobody may send more than 0.2: the centre catches up."""
    bed = toy.alike(5, 1000.0)
    around_zero, around_centre = toy.Run("fedavg", bed, clip=2.0), toy.Run("centred_clipping", bed, clip=2.0)
    left, right = around_zero.rounds(10), around_centre.rounds(10)
    assert float(np.linalg.norm(toy.flat(left))) == pytest.approx(20.0, rel=1e-4)
    assert float(np.linalg.norm(toy.flat(right))) == pytest.approx(2.0 * 55, rel=1e-4)  # 1 + 2 + ... + 10


def moved_by_a_nudge(name: str, clip: float) -> float:
    """How far the aggregate of two camps jumps when one person moves by a thousandth."""
    found = []
    for nudge in (-5e-4, 5e-4):
        centres = np.array([0.0, 0.1, 0.2, 0.5 + nudge, 0.8, 0.9, 1.0])
        bed = toy.one_d((1.0,) * 7, centres.tolist())
        run = toy.Run(name, bed, {"num_malicious_nodes": 2} if name == "krum" else {}, clip=clip)
        found.append(float(run.rounds(1)["x"]))
    return abs(found[1] - found[0])


@pytest.mark.parametrize("name", ["rfa", "centred_clipping"])
def test_small_changes_stay_small(name: str) -> None:
    assert moved_by_a_nudge(name, clip=0.3) < 2e-3


def test_krum_jumps_from_one_camp_to_the_other() -> None:
    """Guards the test above against testing nothing; and says what a minority has to expect of Krum."""
    assert moved_by_a_nudge("krum", clip=1.0) > 0.2
