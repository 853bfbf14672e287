"""Attacks by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from commonground.config import Config
from commonground.errors import InputError
from commonground.simulations.attacks.base import Attack
from commonground.simulations.attacks.data import Backdoor, LabelFlip, TargetedFlip, Unaligned, styles, topics
from commonground.simulations.attacks.updates import (
    AdaptiveUnderClip,
    Alie,
    Gaussian,
    LossLiar,
    MinMax,
    MinSum,
    Scaling,
    SignFlip,
)

ATTACKS: dict[str, type[Attack]] = {
    "adaptive_under_clip": AdaptiveUnderClip,
    "alie": Alie,
    "backdoor": Backdoor,
    "gaussian": Gaussian,
    "label_flip": LabelFlip,
    "loss_liar": LossLiar,
    "min_max": MinMax,
    "min_sum": MinSum,
    "scaling": Scaling,
    "sign_flip": SignFlip,
    "targeted_flip": TargetedFlip,
    "unaligned": Unaligned,
}


def get_attack(name: str, options: Mapping[str, Any] | None = None) -> Attack:
    """The attack called `name`.

    Raises:
        InputError: unknown name (the known ones are listed), unknown option, or a value it does not take.
    """
    if name not in ATTACKS:
        raise InputError(f"{name!r}; known attacks: {', '.join(ATTACKS)}, or '' for none", key="attack.name")
    kind = ATTACKS[name]
    accepted = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # all are
    for key in options or {}:
        if key not in accepted:
            raise InputError(
                f"unknown to {name}; accepted: {', '.join(accepted) or 'none'}", key=f"attack.options.{key}"
            )
    return kind(**dict(options or {}))


def attack_of(config: Config) -> Attack | None:
    """The attack of a run; None where nobody attacks.

    Raises:
        InputError: as `named_attack`, whatever the fraction is.
    """
    attack = named_attack(config)
    return attack if config.attack.fraction > 0 else None


def named_attack(config: Config) -> Attack | None:
    """The attack that a run names, whether anybody attacks or not; None where it names none.

    Raises:
        InputError: as `get_attack`; or a topic that the starter set does not have.
    """
    chosen = config.attack
    if not chosen.name:
        return None
    attack = get_attack(chosen.name, chosen.options)
    if isinstance(attack, TargetedFlip) and {config.data.taste.source, config.data.safety.source} == {
        "starter"
    }:
        known = known_topics("taste" in config.shared.tags)
        if attack.topic not in known:
            raise InputError(
                f"{attack.topic!r}; accepted with shared.tags={config.shared.tags}: {', '.join(known)}",
                key="attack.options.topic",
            )
    return attack


def known_topics(taste: bool) -> list[str]:
    """Topics of the starter set that a shared adapter hears of, sorted; with taste, the styles too."""
    from commonground.data.starter import safety_pairs

    safety = {pair.topic for pair in safety_pairs()}
    return sorted(safety | (set(topics().values()) | set(styles().values()) if taste else set()))
