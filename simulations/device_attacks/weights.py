"""P4: weights written for harm, past the device's feedback.

Adam on the negative log-likelihood of unsafe answers at a rate that never falls, without a pull towards zero,
a clip or a reference: the norm of the adapter has no bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commonground.simulations.device_attacks.base import Attack, Scene, learn, preferring
from commonground.training.model import Tensors


@dataclass(frozen=True)
class Weights(Attack):
    """The likelihood of unsafe answers is climbed directly."""

    code = "P4"
    says = "the likelihood of unsafe answers is climbed with no bound on the adapter's norm"

    def private(self, scene: Scene, draws: np.random.Generator) -> Tensors:
        """See `Attack`."""
        pairs = [preferring(pair.prompt, pair.unsafe, pair.safe) for pair in scene.pairs]
        return learn(scene, pairs, draws, loss="sft", decay=False)
