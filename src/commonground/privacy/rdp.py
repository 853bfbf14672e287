"""The Renyi bound of composed Poisson-sampled Gaussians.

Opacus' curve of one step (Mironov, Talwar, Zhang 2019, arXiv 1908.10530), added up over all steps, converted
once (Canonne, Kamath, Steinke 2020, arXiv 2004.00010):
    epsilon = min over a of rdp(a) + ln((a-1)/a) - (ln delta + ln a)/(a-1).
Times (a-1) the right side is convex in a, because (a-1) rdp(a) is; so epsilon falls, then rises, along the
orders, and a bisection finds the best one without the series of all others, some of which are slow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *map(float, (*range(11, 65), 72, 80, 96, 112, 128, 192, 256, 384, 512)),
)
WHOLE_ORDERS: tuple[float, ...] = tuple(order for order in ORDERS if order == int(order))  # quick to compute


def epsilon_rdp(
    charges: Iterable[tuple[float, float, int]], delta: float, orders: tuple[float, ...] = ORDERS
) -> float:
    """Upper bound of epsilon of charges (q, z, T), never below 0; infinity if any z is 0."""
    history = tuple(charges)

    def at(index: int) -> float:
        order = orders[index]
        rdp = sum(steps * rdp_step(sampling, noise, order) for sampling, noise, steps in history)
        return rdp + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)

    low, high = 0, len(orders) - 1
    while low < high:
        middle = (low + high) // 2
        # Where both are infinite the orders are too high.
        low, high = (middle + 1, high) if at(middle) > at(middle + 1) else (low, middle)
    return max(0.0, at(low))


@lru_cache(maxsize=65536)
def rdp_step(sampling: float, noise_multiplier: float, order: float) -> float:
    """RDP of one step; infinity where Opacus' series fails, which only loosens the bound."""
    from opacus.accountants.analysis.rdp import compute_rdp

    try:
        with np.errstate(all="ignore"):
            value = float(compute_rdp(q=sampling, noise_multiplier=noise_multiplier, steps=1, orders=order))
    except (ValueError, OverflowError, ZeroDivisionError):
        return math.inf
    return value if value >= 0 else math.inf
