"""P1: safety pairs the wrong way round. Qi et al., ICLR 2024, arXiv 2310.03693 (harmful examples)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commonground.simulations.device_attacks.base import Attack, Scene, learn, preferring
from commonground.training.model import Tensors


@dataclass(frozen=True)
class Inverted(Attack):
    """Every unsafe answer is preferred to the safe one."""

    code = "P1"
    says = "the unsafe answer of every public safety pair is preferred to the safe one"

    def private(self, scene: Scene, draws: np.random.Generator) -> Tensors:
        """See `Attack`."""
        pairs = [preferring(pair.prompt, pair.unsafe, pair.safe) for pair in scene.pairs]
        return learn(scene, pairs, draws)
