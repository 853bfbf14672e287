"""Public parts of a model that are given to it, and not computed by it.

A simulation computes them. A device is given its study's (`study.public_parts`), because another processor
would compute other last bits. What is quick to compute and comes out the same up to rounding is computed all
the same, and compared: a study cannot pass off something else under its name.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from commonground.errors import ModelError

Parts = Mapping[str, np.ndarray]
CLOSE = 1e-4  # of entries of matrices with unit rows or columns; rounding moves them by less than 1e-6
ASK = "ask the operator: the study's public parts do not fit its configuration or its base model"


def part(parts: Parts, name: str, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """One part; raises `ModelError` where it is missing or has another shape or dtype."""
    value = parts.get(name)
    if value is None:
        raise ModelError(f"the study's public parts lack {name!r}", hint=ASK)
    if value.shape != shape or value.dtype.name != dtype:
        raise ModelError(
            f"the study's public part {name!r} is {value.dtype} {value.shape}; {dtype} {shape} is needed",
            hint=ASK,
        )
    return value


def close_part(parts: Parts | None, name: str, own: np.ndarray) -> np.ndarray:
    """The given part in place of what was computed here; that itself where nothing is given.

    Raises:
        ModelError: it is missing, has another shape or dtype, or is another matrix.
    """
    if parts is None:
        return own
    value = part(parts, name, own.shape)
    apart = float(np.abs(value - own).max(initial=0.0))
    if not apart <= CLOSE:
        raise ModelError(
            f"the study's public part {name!r} is {apart:.3g} away from what this machine computes; "
            f"accepted: {CLOSE:g}",
            hint=ASK,
        )
    return value


def check_names(parts: Parts, used: Parts) -> None:
    """Raise `ModelError` where there are other parts than a model uses."""
    odd = sorted(parts.keys() ^ used.keys())
    if odd:
        raise ModelError(f"the study's public parts and the model's differ in {odd[0]!r}", hint=ASK)
