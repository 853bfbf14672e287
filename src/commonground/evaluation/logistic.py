"""Ridge logistic regression without intercept, written once over a leading axis of models.

Each row is a difference chosen - rejected, so every label is "the first": showing a pair the other way
round flips the row and the label and leaves its loss as it was, and without an intercept (or centring)
there is nothing else that a model could learn the order from.

The curvature of the loss is bounded by X'X/4 whatever the weights are, so steps with that bound always
descend and its inverse is computed once (Boehning and Lindsay, 1988).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]


def log_loss(margins: Floats) -> Floats:
    """-ln sigma(margin), elementwise, nats."""
    return np.asarray(np.logaddexp(0.0, -margins), dtype=np.float64)


def curvature_bound(rows: Floats) -> Floats:
    """X'X/4 of each model: (P, B, d) -> (P, d, d)."""
    return np.asarray(0.25 * np.matmul(rows.transpose(0, 2, 1), rows), dtype=np.float64)


def fit(
    rows: Floats,
    *,
    ridge: float,
    bound: Floats,
    offset: Floats | None = None,
    mask: Floats | None = None,
    start: Floats | None = None,
    steps: int = 60,
    tolerance: float = 1e-6,
) -> Floats:
    """Weights that minimise sum of log-loss + ridge/2 |w|^2, for P models at once.

    Args:
        rows: (P, B, d) differences chosen - rejected; a padded row must be zero.
        ridge: prior precision, above 0; infinity gives zero weights.
        bound: (P, d, d) `curvature_bound(rows)`, passed in because it is the same for every ridge.
        offset: (P, B) margin that is already there (of a model below this one), or None.
        mask: (P, B) 1 where a row counts, 0 where it is padding, or None.
        start: (P, d) where to start, or None for zero.
        steps: most steps taken.
        tolerance: stop when no weight moves by more than this.

    Returns:
        (P, d) weights.
    """
    models, _, d = rows.shape
    if not np.isfinite(ridge):
        return np.zeros((models, d))
    inverse = np.linalg.inv(bound + ridge * np.eye(d))
    weights = np.zeros((models, d)) if start is None else start.copy()
    ahead, momentum = weights, 1.0
    for _ in range(steps):
        margin = np.matmul(rows, ahead[..., None])[..., 0]
        pull = expit(-(margin if offset is None else margin + offset))
        if mask is not None:
            pull = pull * mask
        gradient = ridge * ahead - np.matmul(pull[:, None, :], rows)[:, 0, :]
        moved = ahead - np.matmul(inverse, gradient[..., None])[..., 0]
        change = moved - weights
        # Nesterov's momentum, dropped as soon as it points uphill (O'Donoghue and Candes, 2015).
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        uphill = float((gradient * change).sum()) > 0
        ahead = moved if uphill else moved + (momentum - 1) / following * change
        momentum = 1.0 if uphill else following
        weights = moved
        if np.abs(change).max(initial=0.0) < tolerance:
            break
    return weights
