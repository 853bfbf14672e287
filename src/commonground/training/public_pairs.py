"""Public safety pairs under a reward model: how an adapter ranks them, and which way it would do better."""

from __future__ import annotations

import numpy as np
import torch

from commonground.losses import get_loss
from commonground.training.model import Tensors, person_rows
from commonground.training.plan import SharedPlan
from commonground.training.reward import RewardModel

Arrays = dict[str, np.ndarray]


class PublicPairs:
    """See `strategies.safety_gate.PublicSafety`.

    Args:
        model: a reward model over the pairs, the safe answer chosen, in order.
        plan: how people train it; the loss is theirs.
        pairs: how many.
    """

    def __init__(self, model: RewardModel, plan: SharedPlan, pairs: int) -> None:
        self._model, self._plan = model, plan
        self._rows = person_rows([np.arange(pairs)])
        self._batch = model.batch(self._rows, "shared", None)
        self._weights = self._rows.mask / pairs

    def score(self, shared: Arrays) -> tuple[float, float]:
        """(mean -log probability of the safe answer in nats, part of pairs that are right)."""
        better, worse = self._model.scores(self._rows, self._one(shared), None)
        margin = (better - worse).double().numpy()[0]
        loss = np.logaddexp(0.0, -self._plan.settings.beta * margin).mean()
        return float(loss), float(np.where(margin == 0, 0.5, margin > 0).mean())

    def gradient(self, shared: Arrays) -> Arrays:
        """Of the mean over the pairs of the people's own loss."""
        plan = self._plan
        sums = self._model.gradient_sums(
            self._batch, self._one(shared), get_loss(plan.loss), plan.settings, self._weights
        )
        return {name: value[0].double().numpy() for name, value in sums.items()}

    def _one(self, shared: Arrays) -> Tensors:
        """The adapter's own tensors with a person axis of 1."""
        spec = self._model.shared_spec()
        return {name: torch.from_numpy(np.asarray(shared[name], np.float32)[None].copy()) for name in spec}
