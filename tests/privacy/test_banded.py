"""Banded noise in numbers: the golden table, the matrices, the covariance, the claim and its words."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonground.errors import ConfigError
from commonground.privacy.accounting import epsilon_composed, epsilon_gaussian
from commonground.privacy.banded import (
    BandedNoise,
    coefficients,
    correlate,
    decoder_matrix,
    inverse_coefficients,
    may_join,
    prefix_error,
    strategy_matrix,
)
from commonground.privacy.claims import SharedClaim, shared_claim
from commonground.privacy.statement import statement

ROUNDS = 200
TABLE = {1: (1.0, 141.8), 5: (1.2502, 33.0), 10: (1.3384, 18.1), 50: (1.5198, 5.4), 200: (1.659, 2.6)}


def claim(**changes: Any) -> SharedClaim:
    values: dict[str, Any] = {
        "people": 500, "cohort": 50, "rounds": 40, "epsilon_target": 8.0, "clip": 0.5, "mechanism": "banded",
    }  # fmt: skip
    return shared_claim(**values | changes)


@pytest.mark.parametrize("band", sorted(TABLE))
def test_the_golden_table(band: int) -> None:
    """methods N6, T = 200, k = ceil(T / b)."""
    norm, error = TABLE[band]
    times = math.ceil(ROUNDS / band)
    assert BandedNoise(band, times, 1.0).column_norm == pytest.approx(norm, abs=6e-5)
    assert prefix_error(band, ROUNDS, times) == pytest.approx(error, abs=0.06)
    matrix = strategy_matrix(band, ROUNDS)
    assert np.linalg.norm(matrix, axis=0).max() == pytest.approx(norm, abs=6e-5)


@given(st.integers(1, 40), st.integers(1, 40))
def test_b_times_c_is_the_sum_over_rounds(band: int, rounds: int) -> None:
    product = decoder_matrix(band, rounds) @ strategy_matrix(band, rounds)
    np.testing.assert_allclose(product, np.tril(np.ones((rounds, rounds))), atol=1e-12)
    assert inverse_coefficients(band, rounds)[0] == 1.0


def test_the_coefficients_are_those_of_one_over_the_root() -> None:
    """(1 - x)^(-1/2) = 1 + x/2 + 3x^2/8 + 5x^3/16 ...; squared it is 1 + x + x^2 + ..."""
    np.testing.assert_allclose(coefficients(4), [1, 1 / 2, 3 / 8, 5 / 16])
    whole = strategy_matrix(30, 30)
    np.testing.assert_allclose(whole @ whole, np.tril(np.ones((30, 30))), atol=1e-12)


def test_a_band_of_one_is_fresh_noise_and_one_visit_is_the_plain_gaussian() -> None:
    """methods E6: k = 1 and C = I equals the plain Gaussian of multiplier z."""
    fresh = np.random.default_rng(0).standard_normal((20, 3))
    np.testing.assert_array_equal(correlate(fresh, 1), fresh)
    assert BandedNoise(1, 1, 3.0).sensitivity == 1.0
    found = claim(band=1, participations=1)
    assert found.epsilon == pytest.approx(epsilon_gaussian(1 / found.noise_multiplier, found.delta))


def test_one_person_moves_c_g_by_sens_and_no_more() -> None:
    """Every pattern of at most k visits at least b apart, over the norm of C's columns together."""
    band, times, rounds = 4, 3, 17
    matrix, most = strategy_matrix(band, rounds), BandedNoise(band, times, 1.0).sensitivity
    found = 0.0
    for first in range(rounds):
        for second in range(first + band, rounds):
            for third in range(second + band, rounds):
                found = max(found, float(np.linalg.norm(matrix[:, [first, second, third]].sum(1))))
    assert found == pytest.approx(most, rel=1e-12)
    early = float(np.linalg.norm(matrix[:, [0, 2, 4]].sum(1)))
    assert early > most * 1.1  # what the separation is for


