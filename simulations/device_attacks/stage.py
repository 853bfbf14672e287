"""The policies of a study of attacks: base, shared, attackers, and honest people beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from commonground.data.starter import STYLES, SafetyPair, taste_prompts
from commonground.language_model import LanguageModel
from commonground.randomness import generator
from commonground.simulations.certify.loading import RunPolicies
from commonground.simulations.defended import TIERED
from commonground.simulations.device_attacks.asking import (
    Asker,
    Tick,
)
from commonground.simulations.device_attacks.base import Effort, Scene, learn, preferring
from commonground.simulations.device_attacks.central import helpful, kept_shared, safe_first, train_shared
from commonground.simulations.device_attacks.made import Make, make_adapters
from commonground.simulations.device_attacks.projection import project
from commonground.simulations.device_attacks.registry import ATTACKS
from commonground.training.model import Tensors
from commonground.training.policy import PolicyModel

PROJECTION = "projection"


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        probes: of the charter that are candidates, beside the prompts of half of the pairs.
        selection: draws of the shared policy by which a candidate is chosen.
        everyday: prompts that the cost is measured on.
        tokens: of an answer, at most.
        layers: adapted, from the top.
        rank: of both adapters.
        teaching: what the shared policy is made with.
        effort: of attackers and honest people.
        attacks: names.
        defences: names, beside `none` and `menu`.
        tastes: of honest people.
        projection: also every adapter after the projection of its weights.
    """

    probes: int = 120
    selection: int = 2
    everyday: int = 16
    tokens: int = 24
    layers: int = 8
    rank: int = 8
    teaching: Effort = field(default_factory=lambda: Effort(160, 1e-3, 1.0))
    effort: Effort = field(default_factory=Effort)
    attacks: tuple[str, ...] = tuple(ATTACKS)
    defences: tuple[str, ...] = ("guard", "budget_1", TIERED, "closed")
    tastes: tuple[str, ...] = ("emoji",)
    projection: bool = False


QUICK = Size(6, 1, 4, 8, 2, 4, Effort(4), Effort(4))


@dataclass(frozen=True, eq=False)
class Stage:
    """What was built: policies of attackers and honest people, in one row."""

    policies: RunPolicies
    places: dict[str, int]

    def projected(self, asker: Asker) -> Asker:
        """The same asked of the same adapter after the projection."""
        name = f"{asker.name} {PROJECTION}"
        return Asker(name, self.places[name], asker.prompts)


def make_scene(
    base: LanguageModel,
    learnt: Sequence[SafetyPair],
    size: Size,
    seed: int,
    folder: Path,
    tick: Tick,
) -> Scene:
    """The base as it is, and a shared adapter that has learnt safety on top of it.

    Args:
        base: an instruction model.
        learnt: public pairs; attackers know them as well.
        size: how much is done.
        seed: of the order.
        folder: the adapter is kept in it.
        tick: progress.
    """
    model = PolicyModel(
        base, [], layers=size.layers, rank=size.rank, adapter="lora", factors="both", seed=seed
    )
    draws = generator(seed, "attack study", "shared")
    table = safe_first(learnt) + helpful(draws)
    about = f"{base.digest} {size.layers} {size.rank} {size.teaching!r} {seed} {table!r}"
    key = hashlib.sha256(about.encode()).hexdigest()[:16]
    tick("shared policy", 0, 1)
    shared = kept_shared(
        folder / f"shared-{key}.npz", lambda: train_shared(model, table, size.teaching, draws)
    )
    tick("shared policy", 1, 1)
    return Scene(model, shared, tuple(learnt), taste_prompts(), size.effort)


def make_stage(scene: Scene, size: Size, seed: int, folder: Path, tick: Tick) -> Stage:
    """Attackers and honest people over one shared policy, and their projections where these are wanted."""
    makers: dict[str, Make] = {name: ATTACKS[name].private for name in size.attacks}
    makers |= {taste: _honest(taste) for taste in size.tastes}
    own = make_adapters(scene, makers, seed, folder, tick, "private adapters")
    adapters = scene.model.adapters
    if size.projection:
        own |= {f"{name} {PROJECTION}": project(adapters, scene.shared, one) for name, one in own.items()}
    names = tuple(own)
    count = len(names)
    policies = RunPolicies(
        scene.model,
        names,
        (None,) * count,
        (scene.shared,) * count,
        tuple(own.values()),
        frozenset(pair.prompt for pair in scene.pairs),
        size.tokens,
    )
    return Stage(policies, {name: place for place, name in enumerate(names)})


def _honest(taste: str) -> Make:
    """Somebody who likes a style, and nothing else."""

    def make(scene: Scene, draws: np.random.Generator) -> Tensors:
        others = [style for style in STYLES if style != taste]
        pairs = []
        for one in scene.taste:
            other = others[int(draws.integers(len(others)))]
            pairs.append(preferring(one.prompt, one.answers[taste], one.answers[other]))
        return learn(scene, pairs, draws)

    return make
