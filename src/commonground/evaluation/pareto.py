"""Which choices nobody would give up: those that no other beats everywhere. Pareto 1906."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from commonground.errors import InputError


def pareto_front(values: ArrayLike, larger_is_better: Sequence[bool]) -> NDArray[np.bool_]:
    """Who is on the front: no other is at least as good in everything and better in something.

    Args:
        values: (n, k) one row a choice; infinity is a value, a row with a nan is on no front and beats none.
        larger_is_better: (k,) for each column.

    Returns:
        (n,) bool; equal rows are on the front together.

    Raises:
        InputError: the number of columns differs from that of directions.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(larger_is_better):
        raise InputError(
            f"values have shape {table.shape}; {len(larger_is_better)} columns are needed, one a direction"
        )
    score = np.where(np.asarray(larger_is_better, dtype=np.bool_), table, -table)
    whole = np.asarray(~np.isnan(score).any(axis=1))
    as_good = (score[:, None] >= score[None]).all(axis=2)
    better = (score[:, None] > score[None]).any(axis=2)
    beaten = (as_good & better & whole[:, None]).any(axis=0)
    return np.asarray(whole & ~beaten, dtype=np.bool_)
