"""The coins of randomised response: one for each comparison, found by what was compared.

A choice is protected because one coin decided, once, whether it is reported the other way round. A second
coin for the same choice would be a second answer to the same question. So a coin is drawn under the name of
its comparison: the two answers, whichever of them was preferred. It does not depend on the place in a table,
on what else was said, or on which of a run's adapters learns from it.

Who compares the same two answers twice has two coins, told apart by a number in the order in which she said
it: with one coin for both, two reports that differ would show that the choices did.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from commonground.privacy.mechanisms import randomised_response
from commonground.randomness import fleeting


def pair_name(one: str, other: str) -> str:
    """The name of a comparison: 128 bits over both answers, the same whichever comes first."""
    parts = (f"{len(text)}:{text}" for text in sorted((one, other)))
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def numbered(names: Iterable[str]) -> list[str]:
    """Names of comparisons, the oldest first, with a number behind each that tells repeats apart."""
    seen, found = Counter[str](), []
    for name in names:
        found.append(f"{name} {seen[name]}")
        seen[name] += 1
    return found


def flips(names: Sequence[str], probability: float, seed: int, person: int) -> np.ndarray:
    """Which choices of a person are reported flipped, (B,) bool.

    Args:
        names: of her comparisons, each its own (`numbered`).
        probability: of a flip. Part of the coin's name: one draw for two probabilities would tell the choice
            for certain, where it falls between them.
        seed: of the coins: for one person on her device, one for good.
        person: number in the run.

    Raises:
        ValueError: two comparisons have one name.
    """
    if len(set(names)) != len(names):
        raise ValueError("two comparisons of one person have the same name, and would share a coin")
    coins = (fleeting(seed, "label", repr(probability), person, name) for name in names)
    return np.array([randomised_response(1, probability, coin)[0] for coin in coins], dtype=bool)
