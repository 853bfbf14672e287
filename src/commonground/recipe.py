"""Defaults that depend on the model, and the plan of local updates that a configuration means."""

from __future__ import annotations

import copy
import json
import math
from typing import Any, cast

from commonground.comparisons import TAGS, Tag
from commonground.config import Config
from commonground.losses import LossSettings
from commonground.privacy.accounting import default_delta
from commonground.privacy.both_claims import beside_shared
from commonground.privacy.claims import PrivateClaim, SharedClaim, private_claim, shared_claim
from commonground.randomness import key
from commonground.rules import value_of
from commonground.settings import to_dict
from commonground.training.client_half import ClientHalf
from commonground.training.plan import CapPlan, ConstraintPlan, Plan, PrivatePlan, Schedule, SharedPlan

# Chosen on starter people and on the ratings data; docs/defaults.md says how, with the commands.
REWARD: dict[str, Any] = {
    "loss.name": "bradley_terry",
    "loss.beta": 1.0,
    "loss.sft": 0.0,
    "shared.rate": 4.0,
    "shared.steps": 4,
    "privacy.shared.clip": 2.5,
    "privacy.private.epsilon": 8.0,
    "privacy.private.clip": 0.3,
    "privacy.private.steps": 40,
    "privacy.private.sampling": 0.25,
    "privacy.private.rate": 3.0,
    "privacy.private.ridge": 0.02,
    "strategy.average": True,
}
# Without noise a private adapter needs a stronger pull towards zero: nothing else stops it from learning
# forty comparisons by heart.
REWARD_NO_NOISE: dict[str, Any] = {"privacy.private.rate": 1.5, "privacy.private.ridge": 0.08}
POLICY: dict[str, Any] = {
    "loss.name": "dpo",
    "loss.beta": 0.1,
    "loss.sft": 5.0,
    "shared.rate": 1e-3,
    "shared.steps": 4,
    "shared.batch": 2,
    "privacy.shared.clip": 1.0,
    "privacy.private.epsilon": float("inf"),
    "privacy.private.clip": 1.0,
    "privacy.private.steps": 30,
    "privacy.private.sampling": 0.05,
    "privacy.private.rate": 3e-3,
    "privacy.private.ridge": 0.0,
    "strategy.average": False,
}
# A few coefficients on public styles: larger batches, and steps whose size does not hang on how long an
# answer is. Plain SGD: Adam would blow the noise on a coefficient that does not matter up to a full step.
POLICY_STYLES: dict[str, Any] = {
    "privacy.private.epsilon": 8.0,
    "privacy.private.clip": 1.0,
    "privacy.private.steps": 12,
    "privacy.private.sampling": 0.1,
    "privacy.private.rate": 0.25,
}


