"""A whole reward world in a moment: starter people, and an encoder that reads only the hash of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from commonground.config import Config
from commonground.randomness import generator
from commonground.recipe import resolve
from commonground.settings import config_from
from commonground.simulations.world import World, build_world
from commonground.training import features

SIZE = 16


class HashEncoder:
    """Stands in for `commonground.embeddings.Encoder`: unit vectors drawn from each text."""

    def __init__(self, base: str = "") -> None:
        self.name, self.digest = base, "hash"

    def kept_ids(self, text: str) -> tuple[tuple[int, ...], bool]:
        """Its letters, all of them."""
        return tuple(map(ord, text)), False

    def embed(self, texts: Sequence[str], progress: Any = None, *, keep: bool = True) -> np.ndarray:
        """(n, SIZE) float32, unit rows."""
        rows = np.stack([generator(0, "hash encoder", text).standard_normal(SIZE) for text in texts])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def tiny_config(**changes: Any) -> Config:
    """A resolved configuration of six people; `a__b=1` sets a.b."""
    values: dict[str, Any] = {
        "people": 6,
        "rounds": 3,
        "cohort": 3,
        "data": {"pairs_per_person": 8, "test_pairs": 6},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return resolve(config_from(values))


def tiny_world(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> World:
    """The world of `tiny_config`, read through the `HashEncoder`."""
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    return build_world(tiny_config(**changes))
