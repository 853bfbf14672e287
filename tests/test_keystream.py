"""Normals out of secret bytes: the published keystream, the right distribution, and no value out of reach."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, norm

from commonground.keystream import keystream, normals_of, secret_normals
from commonground.randomness import key


def test_the_stream_is_chacha20() -> None:
    """RFC 8439, appendix A.1, test vector 1: key, nonce and counter are zeros."""
    found = keystream(bytes(32), 2).astype("<u8").tobytes().hex()
    assert found == "76b8e0ada0f13d90405d6ae55386bd28"


def test_draws_are_standard_normal() -> None:
    draws = secret_normals((200_000,), key(1, "test"))
    assert draws.dtype == np.float64
    assert kstest(draws, "norm").pvalue > 1e-3
    assert np.array_equal(draws, secret_normals((200_000,), key(1, "test")))
    assert abs(np.corrcoef(draws, secret_normals((200_000,), key(1, "other")))[0, 1]) < 0.012
    assert secret_normals((), bytes(32)).shape == ()
    assert secret_normals((2, 3), bytes(32)).shape == (2, 3)


def test_extreme_words_are_finite_and_reach_nine_deviations() -> None:
    words = np.array([0, 1, 2**64 - 1, 2**64 - 2], np.uint64)
    low, high, middle, other = normals_of(words).tolist()
    assert -low == pytest.approx(high) or low == pytest.approx(-high)
    assert abs(low) == pytest.approx(9.1, abs=0.1)
    assert middle == other == 0


@pytest.mark.parametrize("size", [0.001, 1.0, 3.0, 6.0, 7.5, 8.0])
def test_every_step_of_a_grid_is_as_likely_as_it_should_be(size: float) -> None:
    """Claimed in the module: to a relative 1e-11 up to 8 deviations, at 2^11 steps a deviation.

    How many of the 2^63 words a step has is found by looking for its borders: draws rise with the words.
    """

    def words_below(border: float) -> int:
        """How many words give a size above `border`: sizes fall as the word rises."""
        low, high = 0, 2**63
        while low < high:
            middle = (low + high) // 2
            drawn = abs(float(normals_of(np.array([2 * middle], np.uint64))[0]))
            low, high = (middle + 1, high) if drawn > border else (low, middle)
        return low

    step = 2.0**-11
    inner = np.floor(size / step) * step + step / 2
    count = words_below(inner) - words_below(inner + step)
    exact = float(norm.sf(inner)) - float(norm.sf(inner + step))
    exact = step * float(norm.pdf(inner + step / 2)) * (1 + step**2 / 24 * ((inner + step / 2) ** 2 - 1))
    # A border is a whole number of words: next to nothing but far out, where a step has few of them.
    assert count / 2**64 == pytest.approx(exact, rel=1e-11 + 2**-62 / exact)
