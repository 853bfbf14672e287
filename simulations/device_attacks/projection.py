"""Safe LoRA's idea as a defence of weights: the private adapter is kept out of what the shared one uses.

    B_v <- (I - Q Q') B_v    with Q an orthonormal basis of the columns of B_u
    A_v <- A_v (I - P P')    with P one of the rows of A_u

Hsu et al., NeurIPS 2024, arXiv 2405.16833, with exact projectors. It undoes what lies in that space, such
as a cancellation, and guarantees nothing: an attacker trains in the complement (`mechanisms.MECHANISMS`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from commonground.adapter_forms import Lora
from commonground.adapters import PRIVATE, SHARED, Adapters
from commonground.errors import InputError
from commonground.training.model import Tensors

TINY = 1e-6  # of the largest singular value: directions below are rounding


def project(adapters: Adapters, shared: Tensors, private: Tensors) -> Tensors:
    """The private adapter without its parts in the shared one's directions.

    Args:
        adapters: whose private form is a LoRA.
        shared: the shared adapter, without person axis.
        private: the private one, likewise.

    Raises:
        InputError: the private adapter is no LoRA, whose directions are its own.
    """
    if not isinstance(adapters.forms[PRIVATE], Lora):
        raise InputError("projection needs model.adapter=lora: other forms have public directions")
    found: Tensors = {}
    for target, (a, b) in zip(adapters.targets, adapters.factors(SHARED, shared), strict=True):
        stem = f"{PRIVATE}.{target.name}"
        left, right = _columns(b), _columns(a.T)
        down, up = private[f"{stem}.A"], private[f"{stem}.B"]
        found[f"{stem}.A"] = down - (down @ right) @ right.T
        found[f"{stem}.B"] = up - left @ (left.T @ up)
    return found


def _columns(matrix: Tensor) -> Tensor:
    """An orthonormal basis of what the columns span, (n, rank)."""
    left, size, _ = torch.linalg.svd(matrix, full_matrices=False)
    found: Tensor = left[:, size > TINY * size.max().clamp(min=1e-30)]
    return found
