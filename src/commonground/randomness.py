"""Randomness by name.

Every draw is made by a counter-based generator keyed by what the draw is for: (seed, purpose, person,
round, ...). Chunk size, order, process and runtime cannot change it. These streams are reproducible on
purpose, so they are for simulation: a deployed device draws its own noise from the operating system.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

import numpy as np
import torch

Name = Sequence[str | int]


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """A Philox generator for one named purpose.

    Args:
        seed: the run's seed.
        name: what the draw is for, e.g. ``("noise", "shared", 3)``; order matters.

    Returns:
        A generator whose 128-bit key is the SHA-256 of seed and name.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, name)))


def normal(shape: tuple[int, ...], seed: int, *name: str | int) -> torch.Tensor:
    """Standard normal draws for one named purpose, float32: not for noise, whose low bits would tell."""
    return torch.from_numpy(_at(seed, name).standard_normal(shape, dtype=np.float32))


def key(seed: int, *name: str | int) -> bytes:
    """32 bytes for one named purpose, SHA-256 of seed and name: the key of a cipher's stream."""
    return hashlib.sha256(_named(seed, name)).digest()


def coins(count: int, seed: int, *name: str | int) -> np.ndarray:
    """`count` uniform draws from [0, 1) for one named purpose, float64."""
    return _at(seed, name).random(count)


class Streams:
    """Streams whose names differ in two whole numbers, a person and a step: quicker to ask for one by one.

    Args:
        seed: the run's seed.
        before: the name's parts before the two numbers.
        after: its parts behind them.
    """

    def __init__(self, seed: int, before: Name, after: Name = ()) -> None:
        self._before = SEPARATOR.join([str(int(seed)), *map(_part, before), ""])
        self._after = "".join(SEPARATOR + _part(part) for part in after)

    def at(self, person: int, step: int) -> np.random.Generator:
        """`fleeting(seed, *before, person, step, *after)`."""
        return _set(_hash(f"{self._before}int:{person}{SEPARATOR}int:{step}{self._after}"))


SEPARATOR = "\x1f"


def _part(part: str | int) -> str:
    return f"{type(part).__name__}:{part}"


def _named(seed: int, name: Name) -> bytes:
    return SEPARATOR.join([str(int(seed)), *map(_part, name)]).encode()


def _key(seed: int, name: Name) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(_named(seed, name)).digest(), dtype=np.uint64, count=2)


def _hash(text: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint64, count=2)


class _Reused(threading.local):
    """One generator a thread, set to the start of another stream at each use.

    Making a Philox generator costs seven times what setting one costs, and a fleet asks for one a person,
    step and purpose.
    """

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=np.zeros(2, np.uint64))
        self.generator = np.random.Generator(self.bits)
        self.start = self.bits.state


_REUSED = _Reused()


def fleeting(seed: int, *name: str | int) -> np.random.Generator:
    """`generator`, several times quicker, and good only until the next draw by name in this thread."""
    return _at(seed, name)


def _at(seed: int, name: Name) -> np.random.Generator:
    return _set(_key(seed, name))


def _set(key: np.ndarray) -> np.random.Generator:
    """The thread's own generator at the start of a stream."""
    reused = _REUSED
    reused.start["state"]["key"] = key
    reused.bits.state = reused.start
    return reused.generator
