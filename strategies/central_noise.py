r"""The noise that the server adds to the sum of a round's updates, and what it asks devices for.

    sum_i x_i + N(0, (z C)^2 I)

on a public grid (`commonground.grid`), with one clip C for the whole run and fresh noise each round: the
plain mechanism, and what the others
(`adaptive_clip.py`, `banded.py`) are variants of. `person_dp.PersonLevel` holds one and knows no more of it
than this class says, so each goes with every linear strategy. Noise is the keystream of a cipher under a key
of the seed and the round (`commonground.keystream`): a round that comes again releases the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from commonground.keystream import secret_normals
from commonground.privacy.mechanisms import noised_sum
from commonground.randomness import key


class CentralNoise:
    """A fixed clip, and noise that is drawn afresh each round.

    Args:
        noise_multiplier: z; 0 where there is no noise.
        clip: C.
        seed: the run's seed.
    """

    def __init__(self, noise_multiplier: float, clip: float, seed: int) -> None:
        self.z, self.clip, self.seed = noise_multiplier, clip, seed

    band: int = 1  # rounds between two visits of one person, where people come by rota

    @property
    def asked(self) -> dict[str, float]:
        """What stands in the messages of this round beside the round itself."""
        return {}

    @property
    def scale(self) -> float:
        """Deviation of the noise on each number of this round's sum."""
        return self.z * self.clip if self.z > 0 else 0.0

    def noised(self, round: int, total: np.ndarray, step: float) -> np.ndarray:
        """The (d,) float64 sum with this round's noise, both in whole steps of the grid."""
        if self.z > 0:
            return noised_sum(total, self._draws(round, len(total)), self.z * self.clip, step)
        return total

    def count(self, round: int, bits: float) -> None:
        """Told the sum of this round's bits, after `noised`; only an adapted clip has any."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; nothing here."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""

    def _draws(self, round: int, size: int) -> np.ndarray:
        """(size,) standard normal, float64."""
        return secret_normals((size,), key(self.seed, "noise", round))
