r"""Banded DP-FTRL around any linear strategy: noise that cancels between rounds, instead of secret coins.

    server:  releases sum_i x_i + zt_t;     device:  joins at most k rounds, any two at least b apart

Equations, letters and source: `commonground.privacy.banded`. The noise of a round is made of the draws of
all rounds up to it, each keyed by its round, so nothing of it is kept in a checkpoint: a run that is resumed
makes the same noise again. zt_t is rounded to the grid last, as it is added: what is released is a function
of what the mechanism releases in real numbers. Who is asked in a round follows a rota (`cohort.draw_apart`);
each device keeps to k and b by itself (`Manifest.participation`), whatever it is asked.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from commonground.privacy.banded import BandedNoise, coefficients, inverse_coefficients, next_noise
from commonground.privacy.mechanisms import noised_sum
from commonground.strategies.central_noise import CentralNoise


class Banded(CentralNoise):
    """See the module's text.

    Args:
        public: what is public about the noise.
        clip: C.
        seed: the run's seed.
        rounds: T.
    """

    def __init__(self, public: BandedNoise, clip: float, seed: int, rounds: int) -> None:
        super().__init__(public.noise_multiplier, clip, seed)
        self.public, self.rounds, self.band = public, rounds, public.band
        self._f = coefficients(public.band)
        # Newest first, in units of z C sens.
        self._before: deque[np.ndarray] = deque(maxlen=max(1, public.band - 1))
        self._done = 0  # the round of the newest

    @property
    def scale(self) -> float:
        """Deviation on each number of one round's sum, by the last round; it only grows with the rounds."""
        if self.z == 0:
            return 0.0
        row = np.linalg.norm(inverse_coefficients(self.band, self.rounds))
        return self.z * self.clip * self.public.sensitivity * float(row)

    def noised(self, round: int, total: np.ndarray, step: float) -> np.ndarray:
        """The (d,) sum with zt_t, both in whole steps of the grid."""
        if self.z == 0:
            return total
        if round <= self._done:  # a round that comes again
            self._before.clear()
            self._done = 0
        while self._done < round:
            self._done += 1
            fresh = self._draws(self._done, len(total))
            noise = next_noise(fresh, list(self._before)[: self.band - 1], self._f)
            self._before.appendleft(noise)
        return noised_sum(total, self._before[0], self.z * self.clip * self.public.sensitivity, step)