def test_released_sums_have_the_covariance_of_b() -> None:
    """methods E6: the noise of the iterates, B Z, has covariance B B^T; 20,000 draws, 5 standard errors."""
    rounds, draws = 6, 20_000
    noise = np.cumsum(correlate(np.random.default_rng(1).standard_normal((rounds, draws)), 3), axis=0)
    decoder = decoder_matrix(3, rounds)
    wanted = decoder @ decoder.T
    error = np.sqrt((np.outer(wanted.diagonal(), wanted.diagonal()) + wanted**2) / draws)
    assert (np.abs(noise @ noise.T / draws - wanted) < 5 * error).all()


@pytest.mark.parametrize(
    ("times", "z", "epsilon"), [(1, 4, 1.061), (4, 4, 2.254), (10, 4, 3.747), (10, 8, 1.743)]
)
def test_visits_without_amplification(times: int, z: float, epsilon: float) -> None:
    """methods E8: k visits of multiplier z each, at delta 1e-6."""
    assert epsilon_composed([(1.0, z, times)], 1e-6, "gaussian") == pytest.approx(epsilon, abs=5e-4)
    # Banded noise calibrated to z / sqrt(k) for the whole run charges each visit z.
    found = claim(participations=times, rounds=100, band=10)
    each = found.charge(1).noise_multiplier
    assert each == pytest.approx(found.noise_multiplier * math.sqrt(times))
    assert found.epsilon == pytest.approx(epsilon_composed([(1.0, each, times)], found.delta, "gaussian"))


def test_the_claim_is_one_gaussian_without_sampling() -> None:
    found = claim()
    assert found.banded is not None
    assert (found.banded.band, found.participations) == (10, 4)  # people / cohort; ceil(40 / 10)
    assert found.epsilon == pytest.approx(epsilon_gaussian(1 / found.noise_multiplier, found.delta), rel=1e-9)
    assert 7.97 < found.epsilon <= 8
    spent = [found.epsilon_after(t) for t in range(41)]
    assert spent == sorted(spent)
    assert spent[0] == 0
    assert spent[1] == spent[10] < spent[11]
    assert spent[40] == found.epsilon
    assert "rota" not in found.neighbours
    values = json.loads(json.dumps(found.to_dict()))
    assert values["banded"]["band"] == 10
    assert values["banded"]["sensitivity"] == pytest.approx(2 * found.banded.column_norm)
    assert "banded" not in shared_claim(people=500, cohort=50, rounds=40).to_dict()
    assert claim(epsilon_target=math.inf).epsilon == math.inf


def test_what_does_not_go_together_is_one_line() -> None:
    with pytest.raises(ConfigError, match="found 11; accepted: 1 to 10") as caught:
        claim(band=11)
    assert len(caught.value.faults) == 1
    for wrong in (
        {"trust": "local"},
        {"unit": "comparison", "pair_sampling": 0.2},
        {"adaptive": True},
    ):
        with pytest.raises(ConfigError, match="mechanism is banded with unit"):
            claim(**wrong)


def test_the_statement_says_every_number() -> None:
    found = claim()
    assert found.banded is not None
    text = statement(found, None, people=500, released=["u"], unit_words=[])
    for number in (found.noise_multiplier, found.banded.sensitivity, found.banded.column_norm, found.epsilon):
        assert f"{number:.4g}" in text
    for words in ("band b = 10", "T = 40 rounds", "k = 4 rounds", "at least 10 apart", "C = 0.5",
                  "No amplification by sampling is claimed", "is not hidden"):  # fmt: skip
        assert words in text
    assert "secret coin" not in text
    assert "charged every round" not in text


def test_who_may_join() -> None:
    assert may_join(0, 0, 1, participations=2, band=5)
    assert may_join(1, 3, 8, participations=2, band=5)
    assert not may_join(1, 3, 7, participations=2, band=5)
    assert not may_join(2, 3, 20, participations=2, band=5)
