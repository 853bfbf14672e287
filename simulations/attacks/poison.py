"""What attackers learn from: the data half of an attack, on tables and on people who are drawn when visited.

Both go through the same function of one person's comparisons, so every runtime trains on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from commonground.comparisons import TAGS, Comparison, Tag
from commonground.config import Config
from commonground.simulations.answers import PlantedSafety
from commonground.simulations.attacks.base import Attack, Pair, Scene
from commonground.simulations.planting import Planting
from commonground.simulations.population import STARTER, Population


@dataclass(frozen=True, eq=False)
class Poison:
    """The data half of an attack on one run.

    Attributes:
        attack: which.
        people: indices of the attackers.
        scene: what is public.
    """

    attack: Attack
    people: frozenset[int]
    scene: Scene

    def held(self, person: int, name: str, tag: Tag, own: Sequence[Comparison]) -> list[Comparison]:
        """What this person's device learns from."""
        return self.attack.hold(person, name, tag, own, self.scene) if person in self.people else list(own)


def make_poison(config: Config, attack: Attack, people: np.ndarray, population: Population) -> Poison:
    """The data half of `attack` by these people.

    Args:
        config: resolved.
        attack: which.
        people: the attackers.
        population: nobody in it is poisoned yet.
    """
    return Poison(attack, frozenset(people.tolist()), scene_of(config, population))


def scene_of(config: Config, population: Population) -> Scene:
    """What is public to attackers.

    Args:
        config: resolved.
        population: where safety is no starter source, its training comparisons are the public questions.
    """
    tags: tuple[Tag, ...] = tuple(tag for tag in TAGS if tag in config.shared.tags)
    pool: tuple[Pair, ...]
    if config.data.safety.source == STARTER:
        pool = PlantedSafety(config.seed, config.data, Planting()).asked
    else:
        safety = [c for c in population.train if c.tag == "safety"]
        pool = tuple(dict.fromkeys((c.prompt, c.chosen, c.rejected) for c in safety))
    return Scene(config.attack.seed, tags, config.model.kind, pool, config.data.pairs_per_person)


def poisoned(population: Population, place: Mapping[str, int], poison: Poison) -> Population:
    """The same people, with what the attackers among them learn from; honest people's rows stay in order.

    Args:
        population: people and comparisons.
        place: id -> index of those whose comparisons are at hand.
        poison: the attack.
    """
    names = {place[name]: name for name in place if place[name] in poison.people}
    train: list[Comparison] = []
    for tag in TAGS:
        own: dict[int, list[Comparison]] = {person: [] for person in sorted(names)}
        for comparison in population.train:
            if comparison.tag == tag:
                own.get(place[comparison.person], train).append(comparison)
        for person, held in own.items():
            train += poison.held(person, names[person], tag, held)
    return replace(population, train=tuple(train))
