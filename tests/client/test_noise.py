"""Noise of the operating system: its law, that it repeats nothing, and that a tenth too little is seen."""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy import stats

from commonground.client.noise import SEED_BITS, secret_seed, standard_normals

DRAWS = 1_000_000
# Chances of failing by accident: about 6e-7 for each of the bounds of five deviations.
FIVE = 5.0


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    return standard_normals((DRAWS,))


def standardised(draws: np.ndarray) -> dict[str, float]:
    """Mean, variance, skewness and kurtosis, each as deviations from a normal's."""
    n = len(draws)
    return {
        "mean": draws.mean() * np.sqrt(n),
        "variance": (draws.var() - 1) / np.sqrt(2 / n),
        "skewness": stats.skew(draws) / np.sqrt(6 / n),
        "kurtosis": stats.kurtosis(draws) / np.sqrt(24 / n),
    }


def test_a_million_draws_are_standard_normal(draws: np.ndarray) -> None:
    found = standardised(draws)
    assert {name for name, value in found.items() if abs(value) > FIVE} == set(), found
    assert stats.kstest(draws, "norm").pvalue > 1e-6
    for beyond in (1.0, 2.0, 3.0):  # the tails, both sides
        expected = DRAWS * stats.norm.sf(beyond)
        for count in (int((draws > beyond).sum()), int((draws < -beyond).sum())):
            assert abs(count - expected) < FIVE * np.sqrt(expected)


def test_neighbours_are_independent(draws: np.ndarray) -> None:
    for lag in (1, 2, 8):
        assert abs(np.mean(draws[:-lag] * draws[lag:])) * np.sqrt(DRAWS - lag) < FIVE
        assert abs(np.corrcoef(draws[:-lag] ** 2, draws[lag:] ** 2)[0, 1]) * np.sqrt(DRAWS - lag) < FIVE


@pytest.mark.parametrize("factor", [0.9, 0.99, 1.01])
def test_noise_that_is_a_hundredth_off_would_be_seen(draws: np.ndarray, factor: float) -> None:
    assert abs(standardised(factor * draws)["variance"]) > FIVE


def test_the_words_of_the_kernel_become_their_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the lowest bit is the sign, the other 63 go from 9.16 deviations down to none."""
    words = np.array([0, 1, 2**63, 2**64 - 2], dtype=np.uint64)
    monkeypatch.setattr(os, "urandom", lambda count: words.tobytes()[:count])
    low, high, middle, least = standard_normals((4,))
    assert high == pytest.approx(-stats.norm.ppf(2.0**-65), rel=1e-12)
    assert high == pytest.approx(9.155, abs=1e-3)
    assert low == -high
    assert middle == pytest.approx(stats.norm.ppf(0.25), rel=1e-12)
    assert abs(least) < 1e-15


def test_shapes_and_a_fresh_draw_each_time() -> None:
    assert standard_normals(()).shape == ()
    assert standard_normals((2, 3)).shape == (2, 3)
    assert standard_normals((0, 3)).shape == (0, 3)
    first, second = standard_normals((64,)), standard_normals((64,))
    assert len(np.intersect1d(first, second)) == 0


def test_a_fork_draws_its_own() -> None:
    """No state that a child process would inherit: both sides of a fork draw different noise."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, standard_normals((8,)).tobytes())
        os._exit(0)
    own = standard_normals((8,))
    os.waitpid(child, 0)
    other = np.frombuffer(os.read(reader, 64))
    os.close(reader)
    os.close(writer)
    assert len(np.intersect1d(own, other)) == 0


def test_secret_seeds_are_long_and_never_the_same() -> None:
    seeds = [secret_seed() for _ in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**SEED_BITS for seed in seeds)
    ones = np.mean([[seed >> bit & 1 for bit in range(SEED_BITS)] for seed in seeds])
    assert abs(ones - 0.5) < FIVE * 0.5 / np.sqrt(1000 * SEED_BITS)
