"""Banded noise around strategies: the rota, the same noise on resume, hand arithmetic."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_bed
import toy_grid as toy
from hypothesis import given, settings
from hypothesis import strategies as st

from commonground.keystream import secret_normals
from commonground.privacy.banded import BandedNoise, correlate, inverse_coefficients
from commonground.randomness import key
from commonground.server.checkpoint import load_state, save_state
from commonground.strategies.banded import Banded
from commonground.strategies.cohort import draw_cohort
from commonground.strategies.person_dp import Arrays, PersonLevel
from commonground.strategies.registry import LINEAR, STRATEGIES

# The bed has no two low-rank factors.
NAMES = sorted(name for name in LINEAR if not getattr(STRATEGIES[name], "factors", ""))
BAND, TIMES, Z = 3, 4, 0.7
SENS = BandedNoise(BAND, TIMES, Z).sensitivity
STEP = 2.0**-9


def banded(rounds: int = 9, clip: float = 2.0, z: float = Z) -> Banded:
    return Banded(BandedNoise(BAND, TIMES, z), clip, 3, rounds)


def wrap(**changes: Any) -> PersonLevel:
    given: dict[str, Any] = {
        "people": 12, "q": 1 / 3, "m": 4.0, "noise_multiplier": Z, "rounds": 9,
        "manifest": toy.manifest(2.0, grid=STEP),
    }  # fmt: skip
    return toy.wrap(**given | {"mechanism": banded()} | changes)


def still(round: int, person: int, shared: Arrays) -> Arrays:
    return toy.constant(0.0)


def expected(rounds: int) -> np.ndarray:
    """(T, 8) zt of every round by the matrix, in the units of the mean over m = 4."""
    draws = [secret_normals((8,), key(3, "noise", t)) for t in range(1, rounds + 1)]
    return Z * 2.0 * SENS * correlate(np.stack(draws), BAND) / 4


def test_what_is_released_is_c_inverse_z() -> None:
    wrapper, shared, moves = wrap(), toy.constant(0.0), []
    for round in range(1, 10):
        after = toy.run_round(wrapper, round, shared, still)
        moves.append(toy.flat(after) - toy.flat(shared))
        shared = after
    np.testing.assert_allclose(np.stack(moves), expected(9), atol=STEP / 8 + 2e-6)
    np.testing.assert_allclose(toy.flat(shared), expected(9).sum(0), atol=9 * STEP / 8 + 2e-6)


def test_noise_of_a_round_is_the_same_whenever_it_is_asked_for() -> None:
    straight, skipping, total = banded(), banded(), np.zeros(8)
    noises = [straight.noised(round, total, STEP) for round in range(1, 10)]
    for round in (7, 7, 2, 9):
        np.testing.assert_array_equal(skipping.noised(round, total, STEP), noises[round - 1])
    assert straight.state_dict() == {}
    assert banded(z=0.0).noised(4, total, STEP) is total


def test_scale_is_the_deviation_of_the_last_round() -> None:
    row = np.linalg.norm(inverse_coefficients(BAND, 9))
    assert banded().scale == pytest.approx(Z * 2.0 * SENS * row)
    assert banded(z=0.0).scale == 0.0


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 12), st.floats(0.05, 1))
def test_nobody_comes_twice_within_the_band(seed: int, band: int, share: float) -> None:
    last = np.full(60, -band)
    for round in range(1, 40):
        drawn = draw_cohort(seed, round, np.arange(60), share / band, band)
        assert (round - last[drawn] >= band).all()
        last[drawn] = round
    if share == 1:
        assert (last >= 40 - band).all()


def test_as_many_come_as_without_a_rota() -> None:
    sizes = [len(draw_cohort(4, round, np.arange(600), 0.1, 5)) for round in range(1, 201)]
    assert np.mean(sizes) == pytest.approx(60, abs=2)  # 200 rounds: standard error 0.5 and the sizes of turns
    few = draw_cohort(4, 3, np.arange(0, 600, 2), 0.1, 5).tolist()
    assert few == [p for p in draw_cohort(4, 3, np.arange(600), 0.1, 5).tolist() if p % 2 == 0]


def test_the_cap_ends_a_persons_visits() -> None:
    wrapper, shared = wrap(participations=2, noise_multiplier=0.0, mechanism=banded(z=0.0)), toy.constant(0.0)
    for round in range(1, 10):
        shared = toy.run_round(wrapper, round, shared, still)
    np.testing.assert_array_equal(wrapper.taken_part, np.full(12, 2))


@pytest.mark.parametrize("name", NAMES)
def test_every_linear_strategy_goes_with_it_and_resumes(name: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"noise_multiplier": Z, "q": 1 / 3, "m": 3.0, "rounds": 6}
    run = toy_bed.Run(name, toy_bed.spread(9), clip=3.0, changes=changes | {"mechanism": banded(6, 3.0)})
    shared = run.rounds(3)
    assert run.wrapper.counts["refused"] == 0
    if hasattr(run.wrapper.inner, "noise"):
        row = np.linalg.norm(inverse_coefficients(BAND, 6))
        assert run.wrapper.inner.noise == pytest.approx(Z * 3.0 * SENS * float(row) / 3)
    save_state(tmp_path / "state.npz", run.wrapper.state_dict())
    run.changes = changes | {"mechanism": banded(6, 3.0)}
    resumed, state = run.wrap(), load_state(tmp_path / "state.npz")
    assert state is not None
    resumed.load_state_dict(state)
    went_on = run.round(4, shared)
    again = run.round(4, resumed.current, wrapper=resumed)
    assert toy_bed.bits(again) == toy_bed.bits(went_on)
    assert math.isfinite(float(np.abs(toy_bed.flat(again)).max()))
