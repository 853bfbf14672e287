"""The one interface behind which the two preference models stand.

Axes: P people, B comparisons of a person (padded), then the parameter's own shape. Adapters are
dictionaries from tensor name to tensor. `None` in place of an adapter means that it is disabled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from commonground.losses import Loss, LossSettings

if TYPE_CHECKING:
    from commonground.training.public_models import PublicModels

Tensors = dict[str, Tensor]
Part = Literal["shared", "private"]


@dataclass(frozen=True)
class Rows:
    """Which comparisons of which people, as a padded rectangle.

    Attributes:
        index: (P, B) int64, row of the run's comparison table; padding repeats any valid row.
        mask: (P, B) float32, 1 where the entry counts and 0 where it is padding or was not drawn.
        flip: (P, B) float32, 1 where chosen and rejected are swapped (randomised response), else 0.
    """

    index: Tensor
    mask: Tensor
    flip: Tensor

    @property
    def people(self) -> int:
        """P."""
        return int(self.index.shape[0])


@dataclass(frozen=True)
class Batch:
    """Comparisons made ready for several local steps on one adapter, the other one frozen.

    A model may keep here whatever does not change from step to step.

    Attributes:
        rows: which comparisons.
        part: the adapter that trains.
        frozen: the other adapter with leading axis P (or 1), or None for disabled.
    """

    rows: Rows
    part: Part
    frozen: Tensors | None


class PreferenceModel(Protocol):
    """What the local update and the evaluation need of a preference model.

    A model is built over a fixed table of comparisons; `Rows.index` points into it. It is deterministic:
    no dropout, no batch statistics, no draws of its own.

    Attributes:
        kind: `reward` or `policy`.
        public: the same model over public safety pairs, where the configuration bounds private adapters.
    """

    kind: str
    public: PublicModels | None

    def shared_spec(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the shared adapter's trainable tensors, in a fixed order."""
        ...

    def pair_names(self, rows: np.ndarray) -> list[str]:
        """`label_coins.pair_name` of rows of the table."""
        ...

    def private_spec(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a private adapter's trainable tensors, without the person axis."""
        ...

    def initial_shared(self) -> Tensors:
        """The public starting point of the shared adapter (no person axis); the policy it gives is pi_0."""
        ...

    def initial_private(self) -> Tensors:
        """The public starting point of a private adapter (no person axis); it changes nothing yet."""
        ...

    def public_digests(self) -> dict[str, str]:
        """SHA-256 of everything public the model was built from: bases, scales, base weights."""
        ...

    def public_parts(self) -> dict[str, np.ndarray]:
        """Everything public that was computed for the model; another processor would round it otherwise."""
        ...

    def scores(self, rows: Rows, shared: Tensors | None, private: Tensors | None) -> tuple[Tensor, Tensor]:
        """Scores of chosen and rejected answers without gradients, each (P, B) float32.

        Args:
            rows: which comparisons.
            shared: shared adapter with leading axis P (or 1, which is broadcast), or None for disabled.
            private: private adapters with leading axis P (or 1), or None for disabled.
        """
        ...

    def pair_gradients(
        self,
        rows: Rows,
        shared: Tensors | None,
        private: Tensors | None,
        part: Part,
        loss: Loss,
        settings: LossSettings,
    ) -> tuple[Tensor, Tensors]:
        """Loss and gradient of every pair.

        The gradient is taken for `part`; the other adapter is frozen. The reference of the loss is the
        base policy for the shared part and the shared policy (at the same `shared`) for the private part.

        Returns:
            losses (P, B) and gradients, each (P, B, *shape); entries with mask 0 are exactly zero.
        """
        ...

    def batch(self, rows: Rows, part: Part, frozen: Tensors | None) -> Batch:
        """Make comparisons ready for `gradient_sums`; see `Batch`."""
        ...

    def gradient_sums(
        self,
        batch: Batch,
        trained: Tensors,
        loss: Loss,
        settings: LossSettings,
        weights: Tensor,
        clip: float | None = None,
    ) -> Tensors:
        """Sum over a person's pairs of weight times gradient, without keeping a gradient a pair.

        Args:
            batch: what `batch` of this model gave.
            trained: the adapter that trains, leading axis P.
            loss: of one pair.
            settings: its numbers.
            weights: (P, B); a pair of weight 0 does not count, whatever its gradient. With a clip they are
                0 or 1.
            clip: None, or the L2 norm that each pair's gradient (all tensors together) is clipped to; a
                pair whose gradient is not finite then counts as zero.

        Returns:
            Sums, each (P, *shape), float32.
        """
        ...


def person_rows(tables: Sequence[np.ndarray]) -> Rows:
    """All rows of each person as a padded rectangle.

    Args:
        tables: for each of P people the int64 rows of the comparison table that are used.

    Returns:
        Rows with B = the longest list (at least 1), mask 1 on real entries, flip 0.
    """
    index, real = padded(tables)
    mask = torch.from_numpy(real.astype(np.float32))
    return Rows(torch.from_numpy(index), mask, torch.zeros_like(mask))


def padded(lists: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of numbers as a rectangle (P, B) padded with 0 of the first list's dtype, and where it is real.

    B is the length of the longest list, at least 1.
    """
    flat = np.concatenate(lists) if len(lists) else np.zeros(0, np.int64)
    return rectangle(flat, np.array([len(one) for one in lists], dtype=np.int64))


def rectangle(flat: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`padded` of lists that already stand behind each other: (sum of lengths,) numbers, (P,) lengths."""
    real = np.arange(max(1, lengths.max(initial=0))) < lengths[:, None]
    table = np.zeros(real.shape, dtype=flat.dtype)
    table[real] = flat
    return table, real
