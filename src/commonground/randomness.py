"""Randomness by name.

Every draw is made by a counter-based generator keyed by what the draw is for: (seed, purpose, person,
round, ...). Chunk size, order, process and runtime cannot change it. These streams are reproducible on
purpose, so they are for simulation: a deployed device draws its own noise from the operating system.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """A Philox generator for one named purpose.

    Args:
        seed: the run's seed.
        name: what the draw is for, e.g. ``("noise", "shared", 3)``; order matters.

    Returns:
        A generator whose 128-bit key is the SHA-256 of seed and name.
    """
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in name)])
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))


def normal(shape: tuple[int, ...], seed: int, *name: str | int) -> torch.Tensor:
    """Standard normal draws for one named purpose, float32, of the given shape."""
    return torch.from_numpy(generator(seed, *name).standard_normal(shape, dtype=np.float32))
