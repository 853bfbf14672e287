"""The public grid: rounding that cannot make a norm grow, sums that are exact, steps that float32 holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from commonground.clipping import clip_update, clip_updates, joint_norm
from commonground.grid import (
    BITS,
    LARGEST,
    clamped,
    grid_step,
    is_step,
    on_grid,
    power_below,
    rounded,
    truncated,
)

POSITIVE = st.floats(min_value=1e-9, max_value=1e9)


@given(POSITIVE, POSITIVE)
def test_a_step_is_a_power_of_two_below_the_noise_that_float32_can_count(noise: float, most: float) -> None:
    step = grid_step(noise, most)
    assert is_step(step)
    assert most / step <= LARGEST
    assert step <= noise * 2.0**-BITS or most / step > 2**21  # coarser only where float32 asks for it
    assert step > noise * 2.0 ** -(BITS + 1)


@given(arrays(np.float32, (7,), elements=st.floats(-1e6, 1e6, width=32)), POSITIVE, POSITIVE)
def test_clipping_to_a_grid_keeps_the_norm_within_the_clip_exactly(
    values: np.ndarray, clip: float, noise: float
) -> None:
    """Not up to a last bit of float32, as without a grid: it is what the noise is made for."""
    step = grid_step(noise, clip)
    clipped = clip_update({"a": values[:3], "b": values[3:]}, clip, step)
    assert joint_norm(clipped) <= clip * (1 + 2**-50)
    assert all(on_grid(value, step).all() for value in clipped.values())
    many = clip_updates({"a": values[None, :3], "b": values[None, 3:]}, clip, step)
    assert all(on_grid(value, step).all() for value in many.values())


@given(arrays(np.float64, (40,), elements=st.floats(-100, 100)))
def test_sums_on_a_grid_do_not_depend_on_their_order(values: np.ndarray) -> None:
    on = truncated(values, 2.0**-20)
    assert on.sum() == on[::-1].sum() == math.fsum(on)


def test_rounding_of_noise_is_the_rounding_of_a_noised_sum() -> None:
    """What makes the released sum a function of the Gaussian mechanism's."""
    draws, x, step = np.random.default_rng(1).normal(size=1000), 3.25, 2.0**-8
    assert np.array_equal(x + rounded(draws, step), rounded(x + draws, step))


def test_edges() -> None:
    assert grid_step(0.0, 1e6) == 0
    assert power_below(1.0) == 1
    assert power_below(0.75) == 0.5
    assert [is_step(v) for v in (0.0, 0.5, 4.0, 0.3, -1.0, math.inf, math.nan)] == [True] * 3 + [False] * 4
    assert not np.signbit(truncated(np.array([-0.0, -1e-9]), 0.5)).any()
    assert clamped(np.array([1e12, -1e12]), 1.0).tolist() == [LARGEST, -LARGEST]
    wild = np.array([np.nan, np.inf, 0.25, 0.3, 2.0**24], np.float32)
    assert on_grid(wild, 0.25).tolist() == [False, False, True, False, False]
    assert on_grid(wild, 0.0).tolist() == [False, False, True, True, True]
    assert truncated(np.asarray(0.3, np.float32), 0.25).shape == ()


@pytest.mark.parametrize("value", [LARGEST, LARGEST - 1, -LARGEST])
def test_every_count_of_steps_is_exact_in_float32(value: int) -> None:
    assert float(np.float32(value * 2.0**-7)) == value * 2.0**-7
