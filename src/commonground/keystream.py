"""Normal draws out of secret bytes: of a cipher's keystream, or of the operating system.

A 64-bit word makes one draw. Its lowest bit is the sign; the other 63 are a uniform number u in (0, 1/2),
held to a relative 2^-53, and the size is minus the inverse of the normal distribution at u. So a draw reaches
9.1 deviations, and rounded to a grid of a thousandth of a deviation each value is as likely as it should be,
to a relative 1e-11 (`tests/test_keystream.py`), as far as 2^-64 can count: at 8 deviations, beyond which lies
1.3e-15, to some percent.
"""

from __future__ import annotations

import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy.special import ndtri

KEY_BYTES = 32


def normals_of(words: np.ndarray) -> np.ndarray:
    """Standard normals of uniform 64-bit words, float64, of the same shape."""
    sizes = (words >> np.uint64(1)).astype(np.float64)
    sizes += 0.5
    sizes *= 2.0**-64
    ndtri(sizes, out=sizes)  # the lower half: below 0
    np.negative(sizes, out=sizes, where=(words & np.uint64(1)).astype(bool))
    return sizes


def keystream(key: bytes, count: int) -> np.ndarray:
    """`count` 64-bit words of ChaCha20 (RFC 8439) under a key of 32 bytes that makes nothing else."""
    cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(8 * count)), dtype="<u8")


def secret_normals(shape: tuple[int, ...], key: bytes) -> np.ndarray:
    """Standard normals of a key's stream, float64: the same for the same key and count."""
    return normals_of(keystream(key, math.prod(shape))).reshape(shape)
