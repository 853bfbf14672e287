"""What a result says about an attack: who was there, what came of it, and what is void because of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from commonground.comparisons import TAGS
from commonground.evaluation.accuracy import person_accuracy
from commonground.simulations.attacks.registry import named_attack
from commonground.simulations.attacks.success import success_of
from commonground.simulations.attacks.tolerance import tolerance
from commonground.simulations.attacks.who import cohorts
from commonground.simulations.measure import Policy
from commonground.simulations.world import World

NOTE = (
    "Only a simulation knows who attacks, and can look at honest people alone: a server sees messages of "
    "the same form from everybody, each within the same clip."
)
BASELINE = (
    "Nobody attacks: what succeeds here is no doing of the attack, and what it achieves in a run with "
    "attackers is to be read against this."
)


def attack_outcome(
    world: World, found: Mapping[str, np.ndarray], policies: Mapping[str, Policy]
) -> dict[str, Any]:
    """The part `attack` of a result.

    Args:
        world: of an attacked run.
        found: policy -> margins of `world.test_rows`.
        policies: policy -> itself.
    """
    config, attack = world.config, world.attack
    cohort = min(int(config.cohort or 2), len(world.eligible))
    who = np.array(sorted(world.attackers), np.int64)
    drawn = cohorts(world.eligible, who, world.coin_seed, cohort / len(world.eligible), config.rounds)
    tolerates, warnings = tolerance(config.strategy.name, config.strategy.options, drawn)
    result: dict[str, Any] = {
        "name": config.attack.name,
        "fraction": config.attack.fraction,
        "attackers": len(world.attackers),
        "of": len(world.eligible),
        "in_a_round": {"mean": float(drawn[:, 1].mean()), "most": int(drawn[:, 1].max())},
        "changes": "" if attack is None else attack.changes,
        "knows": "" if attack is None else attack.knows,
        "source": "" if attack is None else attack.source,
        "tolerates": tolerates,
        "warnings": warnings,
        "honest": {name: _honest(world, values) for name, values in found.items()},
        "simulation_only": NOTE,
    }
    if attack is not None and attack.claims is not None and not _asks(world):
        result["warnings"].append(
            f"attack.name={config.attack.name} lies about a loss that strategy.name={config.strategy.name} "
            "does not ask for: only the flipped comparisons are left of it"
        )
    return result if attack is None else result | success_of(world, attack, policies)


def baseline_outcome(world: World, policies: Mapping[str, Policy]) -> dict[str, Any]:
    """The part `attack` of a result in which an attack is named and nobody attacks; {} without probes.

    Args:
        world: of the run.
        policies: policy -> itself.
    """
    attack = named_attack(world.config)
    found = {} if attack is None else success_of(world, attack, policies)
    if not found:
        return {}
    return {"name": world.config.attack.name, "fraction": 0.0, "attackers": 0, **found, "baseline": BASELINE}


def _asks(world: World) -> bool:
    """Whether the strategy's device half asks for a loss."""
    return world.config.strategy.name in (
        "qfedavg",
        "alpha_fair",
        "nash",
        "egalitarian",
        "utilitarian",
        "maxmin",
    )


def _honest(world: World, values: np.ndarray) -> dict[str, float | None]:
    """Accuracy on the held-out comparisons of honest people, mean over them."""
    rows = world.test_rows
    owner = world.owner[rows]
    people = [p for p in world.evaluated.tolist() if p not in world.attackers]
    place = {person: k for k, person in enumerate(people)}
    honest = np.isin(owner, people)
    means: dict[str, float | None] = {}
    for tag in TAGS:
        mask = honest & np.array([world.table[row].tag == tag for row in rows.tolist()], bool)
        who = np.array([place[p] for p in owner[mask].tolist()], np.int64)
        each = person_accuracy(values[mask], who, len(people))
        means[tag] = float(np.nanmean(each)) if np.isfinite(each).any() else None
    return means
