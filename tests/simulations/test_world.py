"""The world of a run: nothing leaks from train to test, and any process rebuilds the same one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_world

from commonground.comparisons import TAGS
from commonground.errors import DataError
from commonground.settings import load_config, to_yaml
from commonground.simulations import world as worlds
from commonground.simulations.population import Population, populate
from commonground.simulations.world import World, adopt, current_run, world_of
from commonground.training.contract import UNBOUNDED
from commonground.training.reward import RewardModel

SPLITS = ("warm", "cold", "unseen_people")


@pytest.mark.parametrize("split", SPLITS)
def test_train_rows_are_train_comparisons_of_their_owner(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    world = toy_world.tiny_world(monkeypatch, people=12, data__split=split)
    train = len(world.population.train)
    seen: list[int] = []
    for person, by_tag in world.train_rows.items():
        assert set(by_tag) == set(TAGS)
        for tag, rows in by_tag.items():
            for row in rows.tolist():
                assert row < train
                assert world.table[row].tag == tag
                assert world.table[row].person == world.population.people[person].id
                assert world.owner[row] == person
            seen += rows.tolist()
    assert sorted(seen) == list(range(train))  # none twice, none forgotten
    assert (world.test_rows >= train).all()


@pytest.mark.parametrize("split", SPLITS)
def test_no_test_prompt_was_trained_on(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    """Safety and, when cold, taste: by anybody. Otherwise taste: by the person herself."""
    world = toy_world.tiny_world(monkeypatch, people=12, data__split=split)
    own = {(p, world.table[r].prompt) for p, by in world.train_rows.items() for r in by["taste"].tolist()}
    anybody = {prompt for _, prompt in own}
    safety = {world.table[r].prompt for by in world.train_rows.values() for r in by["safety"].tolist()}
    assert own
    assert safety
    tags = set()
    for row in world.test_rows.tolist():
        comparison = world.table[row]
        tags.add(comparison.tag)
        if comparison.tag == "safety":
            assert comparison.prompt not in safety
        else:
            assert (int(world.owner[row]), comparison.prompt) not in own
            assert split != "cold" or comparison.prompt not in anybody
    assert tags == set(TAGS)


def test_unseen_people_never_take_part_and_only_they_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    world = toy_world.tiny_world(monkeypatch, people=12, data__split="unseen_people")
    unseen = [i for i, p in enumerate(world.population.people) if p.split == "unseen"]
    assert unseen
    assert world.evaluated.tolist() == unseen
    assert world.eligible.tolist() == [i for i in range(12) if i not in unseen]
    assert all(len(world.train_rows[i]["safety"]) == 0 for i in unseen)
    assert set(world.owner[world.test_rows].tolist()) == set(unseen)


def test_everybody_takes_part_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    world = toy_world.tiny_world(monkeypatch)
    assert world.eligible.tolist() == world.evaluated.tolist() == list(range(6))


def test_the_evaluated_are_a_sorted_sample_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for seed in (1, 2, 3):
        world = toy_world.tiny_world(monkeypatch, seed=seed, evaluation__people=3)
        assert len(set(world.evaluated.tolist())) == 3
        assert world.evaluated.tolist() == sorted(world.evaluated.tolist())
        assert set(world.owner[world.test_rows].tolist()) == set(world.evaluated.tolist())
        found.add(tuple(world.evaluated.tolist()))
    assert len(found) > 1


def test_one_person_who_may_take_part_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = populate

    def lonely(config: Any) -> Population:
        population = honest(config)
        rest = tuple(replace(person, split="unseen") for person in population.people[1:])
        return replace(population, people=(population.people[0], *rest))

    monkeypatch.setattr(worlds, "populate", lonely)
    with pytest.raises(DataError, match="1 people take part in shared training; at least 2 are needed"):
        toy_world.tiny_world(monkeypatch)


def test_nobody_unseen_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="leaves none of 2 people unseen") as caught:
        toy_world.tiny_world(monkeypatch, people=2, cohort=2, data__split="unseen_people")
    assert "more people" in str(caught.value.hint)


def test_what_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    world = toy_world.tiny_world(monkeypatch, privacy__shared__clip=1.5)
    shared, pooled = world.manifests["shared"], world.manifests["pooled"]
    assert [(t.name, t.shape, t.dtype) for t in shared.tensors] == [
        ("shared.safety.u", (toy_world.SIZE,), "float32")
    ]
    assert [t.name for t in pooled.tensors] == ["shared.safety.u", "shared.taste.u"]
    for arm, manifest in world.manifests.items():
        assert manifest.clip == 1.5
        assert manifest.versions == world.models[arm].public_digests()
        assert set(manifest.versions) == {"basis.safety", "basis.taste", "initial.shared"}
        assert all(len(digest) == 64 for digest in manifest.versions.values())
        assert not any("private" in tensor.name for tensor in manifest.tensors)
    assert not shared.noise_on_device


def test_both_arms_are_clipped_noised_and_trained_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    world = toy_world.tiny_world(monkeypatch, schedule="alternating")
    shared, pooled = world.plans["shared"], world.plans["pooled"]
    assert replace(pooled.shared, tags=shared.shared.tags) == shared.shared
    assert (shared.schedule, pooled.schedule) == ("alternating", "decoupled")  # pooled: no private adapter
    assert pooled.shared.tags == TAGS
    assert world.manifests["shared"].clip == world.manifests["pooled"].clip
    assert world.noise_std == pytest.approx(world.claim.noise_multiplier * world.manifests["shared"].clip)


def test_without_privacy_the_clip_binds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = toy_world.tiny_world(monkeypatch, privacy__shared__epsilon="inf")
    assert world.manifests["shared"].clip == UNBOUNDED
    assert world.noise_std == 0


def test_a_comparison_moves_a_message_by_one_clipped_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit comparison: rate C / (q cap) for one pair, `cap` times that for a whole message."""
    world = toy_world.tiny_world(
        monkeypatch, privacy__unit="comparison", privacy__shared__clip=0.5, shared__rate=3.0
    )
    one = 3.0 * 0.5 / (0.25 * 8)
    manifest = world.manifests["shared"]
    assert manifest.clip == pytest.approx(8 * one)
    # A message is rounded as a whole: another pair may move each of its numbers by a step more.
    assert world.sensitivity == one + manifest.grid * math.sqrt(manifest.size)
    assert one < world.sensitivity < 1.002 * one
    assert world.noise_std == pytest.approx(world.sensitivity * world.claim.noise_multiplier)


