"""What one model for everybody must lose, where the population is known exactly (methods J1).

p is a person's probability of preferring the first answer of a pair, h(p) the binary entropy in nats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, xlogy
from scipy.stats import norm

Floats = NDArray[np.float64]
_NODES = 80  # Gauss-Hermite nodes; the integrand is smooth, 40 already give 1e-10


def entropy(probability: ArrayLike) -> Floats:
    """h(p) = -p ln p - (1-p) ln(1-p), nats, elementwise; 0 at p = 0 and p = 1."""
    p = np.asarray(probability, dtype=np.float64)
    return np.asarray(-xlogy(p, p) - xlogy(1 - p, 1 - p), dtype=np.float64)


def information(probability: ArrayLike) -> float:
    """I(Y; person | pair) = mean over pairs of h(mean p) - mean h(p): nats a comparison, at least 0.

    The exact price in log-loss of one reward model instead of one a person.

    Args:
        probability: (people, pairs) each person's probability of preferring the first answer.
    """
    p = np.asarray(probability, dtype=np.float64)
    return float((entropy(p.mean(0)) - entropy(p).mean(0)).mean())


def accuracy_gap(probability: ArrayLike) -> float:
    """Best personal accuracy minus best pooled accuracy: E[max(p, 1-p)] - max(mean p, 1 - mean p).

    Args:
        probability: (people, pairs) each person's probability of preferring the first answer.
    """
    p = np.asarray(probability, dtype=np.float64)
    pooled = p.mean(0)
    return float((np.maximum(p, 1 - p).mean(0) - np.maximum(pooled, 1 - pooled)).mean())


def two_types(share: float, gap: float) -> dict[str, float]:
    """Two types who want opposite things.

    Args:
        share: fraction of the first type, whose utility difference is +gap; the rest has -gap.
        gap: utility difference, > 0.

    Returns:
        personal: best accuracy with one model a person, sigma(gap).
        pooled: best accuracy with one model for all.
        minority: accuracy of the smaller type under the pooled model.
        difference: personal - pooled; (1 - share) tanh(gap / 2) for share >= 1/2.
        nats: information erased, h(mean p) - h(sigma(gap)).
    """
    p = float(expit(gap))
    mean = share * p + (1 - share) * (1 - p)
    pooled = max(mean, 1 - mean)
    return {
        "personal": p,
        "pooled": pooled,
        "minority": 1 - p,
        "difference": p - pooled,
        "nats": float(entropy(mean) - entropy(p)),
    }


def gaussian(mean: float, spread: float) -> dict[str, float]:
    """Utility differences spread over people as N(mean, spread^2).

    Returns:
        pooled: accuracy of one model when people answer without noise, Phi(|mean| / spread); a personal
            model is then always right.
        pooled_noisy: accuracy of one model when they answer with logistic noise, E sigma(|mean| + spread Z).
        personal_noisy: accuracy of one model a person then, E sigma(|mean + spread Z|).
        nats: information erased with logistic noise.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    p = expit(abs(mean) + spread * nodes)
    pooled = float(weights @ p)
    # |.| has a kink that quadrature nodes straddle: integrate its two smooth sides on a fine grid instead.
    grid = np.linspace(-10, 10, 20_001)
    density = norm.pdf(grid)
    personal = float(np.trapezoid(expit(np.abs(mean + spread * grid)) * density, grid))
    return {
        "pooled": float(norm.cdf(abs(mean) / spread)),
        "pooled_noisy": pooled,
        "personal_noisy": personal,
        "nats": float(entropy(pooled) - weights @ entropy(p)),
    }
