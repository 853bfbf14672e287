"""Optimisers as pairs of pure functions over a leading person axis.

Every person has an own step count, so that people who have trained for different lengths of time can be
updated in one call. On noised gradients they are post-processing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from commonground.training.model import Tensors

Name = Literal["sgd", "adam"]
BETA1, BETA2, TINY = 0.9, 0.99, 1e-8


def init(name: Name, parameters: Tensors) -> Tensors:
    """The first state: nothing for `sgd`, two zero moments a tensor for `adam` (Kingma and Ba, 2015)."""
    if name == "sgd":
        return {}
    return {
        f"{moment}.{key}": torch.zeros_like(value)
        for key, value in parameters.items()
        for moment in ("m", "v")
    }


def update(
    name: Name,
    parameters: Tensors,
    gradients: Tensors,
    state: Tensors,
    steps: Tensor,
    rate: float | Tensor,
    ridge: float,
) -> tuple[Tensors, Tensors]:
    """One step.

    Args:
        name: `sgd` or `adam`.
        parameters: name -> (P, *shape).
        gradients: the same names and shapes.
        state: what `init` or an earlier call gave.
        steps: (P,) steps already taken by each person.
        rate: step size, one for all or (P,).
        ridge: decoupled pull towards zero: parameters shrink by `rate * ridge` a step.

    Returns:
        New parameters and state; the arguments are not changed.
    """
    after: Tensors = {}
    moments: Tensors = {}
    for key, value in parameters.items():
        gradient = gradients[key]
        direction = gradient
        if name == "adam":
            count = (steps.float() + 1).reshape(-1, *[1] * (value.dim() - 1))
            moments[f"m.{key}"] = BETA1 * state[f"m.{key}"] + (1 - BETA1) * gradient
            moments[f"v.{key}"] = BETA2 * state[f"v.{key}"] + (1 - BETA2) * gradient.square()
            first = moments[f"m.{key}"] / (1 - BETA1**count)
            second = moments[f"v.{key}"] / (1 - BETA2**count)
            direction = first / (second.sqrt() + TINY)
        size = rate.reshape(-1, *[1] * (value.dim() - 1)) if isinstance(rate, Tensor) else rate
        pulled = direction + ridge * value if ridge else direction
        moved = size * pulled
        after[key] = torch.sub(value, moved, out=moved)
    return after, moments
