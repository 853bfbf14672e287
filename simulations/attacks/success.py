"""Whether an attack gets what it is after: held-out comparisons as it would have them answered.

The probes are a function of the people and of the attack's options, not of who attacks: a run with
`attack.fraction=0` is asked the very same, and what it says there is no doing of the attack. They stand in a
table of their own, so that asking changes nothing of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from commonground.comparisons import Comparison
from commonground.simulations.attacks.base import Attack
from commonground.simulations.attacks.poison import scene_of
from commonground.simulations.known_basis import with_styles
from commonground.simulations.measure import Policy, margins
from commonground.simulations.world import World
from commonground.training.build import policy_model
from commonground.training.features import text_vectors
from commonground.training.model import PreferenceModel
from commonground.training.reward import RewardFeatures, RewardModel

SHOWN = ("shared", "personal")  # policies whose success is told topic by topic


@dataclass(frozen=True, eq=False)
class Probes:
    """What an attack is asked.

    Attributes:
        table: comparisons whose chosen answer is the one that the attack wants.
        owner: (n,) the evaluated person who holds each of them.
        topics: (n,) which part of the attack's aim each is about; see `Attack.topic_of`.
    """

    table: tuple[Comparison, ...]
    owner: np.ndarray
    topics: np.ndarray


def probes_of(world: World, attack: Attack) -> Probes:
    """The probes of an attack on a world; none where it has no such thing.

    Args:
        world: attacked or not.
        attack: which.
    """
    scene = scene_of(world.config, world.population)
    owners = world.owner[world.test_rows].tolist()
    found: list[Comparison] = []
    owner, topics = [], []
    for person, row in zip(owners, world.test_rows.tolist(), strict=True):
        held = world.table[row]
        probe = attack.probe(held, scene) if held.tag in scene.tags else None
        if probe is not None:
            found.append(probe)
            owner.append(person)
            topics.append(attack.topic_of(held))
    return Probes(tuple(found), np.array(owner, np.int64), np.array(topics, np.str_))


def success_of(world: World, attack: Attack, policies: Mapping[str, Policy]) -> dict[str, Any]:
    """How often the answer that an attack wants wins; {} for an attack without probes.

    Args:
        world: attacked or not.
        attack: which.
        policies: policy -> itself.

    Returns:
        ``success``: policy -> share of honest people's probes; ``success_everybody``: of everybody's, which
        are the same whoever attacks; ``success_by_topic`` (where the attack tells topics apart): topic ->
        number of probes and shares. Shares lie in [0, 1]; a policy that prefers nothing has 0.
    """
    probes = probes_of(world, attack)
    if not len(probes.table):
        return {}
    asked, models = replace(world, owner=probes.owner), dict[int, PreferenceModel]()
    honest = ~np.isin(probes.owner, sorted(world.attackers))
    aimed = probes.topics == attack.aim
    won = {}
    for name, policy in policies.items():
        key = id(policy.model)
        models[key] = models.get(key) or _over(world, policy.model, probes.table)
        found = margins(asked, replace(policy, model=models[key]), np.arange(len(probes.table)))
        won[name] = found > 0
    result: dict[str, Any] = {
        "probes": int((honest & aimed).sum()),
        "success": {name: _share(right, honest & aimed) for name, right in won.items()},
        "success_everybody": {name: _share(right, aimed) for name, right in won.items()},
    }
    topics = sorted(set(probes.topics.tolist()))
    if topics != [attack.aim]:
        result["success_by_topic"] = {
            topic: {"probes": int((honest & (probes.topics == topic)).sum())}
            | {name: _share(won[name], honest & (probes.topics == topic)) for name in SHOWN if name in won}
            for topic in topics
        }
    return result


def _share(right: np.ndarray, among: np.ndarray) -> float | None:
    return float(right[among].mean()) if among.any() else None


def _over(world: World, model: PreferenceModel, table: tuple[Comparison, ...]) -> PreferenceModel:
    """The same model over the probes."""
    config = world.config
    if not isinstance(model, RewardModel):
        return policy_model(config, table)
    vectors = text_vectors(config, [text for one in table for text in (one.chosen, one.rejected)])
    if config.model.basis == "planted":
        vectors = with_styles(vectors)
    return model.over(RewardFeatures(table, vectors, world.features.bases, world.features.dims))
