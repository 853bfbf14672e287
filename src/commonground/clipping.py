"""L2 norm of a whole update, and clipping to it: pure functions of arrays, for one person and for many."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from commonground.grid import truncated

BIT = 0.5  # a bit is sent as plus or minus this: one person more or less moves the sum by no more


def clip_update(update: Mapping[str, np.ndarray], clip: float, step: float = 0.0) -> dict[str, np.ndarray]:
    """Clip a whole update to L2 norm `clip`, all tensors together, and round it to a grid.

    A non-finite value anywhere makes the whole update zero (methods N1). The norm is taken in float64, and
    on a grid nothing is rounded before it is rounded toward zero, so that no norm grows by a last bit.

    Args:
        update: name -> array.
        clip: the bound; infinity leaves finite updates as they are.
        step: of the grid, see `commonground.grid`; 0 without one.

    Returns:
        New float32 arrays with joint norm at most `clip`, on the grid.
    """
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in update.items()}
    if not all(np.isfinite(value).all() for value in arrays.values()):
        return {name: np.zeros(value.shape, np.float32) for name, value in arrays.items()}
    norm = joint_norm(arrays)
    factor = 1.0 if norm <= clip else clip / norm
    return {name: truncated(value * factor, step).astype(np.float32) for name, value in arrays.items()}


def clip_updates(updates: Mapping[str, np.ndarray], clip: float, step: float = 0.0) -> dict[str, np.ndarray]:
    """`clip_update` for many people at once: name -> (P, *shape), each person's update clipped by itself."""
    norms = joint_norms(updates)
    finite = np.isfinite(norms)
    with np.errstate(invalid="ignore", divide="ignore"):
        factors = np.where(finite & (norms > clip), clip / norms, 1.0)
    clipped = {}
    for name, value in updates.items():
        kept = np.where(_along(finite, value), value, 0)  # zero times infinity is not zero
        clipped[name] = truncated(kept * _along(factors, value), step).astype(np.float32)
    return clipped


def joint_norm(update: Mapping[str, np.ndarray]) -> float:
    """L2 norm over all tensors together, float64."""
    with np.errstate(over="ignore"):
        return float(np.sqrt(sum(float(np.square(np.asarray(v, np.float64)).sum()) for v in update.values())))


def joint_norms(updates: Mapping[str, np.ndarray]) -> np.ndarray:
    """(P,) float64 L2 norm of each person's update over all tensors together; not finite where one is not."""
    squares: np.ndarray | float = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for value in updates.values():
            flat = value.reshape(len(value), -1).astype(np.float64)
            squares = squares + np.einsum("pd,pd->p", flat, flat)
        return np.asarray(np.sqrt(squares))


def within_bits(norms: np.ndarray, clip: float) -> np.ndarray:
    """+1/2 or -1/2, float32. A broken update is sent as zeros, which are within any clip."""
    return np.where((norms <= clip) | ~np.isfinite(norms), BIT, -BIT).astype(np.float32)


def _along(people: np.ndarray, value: np.ndarray) -> np.ndarray:
    return people.reshape(-1, *[1] * (value.ndim - 1))
