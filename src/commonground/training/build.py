"""Preference models over a table of comparisons, as a configuration names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from commonground.comparisons import TAGS, Comparison, Tag
from commonground.config import Config
from commonground.given import Parts, check_names
from commonground.training.features import public_features
from commonground.training.model import PreferenceModel
from commonground.training.reward import RewardFeatures, RewardModel
from commonground.training.reward_basis import BasisRewardModel
from commonground.training.texts import ANSWER_TOKENS, PROMPT_TOKENS, read_tokens

Progress = Callable[[str, int, int], None]


def build_model(
    config: Config,
    table: Sequence[Comparison],
    progress: Progress | None = None,
    parts: Parts | None = None,
) -> PreferenceModel:
    """The model of one person's device, or an operator's, on the public bases.

    Args:
        config: resolved.
        table: comparisons; `Rows.index` points into it. At least one.
        progress: called with (what, done, total) during long steps.
        parts: the study's public parts, as `public_parts` of the operator's model gave them; None computes
            them here.

    Raises:
        ModelError: the base model cannot be loaded, or the parts do not fit.
    """
    model: PreferenceModel
    if config.model.kind == "reward":
        features = public_features(config, table, progress, parts)
        tags = [tag for tag in TAGS if tag in config.shared.tags]
        model = reward_model(config, features, tags, parts=parts)
    else:
        model = policy_model(config, tuple(table), progress, parts)
    if parts is not None:
        check_names(parts, model.public_parts())
    return model


def reward_model(
    config: Config,
    features: RewardFeatures,
    tags: Sequence[Tag],
    *,
    private: bool = True,
    parts: Parts | None = None,
) -> RewardModel:
    """A Bradley-Terry reward whose shared adapter learns from `tags`.

    Args:
        config: `model` and `seed` are read.
        features: of a table.
        tags: as said; both of them with `model.form=basis`.
        private: whether private adapters train with it; without, there is no basis for their weights.
        parts: as in `build_model`.
    """
    if config.model.form == "basis" and private:
        return BasisRewardModel(features)
    form: Literal["linear", "tanh"] = "tanh" if config.model.form == "tanh" else "linear"
    return RewardModel(features, list(tags), form, config.seed, parts)


def policy_model(
    config: Config,
    table: tuple[Comparison, ...],
    progress: Progress | None = None,
    parts: Parts | None = None,
) -> PreferenceModel:
    """A causal language model with the two adapters; arguments as in `build_model`."""
    from commonground.language_model import load_base
    from commonground.training.policy import PolicyModel

    base = load_base(config.model.base)
    styles = None
    if config.model.adapter == "styles":
        from commonground.training.styles import given_styles, public_styles

        layers, rank = config.model.layers, config.model.rank
        if parts is None:
            styles = public_styles(base, layers=layers, rank=rank, progress=progress)
        else:
            styles = given_styles(base, parts, layers=layers, rank=rank)
    return PolicyModel(
        base,
        table,
        layers=config.model.layers,
        rank=config.model.rank,
        adapter=config.model.adapter,
        factors=config.model.shared_factors,
        styles=styles,
        max_prompt_tokens=read_tokens(config.model.prompt_tokens, PROMPT_TOKENS),
        max_answer_tokens=read_tokens(config.model.answer_tokens, ANSWER_TOKENS),
        seed=config.seed,
        parts=parts,
    )
