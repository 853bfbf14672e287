"""Public safety pairs of a deployed study: what releases are scored on, and what the gate judges by.

They are the shipped starter pairs, the safe answer chosen, so they cost nobody's privacy. A reward model
alone is scored: a language model would have to read every pair after every round.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from commonground.comparisons import Comparison
from commonground.config import Config
from commonground.data.starter import safety_pairs
from commonground.given import Parts
from commonground.recipe import make_plan
from commonground.study.offer import terms_of
from commonground.training.build import build_model
from commonground.training.model import PreferenceModel
from commonground.training.public_pairs import PublicPairs
from commonground.training.reward import RewardModel


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
    if not isinstance(model, RewardModel):
        return None
    terms = terms_of(config)
    plan = make_plan(config, ["safety"], terms.claim, terms.private_claim)
    return PublicPairs(model, plan.shared, len(pairs))
