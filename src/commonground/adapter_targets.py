"""Where adapters sit on a model, and the public orthonormal matrices that they start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from commonground.errors import InputError, ModelError
from commonground.randomness import generator


@dataclass(frozen=True)
class Target:
    """A linear map that both adapters sit on.

    Attributes:
        name: e.g. ``layers.22.q_proj``.
        module: its full path in the model.
        inputs: columns of A.
        outputs: rows of B.
        conv: True for GPT-2's Conv1D, which stores its weight transposed.
    """

    name: str
    module: str
    inputs: int
    outputs: int
    conv: bool


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and list of the decoder layers: the outermost ModuleList as long as the config says."""
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise ModelError(f"no list of {depth} decoder layers in {type(model).__name__}; a decoder is needed")
    return min(lists, key=lambda pair: pair[0].count("."))


def find_targets(model: nn.Module, layers: int) -> tuple[Target, ...]:
    """All linear maps of the top `layers` decoder layers (0 = all), in the model's order."""
    path, stack = decoder_layers(model)
    if not 0 <= layers <= len(stack):
        raise InputError(f"model.layers is {layers}; this model has {len(stack)} (0 = all of them)")
    found: list[Target] = []
    for index in range(len(stack) - (layers or len(stack)), len(stack)):
        maps = [(n, m) for n, m in stack[index].named_modules() if _linear(m)]
        leaves = [n.rsplit(".", 1)[-1] for n, _ in maps]
        for name, module in maps:
            leaf = name.rsplit(".", 1)[-1]
            short = leaf if leaves.count(leaf) == 1 else name
            shape = tuple(module.weight.shape)
            conv = not isinstance(module, nn.Linear)
            outputs, inputs = (shape[1], shape[0]) if conv else shape
            found.append(Target(f"layers.{index}.{short}", f"{path}.{index}.{name}", inputs, outputs, conv))
    if not found:
        raise ModelError(f"no linear maps in the decoder layers of {type(model).__name__}")
    return tuple(found)


def unadapted_experts(model: nn.Module, targets: tuple[Target, ...]) -> list[str]:
    """Paths of the experts of a mixture on which no adapter sits: their weights are no linear maps."""
    sits = tuple(target.module for target in targets)
    return [
        name
        for name, module in model.named_modules()
        if name.endswith(".experts")
        and any(True for _ in module.parameters())
        and not any(path.startswith(f"{name}.") for path in sits)
    ]


def orthonormal(rows: int, columns: int, seed: int, *name: str | int) -> Tensor:
    """Public (rows, columns) float32 matrix with orthonormal rows: QR of a seeded Gaussian."""
    if rows > columns:
        raise InputError(f"model.rank is {rows}; at most {columns} here, the smallest side of a linear map")
    draw = generator(seed, "basis", *name).standard_normal((columns, rows))
    q, r = np.linalg.qr(draw)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # QR is unique only up to signs
    return torch.from_numpy(np.ascontiguousarray(q.T).astype(np.float32))


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
