"""Whole runs of the strategies that aggregate both low-rank factors: tiny language models, tanh rewards."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from toy_models import tiny_llama, tiny_tokenizer

from commonground.clipping import joint_norm
from commonground.server.job import Job
from commonground.server.rounds import load_outcome
from commonground.simulations.devices import (
    SimulatedDevice,
    adapter,
    as_used,
    frozen_shared,
    memory_stream,
    recall,
)
from commonground.simulations.measure import Policy, margins
from commonground.simulations.runner import simulate
from commonground.simulations.settings import read_settings
from commonground.simulations.store import Store
from commonground.simulations.world import World
from commonground.strategies.hetlora import PRUNED
from commonground.strategies.registry import STRATEGIES, is_linear
from commonground.training import features

NAMES = sorted(name for name, factory in STRATEGIES.items() if getattr(factory, "factors", ""))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_tokenizer().save_pretrained(folder)
    tiny_llama().save_pretrained(folder)
    return folder


def words(base: Path, name: str) -> list[str]:
    return [
        "people=3", "rounds=2", "cohort=3", "data.pairs_per_person=4", "data.test_pairs=2", "model.layers=1",
        "model.rank=2", "model.adapter=lora", "shared.steps=2", "shared.rate=0.05", "privacy.private.steps=2",
        "evaluation.resamples=100", "evaluation.prompts=1", "evaluation.tokens=2", "model.kind=policy",
        "bounds.answers=false",
        f"model.base={base}", f"strategy.name={name}",
        f"privacy.shared.epsilon={8 if is_linear(name) else 'inf'}",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [n if n in ("flora", "hetlora", "rolora") else pytest.param(n, marks=pytest.mark.night) for n in NAMES],
)
def test_a_policy_run_of_both_factors(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(features, "Encoder", toy_world.HashEncoder)
    monkeypatch.setenv("COMMONGROUND_CACHE", str(tmp_path / "cache"))
    result = simulate(read_settings(None, words(base, name)), tmp_path / "run")
    sides = {tensor.rpartition(".")[2] for tensor in result["egress"]["tensors"]}
    assert sides == ({"A"} if name == "fedsa" else {"A", "B"})
    outcome = load_outcome(Job.load(tmp_path / "run" / "state" / "job-shared.json"))
    initial = Job.load(tmp_path / "run" / "state" / "job-shared.json").initial_arrays()
    moved = {key.rpartition(".")[2] for key, v in outcome.arrays.items() if (v != initial[key]).any()}
    assert moved == {
        "fedsa": {"A"},
        "flora": {"merged"},
        "fedex": {"A", "B", "merged"},
    }.get(name, {"A", "B"})
    assert result["config"]["strategy"]["average"] is False


@pytest.mark.slow
def test_hetlora_devices_of_a_run_remember_what_they_pruned(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "Encoder", toy_world.HashEncoder)
    monkeypatch.setenv("COMMONGROUND_CACHE", str(tmp_path / "cache"))
    options = [f"strategy.options.{option}" for option in ("kinds=1", "gamma=0.5", "lam=1000")]
    asked = [*words(base, "hetlora"), *options, "rounds=4", "shared.rate=0.02"]
    result = simulate(read_settings(None, asked), tmp_path / "run")
    assert {tensor.rpartition(".")[2] for tensor in result["egress"]["tensors"]} == {"A", "B"}
    with closing(Store(tmp_path / "run" / "state")) as store:
        there, kept = store.read_many(memory_stream("shared"), [0, 1, 2], 5)
    assert there.all()
    assert (kept[PRUNED] == 1).all()  # of rank 2, once: 1 is the least


def tanh_world(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> World:
    return toy_world.tiny_world(
        monkeypatch, strategy__name=name, model__form="tanh", privacy__shared__epsilon="inf", **changes
    )


def test_people_of_fedsa_use_their_own_factor_and_the_others_start_at_the_base_policy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world, store = tanh_world(monkeypatch, "fedsa"), Store(tmp_path)
    sent = world.first_arrays("shared")
    for person in (0, 2):
        for round in (1, 2):
            sealed = SimulatedDevice(world, store, "shared", person).shared_update(round, sent)
            assert set(sealed.tensors) == {"shared.safety.A"}
    assert joint_norm(sealed.tensors) > 0
    people, model = world.evaluated.tolist(), world.models["shared"]
    shared = adapter(model, sent)
    used = as_used(world, store, "shared", people, shared, 2)
    assert used is not None
    own = recall(world, store, "shared", people, 3)["shared.safety.u"]
    assert (own[0] != 0).any()
    assert (own[1] == 0).all()
    assert (used["shared.safety.u"] == own).all()
    assert all((used["shared.safety.A"][p] == shared["shared.safety.A"]).all() for p in people)
    before = recall(world, store, "shared", people, 2)["shared.safety.u"]
    assert (before[0] != own[0]).any()  # of the round before: it went on from there
    stands = frozen_shared(world, store, "shared", [0], sent, 2)
    assert (stands["shared.safety.u"][0] == own[0]).all()
    rows = world.test_rows
    found = margins(world, Policy(model, shared, used=used), rows)
    took_part = np.isin(world.owner[rows], (0, 2))
    safety = np.array([world.table[row].tag == "safety" for row in rows])
    assert (found[took_part & safety] != 0).all()
    assert (found[~took_part] == 0).all()
    assert (margins(world, Policy(model, shared), rows) == 0).all()
    store.close()


def test_other_strategies_have_one_shared_adapter_for_everybody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world, store = tanh_world(monkeypatch, "rolora"), Store(tmp_path)
    shared = adapter(world.models["shared"], world.first_arrays("shared"))
    assert as_used(world, store, "shared", [0], shared, 1) is None
    store.close()
