"""The PRV bound of composed Poisson-sampled Gaussians, for adding as well as for removing one unit.

Gopi, Lee, Wutschitz, NeurIPS 2021, arXiv 2106.02848, on Opacus' numerics. Opacus itself looks at removing a
unit only; neither direction is known to cover the other under composition (Lebeda et al. 2024, arXiv
2405.20769), so both are computed and the larger one counts.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np

from commonground.privacy.rdp import epsilon_rdp


@lru_cache(maxsize=1024)
def epsilon_prv(charges: tuple[tuple[float, float, int], ...], delta: float, error: float = 0.01) -> float:
    """Upper bound of epsilon of charges (q, z, T) with q, z, T above 0.

    Args:
        charges: sampling rate, noise multiplier and steps of each mechanism.
        delta: in (0, 1).
        error: absolute error of the numerics, which is added; halving it doubles the grid.

    Raises:
        RuntimeError: the numerics did not come out.
        ValueError: delta is too small for floating point.
    """
    from opacus.accountants.analysis import prv
    from scipy.integrate import IntegrationWarning

    delta_error = delta / 1000
    counts = [steps for _, _, steps in charges]
    mesh = error / math.sqrt(sum(counts) * math.log(12 / delta_error) / 2)
    # Remark 5.6 of the paper. RDP bounds both directions, so the domain is wide enough for both.
    tail = epsilon_rdp(charges, delta_error / 4)
    for sampling, noise_multiplier, _ in charges:
        one = epsilon_rdp([(sampling, noise_multiplier, 1)], delta_error / (8 * sum(counts)))
        tail = max(tail, one)
    size = max(tail, error) + 3
    worst = 0.0
    for direction in (prv.PoissonSubsampledGaussianPRV, AddedUnit):
        losses = [direction(sampling, noise_multiplier) for sampling, noise_multiplier, _ in charges]
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=IntegrationWarning)
            domain = prv.Domain.create_aligned(-size, size, mesh)
            cut = [prv.TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max) for loss in losses]
            composed = prv.compose_heterogeneous([prv.discretize(loss, domain) for loss in cut], counts)
            value = float(composed.compute_epsilon(delta, delta_error, error)[2])
        if not math.isfinite(value):
            raise RuntimeError(f"PRV gave {value} for {charges}")
        worst = max(worst, value)
    return worst


class AddedUnit:
    """Privacy loss of adding a unit: log(N(0, z^2) / ((1-q) N(0, z^2) + q N(1, z^2))) under N(0, z^2).

    The attribute names are those that Opacus' numerics read.
    """

    def __init__(self, sampling: float, noise_multiplier: float) -> None:
        self.sample_rate = sampling
        self.noise_multiplier = noise_multiplier

    def cdf(self, loss: Any) -> Any:
        """Probability of a loss of at most `loss`, elementwise; a loss is always below -log(1-q)."""
        from scipy.special import ndtr

        ratio = (np.exp(-np.asarray(loss, dtype=np.float64)) - 1) / self.sample_rate + 1
        point = self.noise_multiplier**2 * np.log(np.maximum(ratio, 1e-300)) + 0.5
        return np.where(ratio > 0, ndtr(-point / self.noise_multiplier), 1.0)
