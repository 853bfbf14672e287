"""How good an outcome is spread over people: six views of one list of per-person accuracies (methods J).

The Nash welfare, Gini and Atkinson numbers read their input on a ratio scale (0 means nothing), which an
accuracy is; they do not read margins or rewards, whose zero is arbitrary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from commonground.errors import InputError
from commonground.evaluation.intervals import finite

ATKINSON_AVERSION = 0.5  # 0 ignores inequality; larger values look ever more at those worst off


def welfare(values: ArrayLike) -> dict[str, float | None]:
    """Mean, Nash, min, 10th percentile, Gini and Atkinson of per-person utilities.

    Args:
        values: (people,) non-negative utilities, e.g. accuracies; nan for a person without one (left out).

    Returns:
        mean (utilitarian), nash (exp of the mean log: 0 as soon as one person has 0), min (the worst off),
        p10 (10 % have at most this), gini and atkinson (0 = equal). All None when nobody has a value.
    """
    utility = _utilities(values)
    if utility.size == 0:
        return dict.fromkeys(("mean", "nash", "min", "p10", "gini", "atkinson"))
    return {
        "mean": finite(utility.mean()),
        "nash": finite(nash(utility)),
        "min": finite(utility.min()),
        "p10": finite(float(np.quantile(utility, 0.1))),
        "gini": finite(gini(utility)),
        "atkinson": finite(atkinson(utility)),
    }


def nash(values: ArrayLike) -> float:
    """Geometric mean, exp(mean ln U); 0 when anybody has 0. Nash 1950; Kaneko and Nakamura 1979."""
    utility = _utilities(values)
    if (utility == 0).any():
        return 0.0
    return float(np.exp(np.log(utility).mean()))


def gini(values: ArrayLike) -> float:
    """sum_ij |U_i - U_j| / (2 n^2 mean U), by sorting; 0 = equal, (n-1)/n = one has all. Gini 1912."""
    utility = np.sort(_utilities(values))
    total = utility.sum()
    if total == 0:
        return 0.0  # nobody has anything: equal
    n = utility.size
    rank = np.arange(1, n + 1)
    return float(((2 * rank - n - 1) * utility).sum() / (n * total))


def atkinson(values: ArrayLike, aversion: float = ATKINSON_AVERSION) -> float:
    """Share of the total that could be given up if the rest were spread equally. Atkinson 1970.

    1 - (mean U^(1-e))^(1/(1-e)) / mean U, and 1 - nash / mean at e = 1.

    Args:
        values: (people,) non-negative utilities.
        aversion: e > 0; larger values look more at those worst off.
    """
    if aversion <= 0:
        raise InputError(f"aversion is {aversion}; accepted: above 0")
    utility = _utilities(values)
    mean = utility.mean()
    if mean == 0:
        return 0.0
    if aversion == 1:
        return float(1 - nash(utility) / mean)
    if aversion > 1 and (utility == 0).any():
        return 1.0
    relative = utility / mean
    return float(1 - np.power(np.power(relative, 1 - aversion).mean(), 1 / (1 - aversion)))


def _utilities(values: ArrayLike) -> NDArray[np.float64]:
    utility = np.asarray(values, dtype=np.float64).ravel()
    utility = utility[~np.isnan(utility)]
    if (utility < 0).any():
        raise InputError(f"a utility is {utility.min():g}; accepted: 0 or more")
    return utility
