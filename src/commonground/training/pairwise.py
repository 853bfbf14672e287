"""Sums over pairs by way of one gradient a pair: the plain way, right for every model."""

from __future__ import annotations

import torch
from torch import Tensor

from commonground.losses import Loss, LossSettings
from commonground.privacy.mechanisms import clip_per_pair
from commonground.training.model import Batch, PreferenceModel, Rows, Tensors


def pairwise_sums(
    model: PreferenceModel,
    batch: Batch,
    trained: Tensors,
    loss: Loss,
    settings: LossSettings,
    weights: Tensor,
    clip: float | None = None,
) -> Tensors:
    """`PreferenceModel.gradient_sums` by `pair_gradients`; pairs of weight 0 cost nothing."""
    rows = batch.rows
    drawn = Rows(rows.index, (weights != 0).float() * rows.mask, rows.flip)
    shared, private = (trained, batch.frozen) if batch.part == "shared" else (batch.frozen, trained)
    _, gradients = model.pair_gradients(drawn, shared, private, batch.part, loss, settings)
    if clip is not None:
        return clip_per_pair(gradients, clip)[0]
    return {name: torch.einsum("pb,pb...->p...", weights, value) for name, value in gradients.items()}
