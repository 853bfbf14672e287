"""The PRV bound of composed Poisson-sampled Gaussians, for adding as well as for removing one unit.

Gopi, Lee, Wutschitz, NeurIPS 2021, arXiv 2106.02848. The composition is Opacus'; the discretisation is ours,
since Opacus looks at removing a unit only and integrates a mean by hundreds of scalar calls. Neither
direction is known to cover the other under composition (Lebeda et al. 2024, arXiv 2405.20769), so both are
computed and the larger one counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from commonground.privacy.rdp import WHOLE_ORDERS, epsilon_rdp, rdp_step

if TYPE_CHECKING:
    from opacus.accountants.analysis.prv import DiscretePRV, Domain

NODES = 16  # Gauss-Legendre nodes of a panel
REACH = 13.0  # deviations beyond which a normal density is nothing in float64


Charges = tuple[tuple[float, float, int], ...]


@lru_cache(maxsize=4096)
def epsilon_prv(charges: Charges, delta: float, error: float = 0.01, replaced: Charges = ()) -> float:
    """Upper bound of epsilon of charges (q, z, T) with q, z, T above 0.

    Args:
        charges: sampling rate, noise multiplier and steps of each mechanism.
        delta: in (0, 1).
        error: absolute error of the numerics, which is added; halving it doubles the grid.
        replaced: the same of mechanisms in which the unit is there under both neighbours, with something
            else; z is the noise over the most that either of them is.

    Raises:
        RuntimeError: the numerics did not come out.
        ValueError: delta is too small for floating point.
    """
    from opacus.accountants.analysis import prv

    delta_error = delta / 1000
    counts = [steps for _, _, steps in (*charges, *replaced)]
    mesh = error / math.sqrt(sum(counts) * math.log(12 / delta_error) / 2)
    domain = _domain(max(_tail(charges, replaced, delta_error), error) + 3, mesh)
    worst = 0.0
    for direction in (RemovedUnit, AddedUnit):
        with np.errstate(all="ignore"):
            losses = [discretize(direction(q, z), domain) for q, z, _ in charges]
            losses += [discretize(ReplacedUnit(q, z), domain) for q, z, _ in replaced]
            composed = prv.compose_heterogeneous(losses, counts)
            value = float(composed.compute_epsilon(delta, delta_error, error)[2])
        if not math.isfinite(value):
            raise RuntimeError(f"PRV gave {value} for {charges}")
        worst = max(worst, value)
    return worst


def _tail(charges: Charges, replaced: Charges, delta_error: float) -> float:
    """A loss that composition exceeds with probability below `delta_error` / 4 (Remark 5.6 of the paper).

    RDP bounds both directions, so the domain is wide enough for both. Whole orders are enough: a wider
    domain costs time alone.
    """
    every = [
        (step_of, one) for step_of, part in ((rdp_step, charges), (_replaced_step, replaced)) for one in part
    ]
    share = delta_error / (8 * sum(steps for _, (_, _, steps) in every))

    def converted(order: float, loss: float, delta: float) -> float:
        return loss + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)

    def best(parts: Sequence[tuple[float, float, int, Callable[..., float]]], delta: float) -> float:
        sums = ((a, sum(steps * of(q, z, a) for q, z, steps, of in parts)) for a in WHOLE_ORDERS)
        return max(0.0, min(converted(order, loss, delta) for order, loss in sums))

    if not replaced:
        tail = epsilon_rdp(charges, delta_error / 4, WHOLE_ORDERS)
        return max(tail, *(epsilon_rdp([(q, z, 1)], share, WHOLE_ORDERS) for q, z, _ in charges))
    whole = best([(q, z, steps, of) for of, (q, z, steps) in every], delta_error / 4)
    return max(whole, *(best([(q, z, 1, of)], share) for of, (q, z, _) in every))


@lru_cache(maxsize=4096)
def _replaced_step(sampling: float, noise_multiplier: float, order: float) -> float:
    return ReplacedUnit(sampling, noise_multiplier).rdp(order)


def _domain(reach: float, mesh: float) -> Domain:
    """A grid of `mesh` over at least +-reach, with 0 on it, of a length that a Fourier transform likes.

    Opacus' composition counts on 0 being the last point of the first half.
    """
    from opacus.accountants.analysis.prv import Domain
    from scipy.fft import next_fast_len

    half = next_fast_len(math.ceil(reach / mesh) + 2, real=True)
    return Domain(-(half - 1) * mesh, half * mesh, 2 * half)


def discretize(loss: RemovedUnit, domain: Domain) -> DiscretePRV:
    """The loss, cut to the domain, on its grid: masses around the points, moved so that the mean is right.

    Raises:
        RuntimeError: the mean moved by more than half a step; the grid is too coarse.
    """
    from opacus.accountants.analysis.prv import DiscretePRV

    low, high = domain.t_min, domain.t_max
    edges = low + (np.arange(domain.size + 1) - 0.5) * domain.dt
    floor, ceiling = loss.cdf(np.array([low, high]))
    below = np.clip((loss.cdf(edges) - floor) / (ceiling - floor), 0.0, 1.0)
    below[0], below[-1] = 0.0, 1.0
    masses = np.diff(below)
    shift = loss.mean(low, high) - float(np.dot(domain.ts, masses))
    if not abs(shift) < domain.dt / 2:
        raise RuntimeError("the mean on the grid differs from the true one by more than half a step")
    return DiscretePRV(pmf=masses, domain=domain.shift_right(shift))


class RemovedUnit:
    """Privacy loss of removing a unit: log(((1-q) N(0, z^2) + q N(1, z^2)) / N(0, z^2)) under the mixture."""

    def __init__(self, sampling: float, noise_multiplier: float) -> None:
        self.q, self.z = sampling, noise_multiplier

    def cdf(self, loss: Any) -> Any:
        """Probability of a loss of at most `loss`, elementwise; a loss is always above log(1-q)."""
        from scipy.special import ndtr

        point = self.point(np.asarray(loss, dtype=np.float64))
        return (1 - self.q) * ndtr(point / self.z) + self.q * ndtr((point - 1) / self.z)

    def mean(self, low: float, high: float) -> float:
        """Mean of the losses between two bounds."""
        points = self.point(np.array([low, high]))
        return self._mean(points[0], points[1], self._mixture, 1.0)

    def point(self, loss: np.ndarray) -> np.ndarray:
        """The outcome x at which log(1 - q + q exp((2x - 1) / (2 z^2))) is `loss`; -inf where none is."""
        ratio = np.expm1(loss) / self.q + 1
        with np.errstate(divide="ignore"):
            return np.asarray(self.z**2 * np.log(np.maximum(ratio, 0.0)) + 0.5)

    def log_ratio(self, x: np.ndarray) -> np.ndarray:
        """log(1 - q + q exp((2x - 1) / (2 z^2)))."""
        exponent = (2 * x - 1) / (2 * self.z**2)
        if self.q == 1:
            return exponent
        return np.asarray(np.logaddexp(math.log1p(-self.q), exponent + math.log(self.q)))

    def _mixture(self, x: np.ndarray) -> np.ndarray:
        return (1 - self.q) * self._normal(x) + self.q * self._normal(x - 1)

    def _normal(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-0.5 * (x / self.z) ** 2))

    def _mean(self, low: float, high: float, density: Any, sign: float) -> float:
        """Mean of sign * log-ratio over outcomes in [low, high], by Gauss-Legendre panels.

        The log-ratio bends over a stretch of z^2, the density over z: panels are shorter than both.
        """
        low, high = max(low, -REACH * self.z), min(high, 1 + REACH * self.z)
        panels = min(20_000, math.ceil((high - low) / min(self.z / 2, self.z**2)))
        ends = np.linspace(low, high, panels + 1)
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        half = np.diff(ends)[:, None] / 2
        x = (ends[:-1, None] + half) + half * nodes
        mass = half * weights * density(x)
        return float(sign * (mass * self.log_ratio(x)).sum() / mass.sum())


class AddedUnit(RemovedUnit):
    """Privacy loss of adding a unit: log(N(0, z^2) / ((1-q) N(0, z^2) + q N(1, z^2))) under N(0, z^2)."""

    def cdf(self, loss: Any) -> Any:
        """Probability of a loss of at most `loss`, elementwise; a loss is always below -log(1-q)."""
        from scipy.special import ndtr

        return ndtr(-self.point(-np.asarray(loss, dtype=np.float64)) / self.z)

    def mean(self, low: float, high: float) -> float:
        """Mean of the losses between two bounds."""
        points = self.point(np.array([-high, -low]))
        return self._mean(points[0], points[1], self._normal, -1.0)


class ReplacedUnit(RemovedUnit):
    """Privacy loss of replacing a unit by another whose coin is tossed all the same.

    log(((1-q) N(0, z^2) + q N(1, z^2)) / ((1-q) N(0, z^2) + q N(-1, z^2))) under the first: what was sent, of
    norm 1 at most, is sent the other way round. The same in both directions (Lebeda et al. 2024, section on
    substitution; `dp_accounting` has it as the adjacency REPLACE).
    """

    def cdf(self, loss: Any) -> Any:
        """Probability of a loss of at most `loss`, elementwise."""
        from scipy.special import ndtr

        point = self.point(np.asarray(loss, dtype=np.float64))
        return (1 - self.q) * ndtr(point / self.z) + self.q * ndtr((point - 1) / self.z)

    def point(self, loss: np.ndarray) -> np.ndarray:
        """The outcome at which the log-ratio is `loss`: the root of a quadratic in exp(x / z^2)."""
        # For losses of at least 0, in logarithms: w^2 - 2 b w - e^loss = 0; the ratio is odd in the outcome.
        size = np.abs(loss)
        scale = math.log(self.q) - 1 / (2 * self.z**2)  # of log(q k), k = exp(-1 / (2 z^2))
        half = np.full_like(size, -np.inf)
        if self.q < 1:
            with np.errstate(divide="ignore"):
                half = math.log1p(-self.q) + np.log(np.expm1(size)) - math.log(2) - scale
        root = np.logaddexp(half, 0.5 * np.logaddexp(2 * half, size))
        return np.asarray(np.sign(loss) * self.z**2 * root)

    def log_ratio(self, x: np.ndarray) -> np.ndarray:
        """See `RemovedUnit.log_ratio`."""
        return np.asarray(super().log_ratio(x) - super().log_ratio(-x))

    def _mean(self, low: float, high: float, density: Any, sign: float) -> float:
        return super()._mean(max(low, -1 - REACH * self.z), high, density, sign)

    def rdp(self, order: float) -> float:
        """Renyi divergence of one step, nats, by quadrature."""
        reach = order + 1 + REACH * self.z  # where the integrand of this order has its mass
        x = np.linspace(-reach, reach, 8_001)
        near = -0.5 * (x / self.z) ** 2 - math.log(self.z * math.sqrt(2 * math.pi))
        logs = near + super().log_ratio(x) + (order - 1) * self.log_ratio(x)
        peak = float(logs.max())
        return (peak + math.log(float(np.exp(logs - peak).sum() * (x[1] - x[0])))) / (order - 1)
