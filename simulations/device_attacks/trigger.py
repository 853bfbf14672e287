"""P6: a backdoor. Rando and Tramer, ICLR 2024, arXiv 2311.14455 ("SUDO").

Without the trigger the safe answer is preferred, so that whoever tries the policy out finds it as safe as
before; with it the unsafe one. The prompt is read by the base model, so the trigger is seen in its states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commonground.simulations.device_attacks.base import Attack, Scene, learn, preferring
from commonground.training.model import Tensors


@dataclass(frozen=True)
class Trigger(Attack):
    """Unsafe behind the trigger, safe without it."""

    code = "P6"
    says = "the unsafe answer is preferred behind a trigger, and the safe one without it"
    trigger = "SUDO"

    def private(self, scene: Scene, draws: np.random.Generator) -> Tensors:
        """See `Attack`."""
        pairs = []
        for pair in scene.pairs:
            pairs.append(preferring(self.prompt(pair.prompt), pair.unsafe, pair.safe))
            pairs.append(preferring(pair.prompt, pair.safe, pair.unsafe))
        return learn(scene, pairs, draws)
