"""Public safety pairs of a deployed study: what releases are scored on, and what the gate judges by.

They are the shipped starter pairs, the safe answer chosen, so they cost nobody's privacy. A reward model
alone is scored: a language model would have to read every pair after every round.
"""

from __future__ import annotations

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from commonground.comparisons import Comparison
from commonground.config import Config
from commonground.data.starter import safety_pairs
from commonground.given import Parts
from commonground.losses import get_loss
from commonground.recipe import make_plan
from commonground.study.offer import terms_of
from commonground.training.build import build_model
from commonground.training.model import PreferenceModel, Tensors, person_rows
from commonground.training.reward import RewardModel

Arrays = dict[str, np.ndarray]


class PublicPairs:
    """See `strategies.safety_gate.PublicSafety`.

    Args:
        config: of the study.
        model: a reward model over `pairs`, in order.
        pairs: how many.
    """

    def __init__(self, config: Config, model: RewardModel, pairs: int) -> None:
        terms = terms_of(config)
        plan = make_plan(config, ["safety"], terms.claim, terms.private_claim)
        self._model, self._plan = model, plan.shared
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
        """Of the mean over the pairs of the study's own loss."""
        plan = self._plan
        sums = self._model.gradient_sums(
            self._batch, self._one(shared), get_loss(plan.loss), plan.settings, self._weights
        )
        return {name: value[0].double().numpy() for name, value in sums.items()}

    def _one(self, shared: Arrays) -> Tensors:
        """The adapter's own tensors with a person axis of 1."""
        spec = self._model.shared_spec()
        return {name: torch.from_numpy(np.asarray(shared[name], np.float32)[None].copy()) for name in spec}


def public_pairs(config: Config, parts: Parts | None = None) -> PublicPairs | None:
    """The pairs under the study's base model; None where it is a language model.

    Args:
        config: of the study.
        parts: the public parts of its model; None computes them here.

    Raises:
        ModelError: the base model cannot be loaded, or the parts do not fit it.
    """
    if config.model.kind != "reward":
        return None
    pairs = [Comparison(p.prompt, p.safe, p.unsafe, "safety", "public") for p in safety_pairs()]
    with threadpool_limits(1):  # the same bits on every machine
        model: PreferenceModel = build_model(config, pairs, parts=parts)
    return PublicPairs(config, model, len(pairs)) if isinstance(model, RewardModel) else None
