"""Noise of a deployed device: drawn from the operating system, never from a seed.

The promise that a message makes holds against whoever knows everything about the device but this noise, so
it must not be predictable. Every number is one 64-bit word of `os.urandom`, the kernel's cryptographic
generator (`commonground.keystream.normals_of`). A generator seeded once from the operating system would be
quicker, but whoever learned its state would know all noise before and after; nothing here has a state.
"""

from __future__ import annotations

import math
import os
import secrets

import numpy as np

from commonground.keystream import normals_of

SEED_BITS = 128


def standard_normals(shape: tuple[int, ...]) -> np.ndarray:
    """Independent standard normal draws of the operating system, float64, of the given shape."""
    words = np.frombuffer(os.urandom(8 * math.prod(shape)), dtype=np.uint64)
    return normals_of(words).reshape(shape)


def secret_seed() -> int:
    """A fresh seed of 128 bits for the local update of one lifetime of one private adapter.

    Training draws its batches, and the noise of a private adapter, from counter-based streams
    (`commonground.randomness`) under a key that is the SHA-256 of this seed and the name of the draw. So what
    hides a comparison in a private adapter is as secret as the seed, which is kept in the encrypted store and
    nowhere else: whoever opens the store reads the comparisons themselves. Philox, the generator under that
    key, passes statistical tests and is no cipher; the noise of a message that leaves is `standard_normals`.
    """
    return secrets.randbits(SEED_BITS)
