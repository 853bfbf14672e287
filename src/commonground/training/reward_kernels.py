"""Sums of clipped gradients of reward models, for many people in one tensor operation.

A pair's gradient is never held in memory. For `r = v . x` it is `s x`, with s the slope of the loss in the
margin and x the difference of the two answers' features, so its norm is |s| |x|. For `r = u . tanh(A x)` the
part by A is `a c' - b r'` with vectors a, b and the features c, r of the two answers; its squared norm is
`|a|^2 |c|^2 + |b|^2 |r|^2 - 2 (a.b)(c.r)`: a 2 x 2 Gram matrix instead of a matrix a pair. For `r = u . x +
v . R y` with v frozen, R's part is `v (s y)'`, the same v for all pairs of a person: it is summed over pairs
before it is a matrix.

Axes: P people, B pairs, D features, H hidden. Losses are of the margin only. Norms are float64.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

Slope = Callable[[Tensor], Tensor]  # margins (P, B) -> derivative of each pair's loss

# Weighting, multiplying and subtracting each round to float32 (2^-24); eight such units are allowed for.
ROUNDING = 2.0**-21


@dataclass(frozen=True)
class LinearPairs:
    """Pairs of a linear reward.

    Attributes:
        x: (P, B, D) features of chosen minus rejected.
        base: (P, B) margin that the frozen adapter gives.
    """

    x: Tensor
    base: Tensor

    @classmethod
    def of(cls, block: Tensor, chosen: Tensor, rejected: Tensor, base: Tensor) -> LinearPairs:
        """Pairs of texts: `block` (T, D), `chosen` and `rejected` (P, B) int64."""
        return cls(_rows(block, chosen).sub_(_rows(block, rejected)), base)

    @cached_property
    def norms(self) -> Tensor:
        """(P, B) float64 length of `x`; only a clip asks for it."""
        found: Tensor = torch.linalg.vector_norm(self.x, dim=2, dtype=torch.float64)
        return found

    def sums(self, v: Tensor, slope: Slope, weights: Tensor, clip: float | None) -> Tensor:
        """(P, D) sums for `v` (P, D); see `PreferenceModel.gradient_sums`."""
        margin = self.base + torch.bmm(self.x, v.unsqueeze(2)).squeeze(2)
        slopes = slope(margin)
        if clip is not None:
            slopes, factors = bounded(slopes, slopes.double().abs() * self.norms, clip)
            slopes = slopes * factors
        return torch.bmm((slopes * weights).unsqueeze(1), self.x).squeeze(1)


@dataclass(frozen=True)
class BasisPairs:
    """Pairs of a reward `u . x + v . R y`, for steps on u and R.

    Attributes:
        x: (P, B, D) features of chosen minus rejected, of the pairs' own tag.
        y: (P, B, E) features of chosen minus rejected, on which R acts.
        v: (P, K) private weights, frozen.
    """

    x: Tensor
    y: Tensor
    v: Tensor

    @classmethod
    def of(cls, block: Tensor, basis: Tensor, chosen: Tensor, rejected: Tensor, v: Tensor) -> BasisPairs:
        """Pairs of texts: `block` (T, D), `basis` (T, E), `chosen` and `rejected` (P, B) int64."""
        x = _rows(block, chosen).sub_(_rows(block, rejected))
        y = x if basis is block else _rows(basis, chosen).sub_(_rows(basis, rejected))
        return cls(x, y, v)

    @cached_property
    def norms(self) -> Tensor:
        """(P, B) float64 length of the margin's gradient by u and R together; only a clip asks for it."""
        u, y = (torch.linalg.vector_norm(part, dim=2, dtype=torch.float64) for part in (self.x, self.y))
        v = torch.linalg.vector_norm(self.v, dim=1, keepdim=True, dtype=torch.float64)
        return torch.hypot(u, v * y)

    def sums(
        self, u: Tensor, r: Tensor, slope: Slope, weights: Tensor, clip: float | None
    ) -> tuple[Tensor, Tensor]:
        """Sums for u (P, D) and R (P, K, E); see `PreferenceModel.gradient_sums`."""
        own = torch.bmm(self.v.unsqueeze(1), r).squeeze(1)
        margin = torch.bmm(self.x, u.unsqueeze(2)) + torch.bmm(self.y, own.unsqueeze(2))
        slopes = slope(margin.squeeze(2))
        if clip is not None:
            slopes, factors = bounded(slopes, slopes.double().abs() * self.norms, clip)
            slopes = slopes * factors
        share = (slopes * weights).unsqueeze(1)
        by_u, by_y = torch.bmm(share, self.x).squeeze(1), torch.bmm(share, self.y)
        return by_u, self.v.unsqueeze(2) * by_y