def resolve(config: Config) -> Config:
    """A copy with every null that has a default filled in; what it returns is what a run depends on."""
    full = copy.deepcopy(config)
    recipe = REWARD if full.model.kind == "reward" else POLICY
    if recipe is REWARD and full.privacy.private.epsilon == float("inf"):
        recipe = REWARD | REWARD_NO_NOISE
    elif recipe is POLICY and _styles(full):
        recipe = POLICY | POLICY_STYLES
    for name, default in recipe.items():
        if value_of(full, name) is None:
            _set(full, name, default)
    if full.privacy.private.mechanism == "label":
        full.loss.name = "rdpo"
    if full.cohort is None:
        full.cohort = max(2, full.people // 5)
    if full.evaluation.people is None:
        full.evaluation.people = min(full.people, 2000)
    if full.privacy.shared.delta is None:
        full.privacy.shared.delta = default_delta(full.people * _comparisons(full))
    if full.privacy.private.delta is None:
        full.privacy.private.delta = default_delta(full.people * full.data.pairs_per_person)
    return full


def _comparisons(config: Config) -> int:
    """How many units of the shared claim one person can have."""
    if config.privacy.unit != "comparison":
        return 1
    return config.data.pairs_per_person * len(config.shared.tags)


def _styles(config: Config) -> bool:
    """Whether private adapters are coefficients on public styles."""
    return config.model.kind == "policy" and config.model.adapter == "styles"


def _set(config: Config, key: str, value: Any) -> None:
    *path, last = key.split(".")
    target = value_of(config, ".".join(path)) if path else config
    setattr(target, last, value)


def loss_settings(config: Config, flip: float | None = None) -> LossSettings:
    """The numbers of the configured loss; `flip` overrides the configured flip probability."""
    loss = config.loss
    return LossSettings(
        beta=cast(float, loss.beta), flip=loss.flip if flip is None else flip, sft=loss.sft or 0.0
    )


def shared_loss(config: Config) -> str:
    """The loss of the shared phase: the configured one, except that label privacy is a private matter."""
    if config.privacy.private.mechanism == "label":
        return "bradley_terry" if config.model.kind == "reward" else "dpo"
    return str(config.loss.name)


def claims(config: Config, people: int, half: ClientHalf | None = None) -> tuple[SharedClaim, PrivateClaim]:
    """What a run promises about privacy: for the shared adapter, and for a private one.

    Args:
        config: a resolved configuration.
        people: how many may take part in shared training.
        half: the device's half of the strategy, where it has one.

    Raises:
        ConfigError: the privacy settings do not go together.
    """
    privacy = config.privacy
    shared = shared_claim(
        unit=privacy.unit,
        trust=privacy.trust,
        schedule=config.schedule,
        people=people,
        cohort=min(int(config.cohort or 2), people),
        rounds=config.rounds,
        epsilon_target=privacy.shared.epsilon,
        delta=privacy.shared.delta,
        accountant=privacy.accountant,
        participations=privacy.shared.participations,
        pair_sampling=privacy.private.sampling if privacy.unit == "comparison" else None,
        clip=privacy.shared.clip,
        adaptive=privacy.shared.clip_mode == "adaptive",
        start=privacy.shared.clip_start,
        mechanism=privacy.shared.mechanism,
        band=privacy.shared.band,
        comparisons=_comparisons(config),
    )
    private = private_claim(
        mechanism=privacy.private.mechanism,
        epsilon_target=float(privacy.private.epsilon or 0),
        delta=privacy.private.delta,
        sampling=float(privacy.private.sampling or 1),
        steps=int(privacy.private.steps or 1),
        cap=config.data.pairs_per_person,
        accountant=privacy.accountant,
        clip=privacy.private.clip,
        people=people,
    )
    own_part = half is not None and type(half).own is not ClientHalf.own
    return shared, beside_shared(private, shared, config.shared.tags, own_part)


# What no message and no private adapter hangs on: the same release under another of these has the same noise.
BESIDE = ("seed", "runtime", "fleet", "evaluation")
BESIDE_OF_BOUNDS = ("answers", "charter_file", "charter", "probes", "reward")


def is_attacked(config: Config) -> bool:
    """Whether anybody attacks; without a name, or with a fraction of 0, the run is one without an attack."""
    return bool(config.attack.name) and config.attack.fraction > 0


def message_noise_seed(
    config: Config, shared: SharedClaim, private: PrivateClaim, root: int, rule: str
) -> int:
    """The seed of the noise on messages, or on their sum; arguments as in `private_noise_seed`.

    With `schedule=decoupled` no bound on private adapters shows in a message, so none is in its seed.
    """
    return _noise_seed(config, shared, private, root, rule, sent=True)


def private_noise_seed(
    config: Config, shared: SharedClaim, private: PrivateClaim, root: int, rule: str
) -> int:
    """The seed of the noise on private adapters: of the root, and of everything that they hang on.

    Two runs under one root that differ in a setting that shows in what is noised, or in how much noise there
    is, have nothing in common in their noise; were it the same, a difference of two releases would have none.

    Args:
        config: a resolved configuration.
        shared: its claim for the shared adapter.
        private: its claim for private adapters.
        root: the run's seed, or a secret number.
        rule: what the strategy's name stands for, `registry.rule_of`; two names of one rule release the same.
    """
    return _noise_seed(config, shared, private, root, rule, sent=False)


def _noise_seed(
    config: Config, shared: SharedClaim, private: PrivateClaim, root: int, rule: str, *, sent: bool
) -> int:
    values = {name: value for name, value in to_dict(config).items() if name not in BESIDE}
    values["bounds"] = {k: v for k, v in values["bounds"].items() if k not in BESIDE_OF_BOUNDS}
    if sent and config.schedule == "decoupled":
        values.pop("bounds")
    if not is_attacked(config):
        values.pop("attack")
    values["strategy"] = {**values["strategy"], "name": rule}
    loud = [shared.noise_multiplier, private.noise_multiplier, private.flip_probability]
    name = ("noise", json.dumps([values, loud, shared.clip, private.clip], sort_keys=True))
    return int.from_bytes(key(root, *name), "big")


def make_plan(config: Config, tags: list[Tag], shared: SharedClaim, private: PrivateClaim) -> Plan:
    """The plan of local updates.

    Args:
        config: a resolved configuration.
        tags: what the shared phase of this arm learns from.
        shared: its privacy claim, for the comparison-level step.
        private: the private adapters' claim, for noise and flips.
    """
    comparison = config.privacy.unit == "comparison"
    sampling = float(config.privacy.private.sampling or 1)
    cap = config.data.pairs_per_person
    adaptive = "adam" if config.model.kind == "policy" else "sgd"
    shared_plan = SharedPlan(
        tags=tuple(tags),
        steps=1 if comparison else int(config.shared.steps or 1),
        rate=float(config.shared.rate or 0),
        batch=config.shared.batch,
        loss=shared_loss(config),
        settings=loss_settings(config),
        optimiser="sgd" if comparison else cast(Any, adaptive),
        pair_clip=config.privacy.shared.clip if comparison else None,
        pair_sampling=sampling if comparison else 1.0,
        expected_batch=max(1.0, sampling * cap) if comparison else 1.0,
    )
    # Decoupled, what a round asks of a device depends on nobody else; half of the steps see the last adapter.
    share = 1.0 if config.schedule == "decoupled" else min(1.0, (config.cohort or 1) / config.people)
    visits = max(1.0, config.rounds * share)
    steps = int(config.privacy.private.steps or 1)
    label = config.privacy.private.mechanism == "label"
    noisy = private.noise_multiplier > 0
    private_plan = PrivatePlan(
        tags=("taste",),
        steps=steps,
        steps_per_visit=max(1, int(steps / (2 * visits))),
        sampling=sampling if noisy or config.model.kind == "policy" else 1.0,
        cap=cap,
        clip=float(config.privacy.private.clip or 1) if noisy or _styles(config) else float("inf"),
        noise_multiplier=private.noise_multiplier,
        rate=float(config.privacy.private.rate or 0),
        ridge=float(config.privacy.private.ridge or 0),
        loss=str(config.loss.name),
        settings=loss_settings(config, flip=private.flip_probability if label else None),
        optimiser="sgd" if _styles(config) else cast(Any, adaptive),
        average_from=0.5 if noisy else 1.0,
        decay=config.model.kind == "policy",
        flip_probability=private.flip_probability if label else 0.0,
        constraint=_constraint(config),
        kl=_cap(config),
    )
    return Plan(shared_plan, private_plan, cast(Schedule, config.schedule), config.seed)


POLICY_PUBLIC = 4  # public pairs in a step, each a pass through the model
POLICY_PROBES = 12  # public prompts whose answers a cap looks at


def _constraint(config: Config) -> ConstraintPlan | None:
    """The constraint of the private phase, if any."""
    if not math.isfinite(config.bounds.constraint):
        return None
    return ConstraintPlan(
        tolerance=config.bounds.constraint,
        beta=float(config.loss.beta or 1),
        rate=config.bounds.constraint_rate,
        batch=POLICY_PUBLIC if config.model.kind == "policy" else None,
    )


def _cap(config: Config) -> CapPlan | None:
    """The cap on finished private adapters, if any."""
    bounds = config.bounds
    if not (math.isfinite(bounds.kl) or math.isfinite(bounds.kl_worst)):
        return None
    return CapPlan(
        mean=bounds.kl,
        worst=bounds.kl_worst,
        beta=float(config.loss.beta or 1),
        probes=POLICY_PROBES if config.model.kind == "policy" else None,
    )


def all_tags() -> list[Tag]:
    """Every tag: what the pooled model learns from."""
    return list(TAGS)
