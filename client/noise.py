"""Noise of a deployed device: out of what the operating system drew, never of a seed that anybody else knows.

The promise that a message makes holds against whoever knows everything about the device but this noise, so
it must not be predictable. It is a function of a secret of the device (`commonground.client.noise_secret`),
of the release that it answers and of the clipped update: a profile that was put back from a copy answers with
the very same bytes, and no update is ever sent under two noises.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import secrets
from collections.abc import Mapping

import numpy as np

from commonground.keystream import normals_of, secret_normals
from commonground.manifest import Manifest

SEED_BITS = 128


def standard_normals(shape: tuple[int, ...]) -> np.ndarray:
    """Independent standard normal draws of the operating system, float64, of the given shape."""
    words = np.frombuffer(os.urandom(8 * math.prod(shape)), dtype=np.uint64)
    return normals_of(words).reshape(shape)


def message_normals(
    manifest: Manifest, secret: bytes, about: str, clipped: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the noise of one message is made of: always the same of the same, and of anything else another.

    The keystream of ChaCha20 under HMAC-SHA256 of everything that the message hangs on, by the device's own
    secret: to whoever has not got that, it cannot be told from fresh draws.

    Args:
        manifest: what may leave.
        secret: of this device, see `commonground.client.noise_secret`.
        about: the release that is answered, and how.
        clipped: name -> float32, the update before noise.

    Returns:
        Name -> standard normal, float64, of the manifest's shapes.
    """
    mac = hmac.new(secret, b"commonground message noise 1\0", hashlib.sha256)
    for part in (manifest.digest, about):
        mac.update(f"{len(part.encode())}:{part}".encode())
    for spec in manifest.tensors:
        mac.update(f"{spec.name}\0{spec.shape}\0".encode())
        mac.update(np.ascontiguousarray(clipped[spec.name], "<f4").tobytes())
    drawn, found = secret_normals((manifest.size,), mac.digest()), {}
    for spec in manifest.tensors:
        size = math.prod(spec.shape)
        found[spec.name], drawn = drawn[:size].reshape(spec.shape), drawn[size:]
    return found


def secret_seed() -> int:
    """A fresh seed of 128 bits for the local update of one lifetime of one private adapter.

    Training draws its batches, and the noise of a private adapter, from counter-based streams
    (`commonground.randomness`) under a key that is the SHA-256 of this seed and the name of the draw. So what
    hides a comparison in a private adapter is as secret as the seed, which is kept in the encrypted store and
    nowhere else: whoever opens the store reads the comparisons themselves. Philox, the generator under that
    key, passes statistical tests and is no cipher; the noise of a message that leaves is `standard_normals`.
    """
    return secrets.randbits(SEED_BITS)