@dataclass(frozen=True)
class TanhPairs:
    """Pairs of a tanh reward.

    Attributes:
        x: (P, 2B, D) features of the chosen answers, then of the rejected ones.
        base: (P, B) margin that the frozen adapter gives.
        squares: (P, 2B) float64 squared length of `x`.
        cross: (P, B) float64 inner product of the two answers.
    """

    x: Tensor
    base: Tensor
    squares: Tensor
    cross: Tensor

    @classmethod
    def of(cls, block: Tensor, chosen: Tensor, rejected: Tensor, base: Tensor) -> TanhPairs:
        """Pairs of texts: `block` (T, D), `chosen` and `rejected` (P, B) int64."""
        both, pairs = torch.cat([chosen, rejected], 1), chosen.shape[1]
        x = _rows(block, both)
        return cls(x, base, _squares(block)[both], _dots(x[:, :pairs], x[:, pairs:]))

    def sums(
        self, a: Tensor, u: Tensor, slope: Slope, weights: Tensor, clip: float | None
    ) -> tuple[Tensor, Tensor]:
        """Sums for A (P, H, D) and u (P, H)."""
        pairs = self.base.shape[1]
        # Hidden before pairs, (P, H, 2B): with A on the left the product takes half the time.
        t = torch.bmm(a, self.x.mT).tanh_()
        difference = t[:, :, :pairs] - t[:, :, pairs:]
        margin = self.base + torch.bmm(u.unsqueeze(1), difference).squeeze(1)
        slopes = slope(margin)
        inner = (1 - t.square_()).mul_(u.unsqueeze(2))  # d r / d (A x)
        if clip is not None:
            norms = slopes.double().abs() * self._lengths(inner, difference)
            slopes, factors = bounded(slopes, norms, clip)
            slopes = slopes * factors
        slopes = slopes * weights
        inner *= torch.cat([slopes, -slopes], 1).unsqueeze(1)
        return torch.bmm(inner, self.x), torch.bmm(difference, slopes.unsqueeze(2)).squeeze(2)

    def _lengths(self, inner: Tensor, difference: Tensor) -> Tensor:
        """(P, B) float64: a bound on the length of each pair's gradient of the margin as float32 sums it.

        The sum subtracts the answers' outer products, so where they nearly agree its rounding is not small
        beside the result. It grows with what is subtracted, and is added to the exact length.
        """
        wide, pairs = inner.double(), self.base.shape[1]
        own = wide.square().sum(1).mul_(self.squares)
        mixed = (wide[:, :, :pairs] * wide[:, :, pairs:]).sum(1).mul_(self.cross)
        direct = difference.double().square_().sum(1)
        squared = own[:, :pairs] + own[:, pairs:] - 2 * mixed + direct
        sizes = own.sqrt_()
        rounding = (sizes[:, :pairs] + sizes[:, pairs:]).mul_(ROUNDING)
        bound: Tensor = squared.clamp_(min=0).sqrt_().add_(rounding)
        return bound


def _rows(block: Tensor, index: Tensor) -> Tensor:
    """`block[index]`, several times quicker."""
    return torch.index_select(block, 0, index.reshape(-1)).view(*index.shape, block.shape[1])


def _squares(block: Tensor) -> Tensor:
    """(T,) float64 squared lengths of a table's rows, kept for as long as the table is there, unchanged."""
    kept = _KEPT.get(id(block))
    if kept is None or kept[0]() is not block or kept[1] != block._version:
        number = id(block)
        reference = weakref.ref(block, lambda _: _KEPT.pop(number, None))
        kept = _KEPT[number] = (reference, block._version, _dots(block, block))
    return kept[2]


_KEPT: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = {}


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """Inner products along the last axis in float64, in one pass without float64 copies of the arguments."""
    found = np.einsum("...d,...d->...", left.numpy(), right.numpy(), dtype=np.float64)
    return torch.from_numpy(found)


def bounded(slopes: Tensor, norms: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Slopes without those of pairs whose gradient is not finite, and the clip factors min(1, C / norm)."""
    finite = norms.isfinite()
    if not finite.all():
        slopes, norms = torch.where(finite, slopes, 0.0), torch.where(finite, norms, 0.0)
    if clip == float("inf"):
        return slopes, torch.ones_like(slopes)
    return slopes, (clip / norms.clamp(min=clip)).to(slopes.dtype)
