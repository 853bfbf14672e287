r"""The clip that follows a quantile of people's update norms, as numbers.

    b_i = 1[||Delta_i|| <= C_t],    b = (sum_i (b_i - 1/2) + N(0, s_b^2)) / m + 1/2
    C_{t+1} = C_t exp(-eta_C (b - gamma)),    z_Delta = (z^-2 - (2 s_b)^-2)^-1/2

The bit says that a person was NOT clipped, so C falls where too many are within it. Sum of updates (noise
z_Delta C_t) and sum of bits (noise s_b; one person moves it by 1/2) are released together and have the noise
multiplier z. Andrew, Thakkar, McMahan, Ramaswamy, NeurIPS 2021, arXiv 1905.03871.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from commonground.errors import ConfigError

TARGET, RATE = 0.5, 0.2  # gamma, eta_C
START = 0.1  # C_0
LEAST_COHORT = 50  # m; below it the noised share of so few bits says nothing
SHARE = 20  # s_b = m / 20


@dataclass(frozen=True)
class AdaptiveClip:
    """Everything that is public about an adapted clip.

    Attributes:
        start: C_0.
        most: largest clip that a device accepts.
        cohort: m, people expected a round.
        noise_multiplier: z of the two releases together; 0 without noise.
    """

    start: float
    most: float
    cohort: float
    noise_multiplier: float

    @property
    def bit_noise(self) -> float:
        """s_b, the deviation of the noise on the sum of bits; 0 without noise."""
        return self.cohort / SHARE if self.noise_multiplier > 0 else 0.0

    @property
    def update_multiplier(self) -> float:
        """z_Delta: the noise on the sum of updates is z_Delta C_t."""
        return update_multiplier(self.noise_multiplier, self.bit_noise)

    def to_dict(self) -> dict[str, float]:
        """Every number, by name."""
        own = asdict(self) | {"bit_noise": self.bit_noise, "update_multiplier": self.update_multiplier}
        return own | {"target": TARGET, "rate": RATE}

    def after(self, clip: float, bits: float) -> float:
        """C_{t+1} of C_t and the (noised) sum of b_i - 1/2."""
        return min(self.most, next_clip(clip, bits / self.cohort + 0.5))


def adaptive_clip(
    cohort: float, noise_multiplier: float, most: float, start: float | None = None
) -> AdaptiveClip:
    """The adapted clip of a run, checked.

    Args:
        cohort: m.
        noise_multiplier: z; 0 without noise.
        most: largest clip that a device accepts.
        start: C_0; None is 0.1, or `most` where that is less.

    Raises:
        ConfigError: too few people, or too much noise for them.
    """
    if cohort < LEAST_COHORT:
        raise ConfigError(
            [
                f"privacy.shared.clip_mode: found 'adaptive' with a cohort of {cohort:g}; accepted: with at "
                f"least {LEAST_COHORT} people expected a round, or fixed"
            ]
        )
    if noise_multiplier >= 2 * cohort / SHARE:
        raise ConfigError(
            [
                f"privacy.shared.clip_mode: found 'adaptive' with noise multiplier {noise_multiplier:.4g}, "
                f"more than the bits' own noise of {cohort / SHARE:g} can be a part of; accepted: a cohort "
                f"above {SHARE / 2 * noise_multiplier:.4g}, a larger epsilon, or fixed"
            ]
        )
    return AdaptiveClip(min(START if start is None else start, most), most, cohort, noise_multiplier)


def update_multiplier(noise_multiplier: float, bit_noise: float) -> float:
    """z_Delta = (z^-2 - (2 s_b)^-2)^-1/2; 0 where z is 0.

    Args:
        noise_multiplier: z, of both releases together.
        bit_noise: s_b, above z/2.
    """
    if noise_multiplier == 0:
        return 0.0
    return float((noise_multiplier**-2 - (2 * bit_noise) ** -2) ** -0.5)


def next_clip(clip: float, within: float, target: float = TARGET, rate: float = RATE) -> float:
    """C exp(-eta_C (b - gamma)).

    Args:
        clip: C_t.
        within: b, the (noised) share of people whose update was within C_t; need not lie in [0, 1].
        target: gamma, the share that is aimed at.
        rate: eta_C.
    """
    return clip * math.exp(-rate * (within - target))
