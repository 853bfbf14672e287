"""Everything a run is about, rebuilt by any process from the run's `config.yaml` alone.

Ray actors and a resumed run build the same world from the same configuration: people, comparisons,
public bases, models, claims and plans. Nothing is pickled from one process to another.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from commonground.comparisons import TAGS, Comparison, Tag
from commonground.config import Config
from commonground.errors import DataError
from commonground.manifest import Manifest
from commonground.privacy.claims import PrivateClaim, SharedClaim
from commonground.randomness import generator, key
from commonground.recipe import claims, is_attacked, make_plan, message_noise_seed, private_noise_seed
from commonground.settings import config_from, read_values
from commonground.simulations.attacks.base import Attack
from commonground.simulations.attacks.poison import make_poison, poisoned
from commonground.simulations.attacks.registry import attack_of
from commonground.simulations.attacks.who import attackers
from commonground.simulations.common import Common, common_of, key_of
from commonground.simulations.crowd import Crowd, PlantedCrowd, TableCrowd
from commonground.simulations.features import reward_features
from commonground.simulations.inputs import FILE as INPUTS
from commonground.simulations.inputs import code_digests, compare, population_digests, read
from commonground.simulations.known_basis import with_styles
from commonground.simulations.lengths import as_read
from commonground.simulations.noise_root import noise_root
from commonground.simulations.planting import unseen_people
from commonground.simulations.population import (
    PlantedSources,
    Population,
    planted_sources,
    populate,
    populate_some,
)
from commonground.strategies.registry import client_half, rule_of
from commonground.training.build import policy_model, reward_model
from commonground.training.client_half import ClientHalf, initial
from commonground.training.contract import egress_manifest
from commonground.training.features import text_vectors
from commonground.training.model import PreferenceModel
from commonground.training.plan import Plan
from commonground.training.public_models import needed, public_models
from commonground.training.reward import RewardFeatures

Arm = Literal["shared", "pooled"]
ARMS: tuple[Arm, ...] = ("shared", "pooled")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class World:
    """A run's people, comparisons, models and claims.

    Attributes:
        config: the resolved configuration.
        population: people and comparisons; a fleet of planted people has only the evaluated ones' at hand.
        table: its comparisons, training first; row numbers of everything below point into it.
        train_rows: person -> tag -> rows, of the people whose comparisons are in the table.
        crowd: training comparisons of everybody.
        test_rows: rows of the evaluated people's held-out comparisons, in order.
        owner: (table,) person index of each comparison.
        evaluated: person indices, ascending.
        eligible: people who may take part in shared training, ascending.
        models: arm -> model.
        plans: arm -> plan of its local updates.
        manifests: arm -> what may leave a device.
        claim: privacy of the shared adapter.
        private_claim: privacy of a private adapter.
        features: the reward features of the table; in policy runs they measure what aggregation erases.
        half: the device's half of the strategy, where it has one.
        groups: the public groups that it tells apart; people without one are in one of their own.
        attack: what attackers do; None where nobody attacks.
        attackers: their indices; no device and no strategy is told.
        secret: root of noise and coins with `privacy.noise=os`; it never leaves the run's `state/`.
        common: what other runs of this process on the same people have made already.
        sources: source -> digest of what was read from it; see `inputs`.
    """

    config: Config
    population: Population
    table: tuple[Comparison, ...]
    train_rows: Mapping[int, dict[Tag, np.ndarray]]
    crowd: Crowd
    test_rows: np.ndarray
    owner: np.ndarray
    evaluated: np.ndarray
    eligible: np.ndarray
    models: dict[Arm, PreferenceModel]
    plans: dict[Arm, Plan]
    manifests: dict[Arm, Manifest]
    claim: SharedClaim
    private_claim: PrivateClaim
    features: RewardFeatures
    half: ClientHalf | None = None
    groups: tuple[str | None, ...] = ()
    attack: Attack | None = None
    attackers: frozenset[int] = frozenset()
    secret: int | None = None
    common: Common = field(default_factory=Common)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def people(self) -> int:
        """How many people the run has; fewer than asked for where some were left out."""
        return len(self.population.people)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on the sum of an arm's messages (or on each, where trust=local)."""
        return self.claim.noise_multiplier * self.sensitivity

    @property
    def coin_seed(self) -> int:
        """Seed of the coins that draw people, comparisons and flips."""
        return coin_seed(self.config, self.secret)

    def noise_seed(self, arm: Arm) -> int:
        """Seed of the noise on an arm's messages; the pooled arm, a baseline, has noise of its own."""
        root = self.config.seed if self.secret is None else self.secret
        rule = rule_of(self.config.strategy.name)
        found = message_noise_seed(self.config, self.claim, self.private_claim, root, rule)
        return found if arm == "shared" else int.from_bytes(key(found, "arm", arm), "big")

    @property
    def local_seed(self) -> int:
        """Seed of the noise of what a person learns alone: of nothing that such a model does not hang on."""
        nobody = () if is_attacked(self.config) else ("attack",)
        about = key_of(self.config, without=("runtime", "evaluation", *nobody))
        # Bounds are on the private part of a pair of adapters; what is learned alone has none.
        plan = replace(self.plans["shared"].private, constraint=None, kl=None)
        name = ("noise", about, str(plan), self.config.model.form)
        root = self.config.seed if self.secret is None else self.secret
        return int.from_bytes(key(root, *name), "big")

    def group_of(self, people: Sequence[int]) -> torch.Tensor:
        """(P,) int64: the number of each person's group; 0 where the strategy tells none apart."""
        if not self.groups:
            return torch.zeros(len(people), dtype=torch.int64)
        place = {name: number for number, name in enumerate(self.groups)}
        return torch.tensor([place[self.population.people[person].group] for person in people])

    def first_arrays(self, arm: Arm) -> dict[str, np.ndarray]:
        """Everything that the server sends first in an arm: the adapter, then what is beside it."""
        model = self.models[arm]
        own = {name: value.numpy() for name, value in model.initial_shared().items()}
        return own | initial(self.half, model.shared_spec(), max(1, len(self.groups)))

    @property
    def sensitivity(self) -> float:
        """Most that one protected unit (a person, or a comparison) can move the sum of messages.

        A person's message is rounded toward zero as a whole and stays within its clip. A comparison is one
        part of a message: with another one, each number of it may be rounded to the next step.
        """
        shared, manifest = self.plans["shared"].shared, self.manifests["shared"]
        if shared.pair_clip is None:
            return manifest.clip
        moved = shared.rate * shared.pair_clip / shared.expected_batch
        return moved + manifest.grid * math.sqrt(manifest.size)


