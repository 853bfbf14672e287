"""P5: the shared adapter is cancelled, so that the personal policy is the base policy.

With W' = W + s (B_u A_u + B_v A_v), the private B_v A_v = -B_u A_u leaves W. A private LoRA of at least the
rank of B_u A_u can be that exactly: A_v = A_u, B_v = -B_u. Of a smaller rank the nearest there is are the
largest singular directions (Eckart and Young, 1936). A form with public maps (`core`, `styles`) is linear in
what trains, and takes the least-squares solution of

    min_x  sum over maps of || B(x) A + B_u A_u ||^2

by conjugate gradients, whose adjoint is the form's own `pull`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from commonground.adapter_forms import Factors, Form, Lora
from commonground.adapters import PRIVATE, SHARED, Adapters
from commonground.simulations.device_attacks.base import Attack, Scene
from commonground.training.model import Tensors

ITERATIONS, SMALL = 50, 1e-12


@dataclass(frozen=True)
class Cancellation(Attack):
    """The private adapter is the shared one, subtracted."""

    code = "P5"
    says = "the shared adapter is subtracted: what is left is the base policy"

    def private(self, scene: Scene, draws: np.random.Generator) -> Tensors:
        """See `Attack`; nothing in it is random."""
        adapters = scene.model.adapters
        shared = adapters.factors(SHARED, scene.shared)
        form = adapters.forms[PRIVATE]
        return _subtracted(adapters, shared) if isinstance(form, Lora) else _nearest(form, shared)


def _subtracted(adapters: Adapters, shared: Factors) -> Tensors:
    found: Tensors = {}
    for target, (a, b) in zip(adapters.targets, shared, strict=True):
        stem = f"{PRIVATE}.{target.name}"
        rank = adapters.spec(PRIVATE)[f"{stem}.A"][0]
        down, up = _of_rank(a, b, rank)
        more = rank - len(down)
        found[f"{stem}.A"] = torch.cat([down, torch.zeros(more, target.inputs)])
        found[f"{stem}.B"] = torch.cat([-up, torch.zeros(target.outputs, more)], dim=1)
    return found


def _of_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of B A with at most `rank` rows: as they are, or its largest singular directions."""
    if len(a) <= rank:
        return a, b
    left, size, right = torch.linalg.svd((b @ a).double(), full_matrices=False)
    return right[:rank].float(), (left[:, :rank] * size[:rank]).float()


def _nearest(form: Form, shared: Factors) -> Tensors:
    """The least-squares solution in a form that is linear in its tensors."""
    zeros = {name: torch.zeros(shape) for name, shape in form.spec().items()}
    maps = [a for a, _ in form.factors(zeros)]

    def adjoint(changes: Sequence[Tensor]) -> Tensors:
        gradients = {name: change @ a.T for name, a, change in zip(form.trained, maps, changes, strict=True)}
        return form.pull(gradients)

    def change(x: Tensors) -> list[Tensor]:
        return [b @ a for a, b in form.factors(x)]

    def dot(x: Tensors, y: Tensors) -> float:
        return float(sum((x[name].double() * y[name].double()).sum() for name in x))

    x, left = zeros, adjoint([-(b @ a) for a, b in shared])
    step, size = left, dot(left, left)
    first = size
    for _ in range(ITERATIONS):
        if size <= SMALL * first:
            break
        turned = adjoint(change(step))
        length = size / dot(step, turned)
        x = {name: x[name] + length * step[name] for name in x}
        left = {name: left[name] - length * turned[name] for name in x}
        before, size = size, dot(left, left)
        step = {name: left[name] + size / before * step[name] for name in x}
    return x
