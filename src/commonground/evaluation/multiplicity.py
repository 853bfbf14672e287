"""Many differences at once: p-values corrected for how many were looked at. Holm 1979."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from commonground.errors import InputError


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down correction: calling all below alpha real errs at all with probability <= alpha.

    The k-th smallest of m p-values is multiplied by m - k + 1; none may be smaller than one before it.

    Args:
        p_values: (m,) in [0, 1]; nan for a comparison that could not be made (left out of the count).

    Returns:
        (m,) corrected p-values, at most 1; nan stays nan.

    Raises:
        InputError: a p-value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64).ravel()
    known = np.flatnonzero(~np.isnan(p))
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise InputError(f"p-values are {p[known].tolist()}; accepted: between 0 and 1")
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(p.shape, np.nan)
    steps = p[order] * (len(order) - np.arange(len(order)))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return corrected
