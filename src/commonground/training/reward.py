"""The `reward` model: a Bradley-Terry reward over frozen embeddings.

Shared adapter: one block a tag, acting on that tag's comparisons in that tag's public basis,
`r_s(x) = u_tag . f_tag(x)` (form `linear`) or `u_tag . tanh(A_tag f_tag(x))` (form `tanh`).
Private adapter: `dims` numbers, acting on *every* comparison along the first directions of the taste
basis, `r_i(x) = r_s(x) + v_i . g(x)`: what a person teaches her device about taste also reaches answers
about safety, and the evaluation shows by how much. In form `basis` those directions are learned together:
`training.reward_basis`.

The base policy's reward is 0 everywhere. The reference of the losses is that zero reward, because these
scores are rewards and not log-ratios: `dpo` with beta = 1 is then the Bradley-Terry loss.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from commonground.comparisons import TAGS, Comparison, Tag
from commonground.errors import InputError
from commonground.given import Parts, close_part
from commonground.losses import Loss, LossSettings, PreferenceLoss, reward_scores
from commonground.randomness import generator
from commonground.training.basis import PublicBasis, bases_as_parts
from commonground.training.label_coins import pair_name
from commonground.training.model import Batch, Part, Rows, Tensors
from commonground.training.pairwise import pairwise_sums
from commonground.training.reward_kernels import BasisPairs, LinearPairs, Slope, TanhPairs

if TYPE_CHECKING:
    from commonground.training.public_models import PublicModels

HIDDEN = 8  # rank of A in the tanh form, where the basis has so many directions
START = "start."  # of the names of public parts that are the start of a tensor that trains
Form = Literal["linear", "tanh", "basis"]
Pairs = LinearPairs | TanhPairs | BasisPairs


class RewardFeatures:
    """Features of a run's comparison table; shared by every model built over it.

    Args:
        comparisons: the table; `Rows.index` points into it.
        embeddings: text -> unit vector (D,) float32.
        bases: one public basis a tag.
        dims: private directions (the first of the taste basis).
        also: texts that get features although no comparison of the table has them.

    Attributes:
        place: text -> its row of features.
        texts: row of features -> text.
    """

    def __init__(
        self,
        comparisons: Sequence[Comparison],
        embeddings: dict[str, np.ndarray],
        bases: dict[Tag, PublicBasis],
        dims: int,
        also: Sequence[str] = (),
    ) -> None:
        if not 1 <= dims <= bases["taste"].dims:
            raise InputError(f"model.dims is {dims}; accepted: 1 to {bases['taste'].dims} with this basis")
        texts = sorted({text for c in comparisons for text in (c.chosen, c.rejected)}.union(also))
        self.place = place = {text: row for row, text in enumerate(texts)}
        self.texts = tuple(texts)
        matrix = np.stack([embeddings[text] for text in texts])
        self.bases, self.dims = bases, dims
        self.chosen = torch.tensor([place[c.chosen] for c in comparisons])
        self.rejected = torch.tensor([place[c.rejected] for c in comparisons])
        self.tag = torch.tensor([TAGS.index(c.tag) for c in comparisons])
        self.block = {tag: torch.from_numpy(bases[tag].features(matrix)) for tag in TAGS}
        self.private = torch.from_numpy(bases["taste"].features(matrix, dims))

    def over(self, chosen: np.ndarray, rejected: np.ndarray, tag: np.ndarray) -> RewardFeatures:
        """The same texts under another table: (n,) rows of chosen and rejected texts, and `TAGS` numbers."""
        other = copy.copy(self)
        other.chosen, other.rejected = torch.from_numpy(chosen), torch.from_numpy(rejected)
        other.tag = torch.from_numpy(tag)
        return other


@dataclass(frozen=True)
class _TagPairs:
    """The pairs of one tag among the rows of a batch.

    Attributes:
        place: (P, B_tag) int64, their columns in the rows.
        real: (P, B_tag) 1 where the entry is a pair of this tag.
        pairs: their features.
    """

    place: Tensor
    real: Tensor
    pairs: Pairs


@dataclass(frozen=True)
class RewardBatch(Batch):
    """Features of a batch: of each shared tag when the shared adapter trains, else of the private one."""

    shared: dict[Tag, _TagPairs]
    private: LinearPairs | None


class RewardModel:
    """See the module's text; implements `PreferenceModel`.

    Args:
        features: the table's features.
        tags: the tags whose blocks the shared adapter has.
        form: `linear` or `tanh`; `basis` is a class of its own.
        seed: of the public initial A (form `tanh`).
        parts: public parts with that A; None takes the one that is computed here.
    """

    kind = "reward"
    public: PublicModels | None = None

    def __init__(
        self,
        features: RewardFeatures,
        tags: Sequence[Tag],
        form: Form = "linear",
        seed: int = 0,
        parts: Parts | None = None,
    ) -> None:
        self.features = features
        self.tags = tuple(tag for tag in TAGS if tag in tags)
        self.form = form
        self._first: Tensors = {}
        for tag in self.tags:
            size = features.bases[tag].dims
            if form == "tanh":
                rank = min(HIDDEN, size)
                draws = generator(seed, "public", "A", tag).standard_normal((size, rank))
                rows = np.ascontiguousarray(np.linalg.qr(draws)[0].T, np.float32)
                name = f"shared.{tag}.A"
                self._first[name] = torch.tensor(close_part(parts, f"{START}{name}", rows))
                self._first[f"shared.{tag}.u"] = torch.zeros(rank)
            else:
                self._first[f"shared.{tag}.u"] = torch.zeros(size)

    def over(self, features: RewardFeatures) -> RewardModel:
        """The same model over another table of the same texts."""
        other = copy.copy(self)
        other.features = features
        return other

    def pair_names(self, rows: np.ndarray) -> list[str]:
        """See `PreferenceModel`."""
        texts, at = self.features.texts, torch.from_numpy(np.asarray(rows, np.int64))
        both = zip(self.features.chosen[at].tolist(), self.features.rejected[at].tolist(), strict=True)
        return [pair_name(texts[chosen], texts[rejected]) for chosen, rejected in both]

    def shared_spec(self) -> dict[str, tuple[int, ...]]:
        """`shared.<tag>.u` (and `.A`) of every shared tag."""
        return {name: tuple(value.shape) for name, value in self._first.items()}

    def private_spec(self) -> dict[str, tuple[int, ...]]:
        """`private.v`: (dims,)."""
        return {"private.v": (self.features.dims,)}

    def initial_shared(self) -> Tensors:
        """Zero weights (and the public A): the base policy."""
        return {name: value.clone() for name, value in self._first.items()}

    def initial_private(self) -> Tensors:
        """Zeros."""
        return {"private.v": torch.zeros(self.features.dims)}

    def public_digests(self) -> dict[str, str]:
        """Digests of the bases with their scales, and of the initial shared adapter."""
        first = hashlib.sha256(b"".join(v.numpy().tobytes() for v in self._first.values())).hexdigest()
        return {f"basis.{tag}": self.features.bases[tag].digest for tag in TAGS} | {"initial.shared": first}

    def public_parts(self) -> dict[str, np.ndarray]:
        """The bases with their scales, and the public A's."""
        found = bases_as_parts(self.features.bases)
        for tag in self.tags if self.form == "tanh" else ():
            name = f"shared.{tag}.A"
            found[f"{START}{name}"] = self._first[name].numpy()
        return found

    def scores(self, rows: Rows, shared: Tensors | None, private: Tensors | None) -> tuple[Tensor, Tensor]:
        """Rewards of chosen and rejected, each (P, B); see `PreferenceModel.scores`."""
        chosen, rejected = (self._rewards(side, rows, shared, private)[0] for side in self._sides(rows))
        return chosen, rejected

    def pair_gradients(
        self,
        rows: Rows,
        shared: Tensors | None,
        private: Tensors | None,
        part: Part,
        loss: Loss,
        settings: LossSettings,
    ) -> tuple[Tensor, Tensors]:
        """Loss and gradient of every pair; see `PreferenceModel.pair_gradients`.

        The loss is differentiated with respect to the two rewards of each pair, the rewards with respect
        to the adapter in closed form: no pair can touch another.
        """
        sides = self._sides(rows)
        (chosen, chosen_parts), (rejected, rejected_parts) = (
            self._rewards(side, rows, shared, private) for side in sides
        )
        chosen, rejected = chosen.detach().requires_grad_(), rejected.detach().requires_grad_()
        zero = torch.zeros_like(chosen)
        losses = loss(reward_scores(chosen, rejected, zero, zero), settings)
        slopes = torch.autograd.grad(losses.sum(), (chosen, rejected), materialize_grads=True)
        gradients: Tensors = {}
        for side, parts, slope in zip(sides, (chosen_parts, rejected_parts), slopes, strict=True):
            weight = slope * rows.mask
            found = (
                {"private.v": self._private_values(side, shared)}
                if part == "private"
                else self._shared_slopes(side, rows, shared or {}, private, parts)
            )
            for name, value in found.items():
                term = weight.reshape(*weight.shape, *[1] * (value.dim() - 2)) * value
                gradients[name] = gradients[name] + term if name in gradients else term
        return losses.detach() * rows.mask, gradients

    def batch(self, rows: Rows, part: Part, frozen: Tensors | None) -> RewardBatch:
        """Gather the features of comparisons once for several steps."""
        chosen, rejected = self._sides(rows)
        shared, private = (None, frozen) if part == "shared" else (frozen, None)
        frozen_rewards = (self._rewards(side, rows, shared, private)[0] for side in (chosen, rejected))
        base = next(frozen_rewards) - next(frozen_rewards)
        if part == "private":
            return RewardBatch(rows, part, frozen, {}, self._private_pairs(chosen, rejected, base, shared))
        tags = {}
        for tag in self.tags:
            here = (self._here(tag, rows) * rows.mask) > 0
            width = int(here.sum(1).max())
            if width == 0:
                continue
            place = torch.sort((~here).to(torch.uint8), dim=1, stable=True).indices[:, :width]
            sides = chosen.gather(1, place), rejected.gather(1, place)
            pairs = self._pairs(tag, *sides, base.gather(1, place), private)
            tags[tag] = _TagPairs(place, here.gather(1, place).float(), pairs)
        return RewardBatch(rows, part, frozen, tags, None)

    def gradient_sums(
        self,
        batch: Batch,
        trained: Tensors,
        loss: Loss,
        settings: LossSettings,
        weights: Tensor,
        clip: float | None = None,
    ) -> Tensors:
        """See `PreferenceModel.gradient_sums`; in closed form for losses of the margin."""
        if not isinstance(batch, RewardBatch):
            raise TypeError(f"a {type(batch).__name__} is no batch of this model")
        if not (isinstance(loss, PreferenceLoss) and loss.of_margin_only(settings)):
            return pairwise_sums(self, batch, trained, loss, settings, weights, clip)
        slope = _slope(loss, settings)
        weights = weights * batch.rows.mask
        if batch.private is not None:
            return {"private.v": batch.private.sums(trained["private.v"], slope, weights, clip)}
        found: Tensors = {}
        for tag, own in batch.shared.items():
            share = weights.gather(1, own.place) * own.real
            for name, value in self._sums(tag, own.pairs, trained, slope, share, clip).items():
                found[name] = found[name] + value if name in found else value
        return {n: found[n] if n in found else torch.zeros_like(value) for n, value in trained.items()}

    def _pairs(
        self, tag: Tag, chosen: Tensor, rejected: Tensor, base: Tensor, private: Tensors | None
    ) -> Pairs:
        """Pairs of a tag for steps on the shared adapter; `base` is the margin of the frozen private one."""
        kind = TanhPairs if self.form == "tanh" else LinearPairs
        return kind.of(self.features.block[tag], chosen, rejected, base)

    def _private_pairs(
        self, chosen: Tensor, rejected: Tensor, base: Tensor, shared: Tensors | None
    ) -> LinearPairs:
        """Pairs for steps on the private adapter; `base` is the margin of the frozen shared one."""
        return LinearPairs.of(self.features.private, chosen, rejected, base)

    def _sums(
        self, tag: Tag, pairs: Pairs, trained: Tensors, slope: Slope, share: Tensor, clip: float | None
    ) -> Tensors:
        """The part of `gradient_sums` that the pairs of one tag give."""
        a, u = f"shared.{tag}.A", f"shared.{tag}.u"
        if isinstance(pairs, TanhPairs):
            by_a, by_u = pairs.sums(trained[a], trained[u], slope, share, clip)
            return {a: by_a, u: by_u}
        if isinstance(pairs, LinearPairs):
            return {u: pairs.sums(trained[u], slope, share, clip)}
        raise TypeError(f"{type(pairs).__name__} are no pairs of form {self.form}")

    def _private_values(self, side: Tensor, shared: Tensors | None) -> Tensor:
        """(P, B, dims) what private weights act on, of texts."""
        return self.features.private[side]

    def _sides(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Text rows of the preferred and the other answer, each (P, B), labels flipped where asked."""
        chosen, rejected = self.features.chosen[rows.index], self.features.rejected[rows.index]
        flip = rows.flip > 0
        return torch.where(flip, rejected, chosen), torch.where(flip, chosen, rejected)

    def _rewards(
        self, side: Tensor, rows: Rows, shared: Tensors | None, private: Tensors | None
    ) -> tuple[Tensor, Tensors]:
        """Rewards (P, B) of texts, and the tanh activations a tag that the gradient needs."""
        total = torch.zeros(side.shape)
        parts: Tensors = {}
        if shared is not None:
            for tag in self.tags:
                here = self._here(tag, rows)
                if not here.any():
                    continue
                values = self.features.block[tag][side]
                if self.form == "tanh":
                    values = torch.tanh(torch.einsum("pbd,phd->pbh", values, shared[f"shared.{tag}.A"]))
                    parts[tag] = values
                total = total + here * torch.einsum("pbd,pd->pb", values, shared[f"shared.{tag}.u"])
        if private is not None:
            values = self._private_values(side, shared)
            total = total + torch.einsum("pbd,pd->pb", values, private["private.v"])
        return total, parts

    def _here(self, tag: Tag, rows: Rows) -> Tensor:
        return (self.features.tag[rows.index] == TAGS.index(tag)).float()

    def _shared_slopes(
        self, side: Tensor, rows: Rows, shared: Tensors, private: Tensors | None, parts: Tensors
    ) -> Tensors:
        """Derivatives of rewards by shared tensors, each (P, B, *shape); zero where the tag is another."""
        slopes: Tensors = {}
        for tag in self.tags:
            here = self._here(tag, rows)[..., None]
            values = self.features.block[tag][side]
            if self.form != "tanh":
                slopes[f"shared.{tag}.u"] = here * values
                continue
            active = parts.get(tag)
            if active is None:
                active = torch.zeros(*side.shape, shared[f"shared.{tag}.u"].shape[-1])
            inner = here * shared[f"shared.{tag}.u"][:, None] * (1 - active.square())
            slopes[f"shared.{tag}.A"] = inner[..., None] * values[:, :, None]
            slopes[f"shared.{tag}.u"] = here * active
        return slopes


def _slope(loss: Loss, settings: LossSettings) -> Slope:
    """Derivative of the loss in the margin, pair by pair."""

    def slope(margin: Tensor) -> Tensor:
        leaf = margin.detach().requires_grad_()
        zero = torch.zeros_like(margin)
        with torch.enable_grad():
            losses = loss(reward_scores(leaf, zero, zero, zero), settings)
        return torch.autograd.grad(losses.sum(), leaf)[0]

    return slope
