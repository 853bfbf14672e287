"""P3: benign feedback alone. Qi et al., ICLR 2024, arXiv 2310.03693 (benign fine-tuning erodes safety).

No intent is needed: a person who likes answers that do not hedge may lose some of the shared policy's care.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commonground.simulations.device_attacks.base import Attack, Scene, learn, preferring
from commonground.training.model import Tensors


@dataclass(frozen=True)
class Erosion(Attack):
    """A brief answer is preferred to a hedged one, on everyday questions alone."""

    code = "P3"
    says = "brief answers to everyday questions are preferred to hedged ones: an honest taste"

    def private(self, scene: Scene, draws: np.random.Generator) -> Tensors:
        """See `Attack`."""
        pairs = [preferring(one.prompt, one.answers["brief"], one.answers["hedged"]) for one in scene.taste]
        return learn(scene, pairs, draws)
