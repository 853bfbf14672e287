r"""Noise that cancels between rounds: banded DP-FTRL, for devices that nobody can draw by secret coins.

    f_0 = 1,  f_j = f_{j-1} (2j - 1) / (2j)  for j < b;      zt_t = Z_t - sum_{j=1}^{min(t, b-1)} f_j zt_{t-j}
    Z_t ~ N(0, (z C sens)^2 I),     sens = sqrt(k) sqrt(sum_{j<b} f_j^2),     released: g_t + zt_t

The matrix C with f on its first b diagonals is the truncated square root of A, the lower triangle of ones;
B = A C^{-1}. Releasing g + C^{-1} Z is post-processing of C g + Z. One person is in at most k rounds, any two
of them at least b apart, so her columns of C do not overlap and she moves C g by at most sens times the clip:
the whole run is ONE Gaussian release of multiplier z, whoever knows who took part. No amplification is
claimed, and none is needed. In sums over rounds, which is what an adapter is, most of zt cancels.

Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu, NeurIPS 2023, arXiv 2306.08153; DP-FTRL:
Kairouz, McMahan, Song, Thakkar, Thakurta, Xu, ICML 2021, arXiv 2103.00039.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from commonground.errors import ConfigError


@dataclass(frozen=True)
class BandedNoise:
    """Everything that is public about banded noise.

    Attributes:
        band: b, diagonals of C, and the least distance between two rounds of one person.
        participations: k, most rounds of one person.
        noise_multiplier: z of the whole run; 0 without noise.
    """

    band: int
    participations: int
    noise_multiplier: float

    @property
    def column_norm(self) -> float:
        """sqrt(sum_{j<b} f_j^2), the L2 norm of a whole column of C."""
        return float(np.linalg.norm(coefficients(self.band)))

    @property
    def sensitivity(self) -> float:
        """sens: most that one person moves C g by, in clips."""
        return math.sqrt(self.participations) * self.column_norm

    def to_dict(self) -> dict[str, float]:
        """Every number, by name."""
        return asdict(self) | {"column_norm": self.column_norm, "sensitivity": self.sensitivity}


def coefficients(band: int) -> np.ndarray:
    """(b,) float64: f_0 to f_{b-1}."""
    j = np.arange(1, band)
    return np.concatenate([[1.0], np.cumprod((2 * j - 1) / (2 * j))])


def inverse_coefficients(band: int, rounds: int) -> np.ndarray:
    """(T,) float64: first column of C^{-1}, so that zt_t = sum_j of it times Z_{t-j}."""
    impulse = np.zeros(rounds)
    impulse[:1] = 1.0
    return correlate(impulse[:, None], band)[:, 0]


def correlate(fresh: np.ndarray, band: int) -> np.ndarray:
    """C^{-1} Z: the noise of every round.

    Args:
        fresh: (T, d) float64, Z.
        band: b.
    """
    f, out = coefficients(band), np.empty_like(fresh)
    for t, draw in enumerate(fresh):
        out[t] = next_noise(draw, [out[t - j] for j in range(1, min(t, band - 1) + 1)], f)
    return out


def next_noise(fresh: np.ndarray, before: Sequence[np.ndarray], f: np.ndarray) -> np.ndarray:
    """zt_t.

    Args:
        fresh: (d,) Z_t.
        before: the newest zt first: zt_{t-1}, zt_{t-2}, ...; at most b - 1 of them.
        f: (b,) the coefficients.
    """
    noise = fresh.copy()
    for weight, old in zip(f[1:], before, strict=False):
        noise -= weight * old
    return noise


def strategy_matrix(band: int, rounds: int) -> np.ndarray:
    """(T, T) float64 lower triangle: C."""
    f, matrix = coefficients(min(band, rounds)), np.zeros((rounds, rounds))
    for j, value in enumerate(f):
        matrix += value * np.eye(rounds, k=-j)
    return matrix


def decoder_matrix(band: int, rounds: int) -> np.ndarray:
    """(T, T) float64 lower triangle: B = A C^{-1}; row t is how the noise of a sum up to t is made."""
    return np.asarray(np.cumsum(correlate(np.eye(rounds), band), axis=0))


def prefix_error(band: int, rounds: int, participations: int) -> float:
    """RMS over rounds of the noise on a prefix sum, in units of z and the clip: rms rows of B, times sens."""
    rows = np.square(decoder_matrix(band, rounds)).sum(1)
    return float(np.sqrt(rows.mean())) * BandedNoise(band, participations, 1.0).sensitivity


def largest_band(people: int, cohort: int, rounds: int) -> int:
    """The largest b that leaves enough people for each cohort: people / cohort, at most T."""
    return max(1, min(people // cohort, rounds))


def default_participations(sampling: float, band: int, rounds: int) -> int:
    """k: what is expected and three deviations more, at most once in b rounds."""
    expected = sampling * rounds
    return max(1, min(math.ceil(expected) + 3 * math.ceil(math.sqrt(expected)), -(-rounds // band)))


def check_band(band: int, people: int, cohort: int, rounds: int) -> None:
    """Refuse a band that leaves too few people for a cohort.

    Raises:
        ConfigError: one line.
    """
    most = largest_band(people, cohort, rounds)
    if not 1 <= band <= most:
        raise ConfigError(
            [
                f"privacy.shared.band: found {band}; accepted: 1 to {most}, since {cohort} of "
                f"{people} people are expected in each of {rounds} rounds, and nobody comes twice in {band}"
            ]
        )


def may_join(count: int, last: int, round: int, participations: int, band: int) -> bool:
    """Whether a person who took part `count` times, in round `last` lately (0: never), may join `round`."""
    return count < participations and (count == 0 or round - last >= band)
