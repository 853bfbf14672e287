"""Which tensors of the shared adapter are the two factors of one product, for strategies that train both.

In `policy` models they are `MAP.A` and `MAP.B` of every linear map, whose change is s B A; in `reward` models
of form tanh `TAG.A` and `TAG.u`, of u . tanh(A x). That one is a product of two factors only to first order:
for either factor held, it is linear in u and not in A. Strategies that pass the factors on, one by one, can
use it; those that look at the product B A cannot, because there is no linear map that B A would change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from commonground.errors import StrategyError
from commonground.strategies.server_half import Arrays

MERGED = ".merged"


@dataclass(frozen=True)
class Factors:
    """Names of one product's tensors.

    Attributes:
        left: B (outputs, rank), or u (rank,).
        right: A (rank, inputs).
        merged: the matrix beside them, "" where there is none.
    """

    left: str
    right: str
    merged: str = ""


def factors_of(names: Iterable[str]) -> list[Factors]:
    """The products among tensors, in their order.

    Raises:
        StrategyError: there is none, because the shared adapter has one factor over a public one.
    """
    known = list(names)
    found = []
    for right in known:
        stem = right.removesuffix(".A")
        left = next((f"{stem}.{side}" for side in ("B", "u") if f"{stem}.{side}" in known), None)
        if right.endswith(".A") and left is not None:
            found.append(Factors(left, right, f"{stem}{MERGED}" if f"{stem}{MERGED}" in known else ""))
    if not found:
        raise StrategyError(
            f"none of the tensors {sorted(known)} are two factors A and B of one product",
            hint="use model.kind=policy with model.shared_factors=both, or model.form=tanh",
        )
    return found


def arrived(start: Arrays, moves: Sequence[Arrays], one: Factors) -> list[tuple[np.ndarray, np.ndarray]]:
    """(B_i, A_i) of one product, for everybody who replied."""
    return [(start[one.left] + move[one.left], start[one.right] + move[one.right]) for move in moves]
