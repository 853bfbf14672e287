"""Constrained DPO in the private phase (methods F2, primal-dual): a price on losing public safety pairs.

    minimise taste loss of v   subject to   g(v) = mean sigma(beta D(v)) >= b = g(shared) - tolerance

over public safety pairs, D the advantage of the safe answer. Each step follows taste gradient - price grad g,
and then raises or lowers the price: lam <- [lam + eta (b - ghat)]_+, at most 20, with ghat a running mean of
g. The price in use is a running mean of lam, since lam itself oscillates. Safe RLHF: Dai et al., ICLR 2024,
arXiv 2310.12773; primal-dual DPO: arXiv 2510.05703.

`guarantee: average`. It is a statement about a mean over the pairs that were trained on, while training:
single answers are free, and so is an attacker, who need not follow the price.

Privacy: pairs and their gradients are public, and g, lam and the step are computed from the current adapter,
which is already private output of the steps before. So the price is post-processing, and a lifetime costs
what it cost without. It does tell about the person: it stays in the private state, which nothing uploads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from commonground.losses import LossSettings, Scores
from commonground.randomness import generator
from commonground.training.model import PreferenceModel, Rows, Tensors
from commonground.training.people import along, take
from commonground.training.plan import ConstraintPlan

if TYPE_CHECKING:
    from commonground.training.public_models import PublicModels


def unsafe_side(scores: Scores, settings: LossSettings) -> Tensor:
    """-sigma(beta D): its mean over public pairs is -g."""
    return -torch.sigmoid(settings.beta * scores.advantage)


def first_dual(people: int, plan: ConstraintPlan | None) -> Tensors:
    """Where prices begin, (P,) float64 each; nothing where there is no constraint."""
    if plan is None:
        return {}
    return {name: torch.zeros(people, dtype=torch.float64) for name in ("price", "seen", "used")}


class Constraint:
    """The constraint of people's private phase at a frozen shared adapter.

    Args:
        public: the model over the public pairs.
        people: their numbers in the run.
        shared: the frozen shared adapter, leading axis P.
        plan: see `ConstraintPlan`.
        seed: of the draws of public pairs.
        stream: name of the random streams.
    """

    def __init__(
        self,
        public: PublicModels,
        people: tuple[int, ...],
        shared: Tensors | None,
        plan: ConstraintPlan,
        seed: int,
        stream: str,
    ) -> None:
        self._public, self._people, self._shared, self._plan = public, people, shared, plan
        self._seed, self._stream = seed, stream
        self._rows = public.rows(public.trains, len(people))
        self.floor = self._of_shared() - plan.tolerance

    def pull(self, adapter: Tensors, dual: Tensors, steps: Tensor) -> tuple[Tensors, Tensors]:
        """What is added to the gradient of the step, and the prices after it.

        Args:
            adapter: name -> (P, *shape).
            dual: what `first_dual` or an earlier call gave.
            steps: (P,) steps already taken.
        """
        plan = self._plan
        now, gradients = self._chance(adapter, self._drawn(steps))
        seen = torch.where(steps == 0, now, self._running(dual["seen"], now))
        price = (dual["price"] + plan.rate * (self.floor - seen)).clamp(0, plan.most)
        used = self._running(dual["used"], price)
        pulled = {name: along(used.to(value.dtype), value) * value for name, value in gradients.items()}
        return pulled, {"price": price, "seen": seen, "used": used}

    def chance(self, adapter: Tensors) -> Tensor:
        """(P,) float64 g of the adapters over all public pairs."""
        return self._chance(adapter, self._rows)[0]

    def _running(self, before: Tensor, now: Tensor) -> Tensor:
        return self._plan.memory * before + (1 - self._plan.memory) * now

    def _of_shared(self) -> Tensor:
        """What shared itself has; where it is the reference, D is 0 and g is 1/2."""
        model = self._public.trains
        if model.kind == "policy":
            return torch.full((len(self._people),), 0.5, dtype=torch.float64)
        return self.chance(take(model.initial_private(), len(self._people)))

    def _chance(self, adapter: Tensors, rows: Rows) -> tuple[Tensor, Tensors]:
        """Chances over the rows, (P,), and the gradient of -g."""
        settings = LossSettings(beta=self._plan.beta)
        model: PreferenceModel = self._public.trains
        losses, gradients = model.pair_gradients(
            rows, self._shared, adapter, "private", unsafe_side, settings
        )
        counts = rows.mask.sum(1)
        means = {name: value.sum(1) / along(counts, value[:, 0]) for name, value in gradients.items()}
        return -(losses.double().sum(1) / counts.double()), means

    def _drawn(self, steps: Tensor) -> Rows:
        """All pairs, or a public draw for each person's step."""
        rows, batch = self._rows, self._plan.batch
        count = rows.index.shape[1]
        if batch is None or batch >= count:
            return rows
        mask = np.zeros(tuple(rows.mask.shape), np.float32)
        for p, (person, step) in enumerate(zip(self._people, steps.tolist(), strict=True)):
            draws = generator(self._seed, self._stream, "constraint", person, step)
            mask[p, draws.choice(count, batch, replace=False)] = 1
        return Rows(rows.index, torch.from_numpy(mask), rows.flip)