def coin_seed(config: Config, secret: int | None) -> int:
    """Seed of a run's coins; with a secret root as secret as the noise, since amplification rests on them."""
    return config.seed if secret is None else int.from_bytes(key(secret, "coins"), "big")


def build_world(config: Config, progress: Progress | None = None, secret: int | None = None) -> World:
    """The world of a resolved configuration.

    Args:
        config: resolved.
        progress: called with (what, done, total) during long steps.
        secret: root of noise and coins, with `privacy.noise=os`.

    Raises:
        InputError: data or model cannot be used.
    """
    common = common_of(config)
    _refuse_unadaptable(config)
    lazy = common.once("sources", lambda: _lazy(config))
    if lazy is None:
        config, population, sources = _from_files(config, common)
        unseen = np.array([person.split == "unseen" for person in population.people], dtype=bool)
        evaluated = _evaluated(config, unseen)
        present = np.arange(len(unseen))
    else:
        unseen = unseen_people(config.people, config.seed, config.data.split)
        present = evaluated = _evaluated(config, unseen)
        population = common.once("people", lambda: populate_some(config, lazy, evaluated.tolist()))
        sources = population_digests(config, population)
    people = {population.people[place].id: place for place in present.tolist()}
    eligible = np.flatnonzero(~unseen)
    attack, liars = attack_of(config), np.zeros(0, np.int64)
    if attack is not None:
        liars = attackers(len(unseen), eligible, config.attack.fraction, config.attack.seed)
    poison = None
    if attack is not None and len(liars):
        poison = make_poison(config, attack, liars, population)
        population = poisoned(population, people, poison)
    table = population.train + population.test
    owner = np.array([people[c.person] for c in table], dtype=np.int64)
    train_rows = _rows_by_tag(table[: len(population.train)], owner, present)
    if len(eligible) < 2:
        raise DataError(f"{len(eligible)} people take part in shared training; at least 2 are needed")
    chosen = np.zeros(len(unseen), dtype=bool)
    chosen[evaluated] = True
    test_rows = np.arange(len(population.train), len(table))
    test_rows = test_rows[chosen[owner[test_rows]]]
    half = client_half(config.strategy.name, config.strategy.options)
    claim, own = claims(config, len(eligible), half)
    with threadpool_limits(1):  # bases are bit for bit the same in a process with another thread count
        also: tuple[str, ...] = () if lazy is None else lazy.taste.texts + lazy.safety.texts
        if poison is not None and lazy is not None:
            also += tuple(poison.attack.texts(lazy.safety.texts, poison.scene))
        features = common.once("features", lambda: reward_features(config, population, table, progress, also))
    models = _models(config, table, features, progress)
    tags: dict[Arm, list[Tag]] = {
        "shared": [t for t in TAGS if t in config.shared.tags],
        "pooled": list(TAGS),
    }
    root = config.seed if secret is None else secret
    loud = private_noise_seed(config, claim, own, root, rule_of(config.strategy.name))
    plans = {
        arm: replace(
            make_plan(config, tags[arm], claim, own), seed=coin_seed(config, secret), noise_seed=loud
        )
        for arm in ARMS
    }
    # One model for everybody knows no private adapter, in whatever schedule the shared arm trains.
    plans["pooled"] = replace(plans["pooled"], schedule="decoupled")
    groups = _groups(population, lazy) if half is not None and half.groups else ()
    world = World(
        config=config,
        population=population,
        table=table,
        train_rows=train_rows,
        crowd=TableCrowd(train_rows, features)
        if lazy is None
        else common.once("crowd", lambda: PlantedCrowd(lazy.taste, lazy.safety, unseen, features, poison)),
        test_rows=test_rows,
        owner=owner,
        evaluated=evaluated,
        eligible=eligible,
        models=models,
        plans=plans,
        manifests={
            arm: egress_manifest(config, models[arm], plans[arm], claim, half, len(groups)) for arm in ARMS
        },
        claim=claim,
        private_claim=own,
        features=features,
        half=half,
        groups=groups,
        attack=attack if len(liars) else None,
        attackers=frozenset(liars.tolist()),
        secret=secret,
        common=common,
        sources=sources | code_digests(config),
    )
    if needed(config):
        _with_public(world)
    return world


