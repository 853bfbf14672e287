"""The public grid that noise and everything it protects lie on.

A step is a power of two. What is protected is rounded to whole steps, toward zero, before anything is added:
no norm can grow by that. Noise is drawn in float64 and rounded to whole steps too. A sum of whole steps is
exact in float64 as long as it stays below 2^53 of them, so a released sum is, number by number,

    x + round(n) = round(x + n),   n Gaussian,

a function of what the Gaussian mechanism on x releases. It is no less private than that one, and no value of
it is within reach of one x and beyond the reach of a neighbour: what the low bits of floating-point noise
tell (Mironov, CCS 2012) is not there. Privacy does not hang on how fine the grid is; accuracy does, and at a
thousandth of the noise nothing is lost.
"""

from __future__ import annotations

import math

import numpy as np

BITS = 10  # a step is at most 2^-10 of the noise on one number, and at least half of that
LARGEST = 2**24 - 1  # whole steps that a float32 holds exactly, and more than any message needs


def grid_step(deviation: float, most: float, bits: int = BITS) -> float:
    """The grid of a message.

    Args:
        deviation: of the noise on one number of the sum (or of the message, where the device adds it).
        most: the largest number before noise, the clip.
        bits: how much finer than the noise.

    Returns:
        The largest power of two that is at most `deviation` 2^-bits; a larger one where `most` would
        otherwise be more steps than a float32 can count; 0, no grid, where there is no noise.
    """
    if deviation == 0:
        return 0.0
    return max(power_below(deviation) * 2.0**-bits, 2 * power_below(most) / 2**23)


def power_below(value: float) -> float:
    """The largest power of two that is at most `value`, which is above 0 and finite."""
    return math.ldexp(1.0, math.frexp(value)[1] - 1)


def is_step(value: float) -> bool:
    """Whether a number may be a grid's step: a power of two, or 0 for no grid."""
    return value == 0 or (0 < value < math.inf and power_below(value) == value)


def truncated(values: np.ndarray, step: float) -> np.ndarray:
    """Rounded toward zero to whole steps, float64 and without -0; as they are where there is no grid."""
    wide = np.asarray(values, np.float64)
    return wide if step == 0 else np.asarray(np.trunc(wide / step) * step + 0.0)


def rounded(values: np.ndarray, step: float) -> np.ndarray:
    """Rounded to the nearest whole step, float64."""
    return np.asarray(np.floor(np.asarray(values, np.float64) / step + 0.5) * step)


def clamped(values: np.ndarray, step: float) -> np.ndarray:
    """Held within what a float32 counts exactly; a public limit, out of the reach of an honest message."""
    return values if step == 0 else np.asarray(np.clip(values, -LARGEST * step, LARGEST * step))


def on_grid(values: np.ndarray, step: float, most: int = LARGEST) -> np.ndarray:
    """Which numbers are whole steps, at most `most` of them; all finite ones where there is no grid."""
    if step == 0:
        return np.asarray(np.isfinite(values))
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.asarray(values, np.float64) / step
        return np.asarray((np.rint(steps) == steps) & (np.abs(steps) <= most))
