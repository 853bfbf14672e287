r"""RFA: the geometric median of people's updates.

    v <- mean;   w_i = 1 / max(nu, ||x_i - v||),  v <- sum w_i x_i / sum w_i,   `iterations` times

Smoothed Weiszfeld: Pillutla, Kakade, Harchaoui, IEEE TSP 2022, arXiv 1912.13445. Up to half of the replies
can be anything. It looks at replies one by one, k times: a claim with central noise would cost k releases,
so it is refused there. People far from the middle weigh little, honest minorities among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from commonground.strategies.server_half import Arrays, ServerHalf, between, flat, unflat


class Rfa(ServerHalf):
    """The whole algorithm: devices send their plain updates.

    Args:
        iterations: of Weiszfeld's algorithm.
        nu: least distance that counts, in units of an update.
    """

    individual = True

    def __init__(self, iterations: float = 5, nu: float = 1e-6) -> None:
        super().__init__()
        self.iterations = int(between("iterations", iterations, 1, 10_000))
        self.nu = between("nu", nu, 1e-12, np.inf)

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        middle = geometric_median(np.stack([flat(move) for move in moves]), self.iterations, self.nu)
        return {name: value + start[name] for name, value in unflat(middle, start).items()}


def geometric_median(points: np.ndarray, iterations: int, nu: float) -> np.ndarray:
    """(d,) smoothed geometric median of (n, d) points, from their mean."""
    middle = points.mean(0)
    for _ in range(iterations):
        weights = 1 / np.maximum(nu, np.linalg.norm(points - middle, axis=1))
        middle = weights @ points / weights.sum()
    return np.asarray(middle)