def _with_public(world: World) -> None:
    """Give the shared arm's model the public safety pairs that nobody's test is about."""
    from commonground.simulations.public_safety import public_pairs  # it asks for worlds itself

    pairs, config, vectors = public_pairs(world), world.config, None
    if config.model.kind == "reward" and config.model.basis == "planted":
        texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
        vectors = with_styles(text_vectors(config, texts, public=False))
    with threadpool_limits(1):
        world.models["shared"].public = public_models(config, world.models["shared"], pairs, vectors)


def _from_files(config: Config, common: Common) -> tuple[Config, Population, dict[str, str]]:
    """People of files, as the model reads what they said; and the digests of what was in the files."""
    population = common.once("people", lambda: populate(config))
    sources = common.once("digests", lambda: population_digests(config, population))
    return *as_read(config, population), sources


def _lazy(config: Config) -> PlantedSources | None:
    """Who draws people when they are visited; None where everybody's comparisons are at hand."""
    return planted_sources(config) if config.runtime == "fleet" and config.model.kind == "reward" else None


_WORLDS: dict[str, World] = {}  # one run a process; a device is opened for every message


def world_of(run: str) -> World:
    """The world of a run folder, built once a process."""
    if run not in _WORLDS:
        values, places, _ = read_values(Path(run) / "config.yaml")
        config, state = config_from(values, places), Path(run) / "state"
        world = build_world(config, secret=noise_root(config, state))
        if (kept := read(state / INPUTS)) is not None:  # this process reads the sources for itself
            compare(state, kept, world.sources, world.config)
        adopt(run, world)
    return _WORLDS[run]


def adopt(run: str, world: World) -> None:
    """Let devices of this process use a world that is already built; the one before it is dropped."""
    _WORLDS.clear()
    _WORLDS[run] = world


def current_run() -> tuple[str, Arm]:
    """Run folder and arm that this process serves, from its local environment."""
    arm: Arm = "pooled" if os.environ.get("COMMONGROUND_ARM") == "pooled" else "shared"
    return os.environ["COMMONGROUND_RUN"], arm


def _groups(population: Population, lazy: PlantedSources | None) -> tuple[str | None, ...]:
    """The public groups there are, by name, and None last where some people have none."""
    if lazy is not None:
        return tuple(sorted(name for name, _, _ in lazy.taste.planting.groups))
    found = {person.group for person in population.people}
    named = sorted(name for name in found if name is not None)
    return (*named, None) if None in found else tuple(named)


def _rows_by_tag(
    train: Sequence[Comparison], owner: np.ndarray, people: np.ndarray
) -> dict[int, dict[Tag, np.ndarray]]:
    lists: dict[int, dict[Tag, list[int]]] = {p: {tag: [] for tag in TAGS} for p in people.tolist()}
    for row, comparison in enumerate(train):
        lists[int(owner[row])][comparison.tag].append(row)
    return {
        person: {tag: np.array(rows, dtype=np.int64) for tag, rows in own.items()}
        for person, own in lists.items()
    }


def _evaluated(config: Config, unseen: np.ndarray) -> np.ndarray:
    pool = np.flatnonzero(unseen) if config.data.split == "unseen_people" else np.arange(len(unseen))
    if not len(pool):
        raise DataError(
            f"data.split=unseen_people leaves none of {len(unseen)} people unseen, so there is "
            "nobody to evaluate; at least 1 is needed",
            hint="ask for more people (4 are enough with the starter set), or for another data.split",
        )
    count = min(int(config.evaluation.people or len(pool)), len(pool))
    draws = generator(config.seed, "evaluated").choice(pool, count, replace=False)
    return np.sort(draws.astype(np.int64))


def _refuse_unadaptable(config: Config) -> None:
    """Refuse a language model that cannot be adapted, before data are read, which may take long."""
    if config.model.kind == "policy":
        from commonground.language_model import refuse_unadaptable

        refuse_unadaptable(config.model.base, config.model.layers)


def _models(
    config: Config, table: tuple[Comparison, ...], features: RewardFeatures, progress: Progress | None
) -> dict[Arm, PreferenceModel]:
    if config.model.kind == "reward":
        tags = [t for t in TAGS if t in config.shared.tags]
        return {
            "shared": reward_model(config, features, tags),
            "pooled": reward_model(config, features, TAGS, private=False),
        }
    policy = policy_model(config, table, progress)
    return {"shared": policy, "pooled": policy}
