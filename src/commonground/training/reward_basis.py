"""The `reward` model of form `basis`: private weights on directions that everybody learns together.

    r_i(x) = u_tag . f_tag(x) + v_i . R f_taste(x),    R (dims, D) shared, v_i (dims,) private

LoRe's low-rank reward (Bose, Xiong, Chi, Du, Xiao, Fazel, COLM 2025, arXiv 2504.14439) is w_i . R f with w_i
on the simplex. Here weights are free and begin at zero, beside a common u: points of a simplex of K + 1
rewards are a common reward plus K free weights, so nothing of what simplex weights can say is lost, and who
never took part has the common reward. R begins at the first `dims` directions of the public taste basis, on
which private adapters of the other forms stay: at the start the two are the same model.

R is in the message beside u, within the same clip. Its gradient is v_i times that of the person's direction,
so it moves only where the shared phase looks at v_i: schedules `alternating` and `joint`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from commonground.comparisons import TAGS, Tag
from commonground.training.model import Rows, Tensors
from commonground.training.reward import Pairs, RewardFeatures, RewardModel
from commonground.training.reward_kernels import BasisPairs, LinearPairs, Slope

BASIS = "shared.taste.R"


class BasisRewardModel(RewardModel):
    """See the module's text.

    Args:
        features: the table's features; R has as many rows as they have private directions.

    The shared adapter learns from both tags: a basis of tastes is learned from tastes.
    """

    def __init__(self, features: RewardFeatures) -> None:
        super().__init__(features, TAGS)
        self.form = "basis"
        self._first[BASIS] = torch.eye(features.dims, features.bases["taste"].dims)

    def _pairs(
        self, tag: Tag, chosen: Tensor, rejected: Tensor, base: Tensor, private: Tensors | None
    ) -> Pairs:
        # The margin of v is no constant here: it passes through R, which trains.
        people = chosen.shape[0]
        v = torch.zeros(1, self.features.dims) if private is None else private["private.v"]
        block = self.features.block
        return BasisPairs.of(block[tag], block["taste"], chosen, rejected, v.expand(people, -1))

    def _private_pairs(
        self, chosen: Tensor, rejected: Tensor, base: Tensor, shared: Tensors | None
    ) -> LinearPairs:
        values = LinearPairs.of(self.features.block["taste"], chosen, rejected, base)
        return LinearPairs(torch.matmul(values.x, self._basis(shared).mT), base)

    def _sums(
        self, tag: Tag, pairs: Pairs, trained: Tensors, slope: Slope, share: Tensor, clip: float | None
    ) -> Tensors:
        if not isinstance(pairs, BasisPairs):
            return super()._sums(tag, pairs, trained, slope, share, clip)
        u = f"shared.{tag}.u"
        by_u, by_r = pairs.sums(trained[u], trained[BASIS], slope, share, clip)
        return {u: by_u, BASIS: by_r}

    def _private_values(self, side: Tensor, shared: Tensors | None) -> Tensor:
        return torch.matmul(self.features.block["taste"][side], self._basis(shared).mT)

    def _shared_slopes(
        self, side: Tensor, rows: Rows, shared: Tensors, private: Tensors | None, parts: Tensors
    ) -> Tensors:
        slopes = super()._shared_slopes(side, rows, shared, private, parts)
        v = torch.zeros(1, self.features.dims) if private is None else private["private.v"]
        slopes[BASIS] = v[:, None, :, None] * self.features.block["taste"][side][:, :, None]
        return slopes

    def _basis(self, shared: Tensors | None) -> Tensor:
        """(P or 1, dims, D) the directions: learned, or the public ones where nothing shared is used."""
        return self._first[BASIS][None] if shared is None else shared[BASIS]
