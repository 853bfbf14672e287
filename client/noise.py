"""Noise of a deployed device: drawn from the operating system, never from a seed.

The promise that a message makes holds against whoever knows everything about the device but this noise, so
it must not be predictable. Every number is one 64-bit word of `os.urandom`, the kernel's cryptographic
generator: its upper 52 bits, as a multiple of 2^-52 plus half a step (exact in float64, which 53 bits would
not be), are a uniform number in (0, 1), and the inverse of the normal distribution makes a standard normal of
it. A generator seeded once from the operating system would be quicker, but whoever learned its state would
know all noise before and after; nothing here has a state.

The draws are float64 and are rounded once, when they are added in float32. Like every noise in floating
point they reach no further than the grid does (here 8.2 deviations), and low bits of a sum can tell about its
parts (Mironov, CCS 2012): the claim is one for real numbers, and docs/privacy.md says so.
"""

from __future__ import annotations

import math
import os
import secrets

import numpy as np
from scipy.special import ndtri

SEED_BITS = 128


def standard_normals(shape: tuple[int, ...]) -> np.ndarray:
    """Independent standard normal draws of the operating system, float64, of the given shape."""
    count = math.prod(shape)
    words = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
    uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return np.asarray(ndtri(uniform)).reshape(shape)


def secret_seed() -> int:
    """A fresh seed of 128 bits for the local update of one lifetime of one private adapter.

    Training draws its batches, and the noise of a private adapter, from counter-based streams
    (`commonground.randomness`) under a key that is the SHA-256 of this seed and the name of the draw. So what
    hides a comparison in a private adapter is as secret as the seed, which is kept in the encrypted store and
    nowhere else: whoever opens the store reads the comparisons themselves. Philox, the generator under that
    key, passes statistical tests and is no cipher; the noise of a message that leaves is `standard_normals`.
    """
    return secrets.randbits(SEED_BITS)
