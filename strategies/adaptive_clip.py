r"""An adapted clip around any linear strategy: C_t follows the median of people's update norms.

    device:  sends clip_{C_t}(x_i) and one bit, 1[||x_i|| <= C_t] - 1/2, outside the clip
    server:  releases sum_i x_i + N(0, (z_Delta C_t)^2 I)  and  sum_i bits + N(0, s_b^2)
             C_{t+1} is computed from the second

Equations, letters and source: `commonground.privacy.adaptive_clip`. Both sums are over the same cohort, and
together they cost what one release of multiplier z costs. C_{t+1} is computed from what is released, so it
may travel in the next messages in clear. A device refuses a C_t above its manifest's `clip`. Flower's own
adaptive clip moves the wrong way (1.42: its bit says "was clipped" and enters with the sign of "was not"),
so it is not used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from commonground.clipping import BIT
from commonground.grid import grid_step
from commonground.keystream import secret_normals
from commonground.privacy.adaptive_clip import AdaptiveClip
from commonground.privacy.mechanisms import noised_sum
from commonground.randomness import key
from commonground.strategies.central_noise import CentralNoise


class AdaptedClip(CentralNoise):
    """See the module's text.

    Args:
        public: what is public about the clip.
        seed: the run's seed.
    """

    def __init__(self, public: AdaptiveClip, seed: int) -> None:
        super().__init__(public.update_multiplier, public.start, seed)
        self.public = public

    @property
    def asked(self) -> dict[str, float]:
        """C_t."""
        return {"clip": self.clip}

    def count(self, round: int, bits: float) -> None:
        """Noise the sum of bits, and move the clip."""
        noise = self.public.bit_noise
        if noise > 0:
            step = min(BIT, grid_step(noise, BIT))  # a bit is a whole number of them
            draw = secret_normals((1,), key(self.seed, "bit noise", round))
            bits = float(noised_sum(np.array([bits]), draw, noise, step)[0])
        self.clip = self.public.after(self.clip, bits)

    def state_dict(self) -> dict[str, Any]:
        """C of the next round."""
        return {"clip": self.clip}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from it."""
        self.clip = float(state["clip"])
