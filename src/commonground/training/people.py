"""The people of one call of the local update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from commonground.comparisons import Tag
from commonground.training.model import Tensors


@dataclass(frozen=True)
class People:
    """The people of one call.

    Attributes:
        index: person numbers in the run, the key of their random streams.
        rows: for each person and tag, the rows of the comparison table used for training.
        names: for each person and tag, a name for each of those rows, under which its choice is flipped where
            choices are; None names them by their answers, numbered among the rows.
    """

    index: tuple[int, ...]
    rows: tuple[Mapping[Tag, np.ndarray], ...]
    names: tuple[Mapping[Tag, Sequence[str]], ...] | None = None


def take(tensors: Tensors, people: int) -> Tensors:
    """Tensors without a person axis, repeated along a new leading axis of length `people`."""
    return {k: v.unsqueeze(0).expand(people, *v.shape).clone() for k, v in tensors.items()}


def along(people: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(P,) numbers shaped so that they multiply (P, *shape) `value` person by person."""
    return people.reshape(-1, *[1] * (value.dim() - 1))


def choose(people: torch.Tensor, left: Tensors, right: Tensors) -> Tensors:
    """`left` for the people of a (P,) bool, `right` for the others."""
    return {k: torch.where(along(people, v), v, right[k]) for k, v in left.items()}