def test_only_local_trust_puts_noise_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert toy_world.tiny_world(monkeypatch, privacy__trust="local").manifests["shared"].noise_on_device
    silent = toy_world.tiny_world(monkeypatch, privacy__trust="local", privacy__shared__epsilon="inf")
    assert not silent.manifests["shared"].noise_on_device


def test_public_parts_do_not_come_from_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other people, another seed: the same bases, scales and starting points."""
    few = toy_world.tiny_world(monkeypatch, seed=1)
    many = toy_world.tiny_world(monkeypatch, seed=2, people=9)
    for arm, manifest in few.manifests.items():
        assert manifest.versions == many.manifests[arm].versions
    other = toy_world.tiny_world(monkeypatch, seed=1, model__form="tanh")
    assert other.manifests["shared"].versions != few.manifests["shared"].versions


def same(left: World, right: World) -> None:
    assert left.config == right.config
    assert left.population.people == right.population.people
    assert left.table == right.table
    for name in ("test_rows", "owner", "evaluated", "eligible"):
        assert np.array_equal(getattr(left, name), getattr(right, name)), name
    assert left.train_rows.keys() == right.train_rows.keys()
    for mine, theirs in zip(left.train_rows.values(), right.train_rows.values(), strict=True):
        assert all(np.array_equal(mine[tag], theirs[tag]) for tag in TAGS)
    assert left.plans == right.plans
    assert (left.claim, left.private_claim) == (right.claim, right.private_claim)
    for arm, manifest in left.manifests.items():
        assert manifest.digest == right.manifests[arm].digest
        one, other = left.models[arm], right.models[arm]
        assert isinstance(one, RewardModel)
        assert isinstance(other, RewardModel)
        assert torch.equal(one.features.private, other.features.private)
        for name, value in one.initial_shared().items():
            assert torch.equal(value, other.initial_shared()[name])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__form": "tanh", "shared__tags": ["safety", "taste"], "privacy__shared__epsilon": "inf"},
        {"privacy__trust": "local", "data__split": "unseen_people", "people": 8},
    ],
)
def test_a_world_is_rebuilt_from_its_config_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any]
) -> None:
    world = toy_world.tiny_world(monkeypatch, **changes)
    (tmp_path / "config.yaml").write_text(to_yaml(world.config), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == world.config
    monkeypatch.setattr(worlds, "_WORLDS", {})
    rebuilt = world_of(str(tmp_path))
    same(world, rebuilt)
    assert world_of(str(tmp_path)) is rebuilt  # built once a process
    adopt("another", world)
    assert world_of("another") is world
    assert list(worlds._WORLDS) == ["another"]  # the one before is dropped


def test_a_process_is_told_its_run_and_arm_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMONGROUND_RUN", "run")
    monkeypatch.setenv("COMMONGROUND_ARM", "pooled")
    assert current_run() == ("run", "pooled")
    monkeypatch.delenv("COMMONGROUND_ARM")
    assert current_run() == ("run", "shared")
