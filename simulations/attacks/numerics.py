"""The arithmetic of attacks that see the honest updates: pure functions in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

BISECTIONS = 30
TINY = 1e-12
BLOCK = 512  # rows whose distances to all others are held at once


def unit(vector: np.ndarray) -> np.ndarray:
    """`vector` over its length; zeros stay zeros."""
    length = float(np.linalg.norm(vector))
    return vector / length if length > TINY else np.zeros_like(vector)


def within(vectors: np.ndarray, clip: float) -> np.ndarray:
    """Each row shortened to length `clip` where it is longer; a row that is not finite becomes zeros."""
    finite = np.isfinite(vectors).all(1, keepdims=True)
    kept = np.where(finite, vectors, 0.0)
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    factors = clip / np.maximum(lengths, clip)
    return np.asarray(kept * factors)


def hiding_distance(n: int, f: int) -> float:
    """ALIE's z_max: how many standard deviations from the mean f of n replies can stand and still look usual.

        z_max = Phi^-1((n - f - s) / (n - f)),  s = floor(n/2 + 1) - f

    s honest replies must stand further out, so that the attackers' side holds the majority. Where f is small
    the formula asks for most of the honest to stand further out than the attackers, and is below 0, which
    would be no attack: the answer is then 0. Where the attackers are the majority nothing has to stand
    further out: s is then half a reply. Baruch, Baruch, Goldberg, NeurIPS 2019, arXiv 1902.06156.
    """
    honest = n - f
    if honest < 1:
        return 0.0
    supporters = max(n // 2 + 1 - f, 0.5)
    return max(0.0, float(ndtri(max(0.0, honest - supporters) / honest)))


def largest_step(allowed: Callable[[float], bool], scale: float) -> float:
    """The largest g with `allowed(g)`, where it holds up to some g and not beyond.

    Args:
        allowed: holds at 0, or the answer is 0.
        scale: a first guess, above 0; it is doubled until the predicate fails, and 30 bisections follow.
    """
    if not scale > 0 or not allowed(0.0):
        return 0.0
    low, high = 0.0, scale
    while allowed(high):
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


def farthest(points: np.ndarray) -> float:
    """The largest squared distance between two rows, a block of rows at a time."""
    blocks = range(0, len(points), BLOCK)
    squares = np.einsum("nd,nd->n", points, points)
    return max(
        float((squares[k : k + BLOCK, None] + squares - 2 * points[k : k + BLOCK] @ points.T).max())
        for k in blocks
    )


def largest_sum(points: np.ndarray) -> float:
    """The largest, over rows i, of the sum over j of |x_i - x_j|^2 = n |x_i - mu|^2 + sum_j |x_j - mu|^2."""
    from_mean = np.square(points - points.mean(0)).sum(1)
    return float(len(points) * from_mean.max() + from_mean.sum())


def least_noticed(points: np.ndarray, away: np.ndarray, *, total: bool) -> np.ndarray:
    """The point furthest along `away` from the mean of the honest updates that is not further than they are.

    min-max: max_i ||x - x_i|| <= max_ij ||x_i - x_j||. min-sum (`total`): the sum over i of ||x - x_i||^2 is
    at most the largest such sum of an honest update. Shejwalkar, Houmansadr, NDSS 2021.

    Args:
        points: (n, d) honest updates.
        away: (d,) direction.
        total: min-sum.
    """
    mean = points.mean(0)
    bound = max(0.0, largest_sum(points) if total else farthest(points))

    def allowed(step: float) -> bool:
        far = np.square(mean + step * away - points).sum(1)
        return bool((far.sum() if total else far.max()) <= bound)

    length = float(np.linalg.norm(away))
    scale = np.sqrt(bound) / length if length > TINY else 0.0
    return np.asarray(mean + largest_step(allowed, scale) * away)
