"""The fleet gives what one person at a time gives, through the same egress contract, at the cohort's cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from toy_runs import Kit

from commonground.clipping import clip_update, clip_updates
from commonground.comparisons import TAGS
from commonground.errors import EgressError, RunFolderError
from commonground.manifest import seal, seal_many
from commonground.randomness import normal
from commonground.sealing import clip_for_many
from commonground.simulations.crowd import PlantedCrowd
from commonground.simulations.devices import STREAM, SimulatedDevice
from commonground.simulations.fleet import Fleet
from commonground.simulations.fleet_grid import FleetGrid
from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.stages import expect_cohorts
from commonground.simulations.store import Store
from commonground.simulations.world import Arm, World
from commonground.training.update import PrivateState

SAME = ("policies", "paired", "privacy", "egress")
VARIANTS: list[dict[str, Any]] = [
    {},
    {"shared__tags": ["safety", "taste"]},
    {"model__form": "tanh"},
    {"model__form": "tanh", "privacy__unit": "comparison"},
    {"privacy__unit": "comparison"},
    {"privacy__trust": "local"},
    {"privacy__shared__epsilon": float("inf"), "privacy__private__epsilon": float("inf")},
    {"privacy__private__mechanism": "label"},
    {"schedule": "alternating"},
    {"schedule": "joint"},
    {"shared__batch": 2},
    {"data__split": "unseen_people"},
]
PEOPLE = 9


def start(world: World, arm: Arm, round: int) -> dict[str, np.ndarray]:
    """A shared adapter away from its start, another one each round."""
    spec = world.models[arm].shared_spec()
    return {name: 0.5 * normal(shape, 7, "u", name, round).numpy() for name, shape in spec.items()}


def two_worlds(monkeypatch: pytest.MonkeyPatch, chunk: int, **variant: Any) -> tuple[World, World]:
    """The same people one by one, and as a fleet that draws them when they are visited."""
    common = {"people": PEOPLE, **variant}
    return (
        toy_world.tiny_world(monkeypatch, **common),
        toy_world.tiny_world(monkeypatch, **common, runtime="fleet", fleet__chunk=chunk),
    )


def close(left: np.ndarray, right: np.ndarray) -> None:
    assert left.shape == right.shape
    assert np.allclose(left, right, atol=1e-5, rtol=1e-5)


def same_steps(left: np.ndarray, right: np.ndarray, step: float) -> None:
    """The same whole steps of a grid, but for a number or two whose last bits lay on both sides of one."""
    assert left.shape == right.shape
    off = np.abs(left - right) > 1e-5 + 1e-5 * np.abs(left)
    assert np.abs(left - right).max() <= step + 1e-5
    assert off.sum() <= 2 + 1e-3 * off.size


@pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda v: ",".join(f"{k}={x}" for k, x in v.items()) or "plain"
)
@pytest.mark.parametrize(
    "chunk",
    [pytest.param(1, marks=pytest.mark.night), pytest.param(7, marks=pytest.mark.identity), 64],
)
def test_two_rounds_of_a_fleet_are_those_of_one_device_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
    stores: tuple[Store, FleetStore],
    chunk: int,
    variant: dict[str, Any],
) -> None:
    one, many = two_worlds(monkeypatch, chunk, **variant)
    assert isinstance(many.crowd, PlantedCrowd)
    arms: tuple[Arm, ...] = ("shared", "pooled")
    people = one.eligible.tolist()
    for arm in arms:
        fleet = Fleet(many, arm, stores[1])
        for round in (1, 2):
            u = start(one, arm, round)
            devices = [SimulatedDevice(one, stores[0], arm, person) for person in people]
            sent = [device.shared_update(round, u) for device in devices]
            total = fleet.train(round, u, people, each=False)
            each = fleet.train(round, u, people, each=True)
            assert total.answered == each.answered == people
            for name in u:
                rows = np.stack([sealed.tensors[name] for sealed in sent])
                same_steps(rows, each.arrays[name], many.manifests[arm].grid)
                added = each.arrays[name].sum(0, dtype=np.float64)
                close(added, total.arrays[name])
                if many.manifests[arm].grid:  # whole steps add up exactly, in whatever chunks
                    assert np.array_equal(added, total.arrays[name])
            assert max(float(np.abs(s.tensors[name]).max()) for s in sent) > 1e-4
            if arm == "shared" and one.config.schedule == "decoupled":
                for device in devices:
                    device.private_update(round, u, round == 2)
                fleet.train_private(round, u, people, final=round == 2)
    found = stores[1].read_many(STREAM, people, 3)
    kept = [stores[0].read(STREAM, person, 3) for person in people]
    assert found[0].all()
    for place, state in enumerate(kept):
        assert state is not None
        for name, value in state.items():
            close(value[0], found[1][name][place])
    assert (PrivateState.from_arrays(found[1]).steps > 0).all()


@pytest.mark.identity
def test_receipts_are_those_of_the_devices(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[Store, FleetStore]
) -> None:
    """With one person a chunk and the same table the bytes are the same, so the digests are."""
    one = toy_world.tiny_world(monkeypatch, people=PEOPLE, fleet__chunk=1)
    u, people = start(one, "shared", 1), list(range(PEOPLE))
    for person in people:
        SimulatedDevice(one, stores[0], "shared", person).shared_update(1, u)
    Fleet(one, "shared", stores[1]).train(1, u, people, each=False)
    assert stores[0].receipts("shared", 99) == stores[1].receipts("shared", 99)
    assert stores[0].totals("shared") == stores[1].totals("shared")


def test_a_fleet_draws_the_comparisons_that_the_table_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("warm", "cold", "unseen_people"):
        one, many = two_worlds(monkeypatch, 64, data__split=split)
        assert one.eligible.tolist() == many.eligible.tolist()
        assert one.evaluated.tolist() == many.evaluated.tolist()
        assert one.crowd.counts() == many.crowd.counts()
        texts = [list(world.features.place) for world in (one, many)]
        for tag in TAGS:
            for person in range(PEOPLE):
                mine, theirs = (world.crowd.sides([person], tag) for world in (one, many))
                for left, right in zip(mine, theirs, strict=True):
                    assert [texts[0][k] for k in left] == [texts[1][k] for k in right]


def test_only_evaluated_people_are_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    many = toy_world.tiny_world(monkeypatch, people=5000, runtime="fleet", evaluation__people=4)
    assert many.people == 5000
    assert len(many.train_rows) == len(many.evaluated) == 4
    assert set(many.owner.tolist()) == set(many.evaluated.tolist())
    few = toy_world.tiny_world(
        monkeypatch, people=5000, runtime="fleet", evaluation__people=4, data__split="cold"
    )
    assert len(few.table) == len(many.table)
    model, crowd = many.crowd.visit(many.models["shared"], [4998, 17], ["safety"])
    assert [len(rows["taste"]) for rows in crowd.rows] == [0, 0]
    assert all(len(rows["safety"]) for rows in crowd.rows)
    assert model.shared_spec() == many.models["shared"].shared_spec()


def test_private_tensors_change_nothing_that_a_fleet_sends(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[Store, FleetStore]
) -> None:
    """Non-interference: the private states of everybody replaced by anything, and unreadable."""
    _, many = two_worlds(monkeypatch, 64)
    u, people = start(many, "shared", 1), list(range(PEOPLE))
    fleet = Fleet(many, "shared", stores[1])
    before = fleet.train(2, u, people, each=True)
    fleet.train_private(1, u, people, final=False)
    _, arrays = stores[1].read_many(STREAM, people, 2)
    wild = {name: np.full_like(value, 1e9) for name, value in arrays.items() if name != "steps"}
    stores[1].write_many(STREAM, people, 1, {**arrays, **wild})
    after = fleet.train(2, u, people, each=True)

    def unreadable(*_: Any) -> None:
        raise OSError("the private states cannot be read")

    monkeypatch.setattr(FleetStore, "read_many", unreadable)
    blind = fleet.train(2, u, people, each=True)
    for name, value in before.arrays.items():
        assert value.tobytes() == after.arrays[name].tobytes() == blind.arrays[name].tobytes()


def test_one_bad_update_is_refused_and_the_others_are_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = toy_world.tiny_world(monkeypatch)
    manifest = world.manifests["shared"]
    (spec,) = manifest.tensors
    drawn = {spec.name: 0.1 * normal((5, *spec.shape), 1, "update").numpy()}
    update = clip_for_many(manifest, drawn, manifest.clip)[spec.name]
    good = seal_many(manifest, {spec.name: update}, round=3)
    for person, sealed in enumerate(good.each()):
        alone = seal(manifest, {spec.name: update[person]}, round=3)
        assert sealed.receipt == alone.receipt
        assert sealed.tensors[spec.name].tobytes() == alone.tensors[spec.name].tobytes()
    for bad in (np.nan, np.inf, 1e6, manifest.grid / 2):
        broken = update.copy()
        broken[2, 0] = bad
        others = seal_many(manifest, {spec.name: broken}, round=3)
        assert others.kept.tolist() == [True, True, False, True, True]
        assert [r.digest for r in others.receipts] == [
            r.digest for p, r in enumerate(good.receipts) if p != 2
        ]
    for wrong in (
        {"other": update},
        {spec.name: update, "private.v": update},
        {spec.name: update[:, :-1]},
        {spec.name: update.astype(np.float64)},
        {},
    ):
        with pytest.raises(EgressError):
            seal_many(manifest, wrong, round=3)
    with pytest.raises(EgressError, match="noise on the device"):
        seal_many(manifest, {spec.name: update}, round=3, noise={spec.name: update})
    local = replace(manifest, noise_on_device=True)
    with pytest.raises(EgressError, match="noise on the device"):
        seal_many(local, {spec.name: update}, round=3)


@pytest.mark.identity
def test_clipping_together_is_clipping_one_by_one() -> None:
    updates = {"a": 3 * normal((6, 4, 2), 1, "a").numpy(), "b": 3 * normal((6, 5), 1, "b").numpy()}
    updates["a"][1, 0, 0], updates["b"][4, 0] = np.nan, np.inf
    together = clip_updates(updates, 2.0)
    for person in range(6):
        alone = clip_update({name: value[person] for name, value in updates.items()}, 2.0)
        for name, value in alone.items():
            assert np.allclose(value, together[name][person], atol=1e-7)
            assert together[name].dtype == np.float32
    assert not together["a"][1].any()
    assert not together["b"][4].any()


def numbers_of(result: dict[str, Any]) -> dict[str, float]:
    return {
        f"{policy}.{tag}": found[tag]["accuracy"]
        for policy, found in result["policies"].items()
        for tag in TAGS
    }


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_whole_run_is_that_of_one_process(kit: Kit, tmp_path: Path, strategy: str) -> None:
    name = f"strategy.name={strategy}"
    plain, fleet = kit(tmp_path / "plain", name), kit(tmp_path / "fleet", name, "runtime=fleet")
    assert numbers_of(fleet) == pytest.approx(numbers_of(plain), abs=1e-9)
    assert fleet["privacy"] == plain["privacy"]
    counts = ("messages", "bytes", "tensors", "private_tensors", "refused")
    assert {k: fleet["egress"][k] for k in counts} == {k: plain["egress"][k] for k in counts}
    lines = [json.loads(line) for line in (tmp_path / "fleet" / "events.jsonl").read_text().splitlines()]
    assert [line["people"] for line in lines if line["arm"] == "shared"] == [
        event["people"] for event in plain["curves"]["shared"]
    ]


def test_a_rule_that_sees_replies_one_by_one_runs_as_a_fleet(kit: Kit, tmp_path: Path) -> None:
    robust = ("strategy.name=fedmedian", "privacy.shared.epsilon=inf")
    plain, fleet = kit(tmp_path / "plain", *robust), kit(tmp_path / "fleet", *robust, "runtime=fleet")
    assert numbers_of(fleet) == pytest.approx(numbers_of(plain), abs=1e-9)


def test_a_server_app_that_asks_node_by_node_gets_the_same(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages to single nodes are gathered and trained together, and answered one by one."""
    whole = kit(tmp_path / "whole", "runtime=fleet")
    monkeypatch.setattr(FleetGrid, "serves_cohorts", False)
    single = kit(tmp_path / "single", "runtime=fleet")
    assert {key: single[key] for key in SAME} == {key: whole[key] for key in SAME}


KILLED = """
import os, signal, sys
from pathlib import Path
from commonground.simulations import fleet
from commonground.simulations.runner import simulate
from commonground.simulations.settings import read_settings

calls, limit, kind = 0, int(sys.argv[3]), sys.argv[2]
plain = getattr(fleet.Fleet, kind)

def counted(self, *args, **kwargs):
    global calls
    calls += 1
    found = plain(self, *args, **kwargs)
    if calls == limit:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(fleet.Fleet, kind, counted)
simulate(read_settings(None, sys.argv[4:]), Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        pytest.param("train", 1, marks=pytest.mark.night),
        pytest.param("train", 2, marks=pytest.mark.identity(once=True)),
        ("train_private", 2),
        pytest.param("train", 5, marks=pytest.mark.night),
    ],
)
def test_a_killed_fleet_resumes_to_the_same_bytes(kit: Kit, tmp_path: Path, kind: str, call: int) -> None:
    """Killed after the cohort was trained and its states were written, before the round was saved."""
    plain = kit(tmp_path / "plain", "runtime=fleet")
    words = [sys.executable, "-c", KILLED, str(tmp_path / "cut"), kind, str(call)]
    done = subprocess.run(
        [*words, *kit.overrides, "runtime=fleet"], env={**os.environ, **kit.variables}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "result.json").exists()
    result = kit(tmp_path / "cut", "runtime=fleet")
    assert {key: result[key] for key in SAME} == {key: plain[key] for key in SAME}


def test_a_store_of_another_run_is_refused(kit: Kit, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kit(folder, "runtime=fleet")
    (folder / "result.json").unlink()
    owner = folder / "state" / "fleet" / "fleet.json"
    owner.write_text(owner.read_text().replace('"people": 12', '"people": 13'))
    with pytest.raises(RunFolderError, match="holds private states of"):
        kit(folder, "runtime=fleet")


def test_cohorts_to_come_are_drawn_before_the_first_round_and_are_the_same_people(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lazy, ready = (two_worlds(monkeypatch, 7)[1] for _ in range(2))
    told: list[tuple[str, int, int]] = []
    expect_cohorts(ready, 0.5, 1, lambda *words: told.append(words))
    assert told[0][0] == "comparisons"
    drawn = told[0][2]
    assert 0 < drawn <= PEOPLE
    people, model = list(range(PEOPLE)), ready.models["shared"]
    for tag in TAGS:
        for mine, theirs in zip(lazy.crowd.sides(people, tag), ready.crowd.sides(people, tag), strict=True):
            assert np.array_equal(mine, theirs)
    monkeypatch.setattr("commonground.simulations.crowd.KEPT", 0)
    full = two_worlds(monkeypatch, 7)[1]
    assert list(full.crowd.expect(people)) == []
    assert full.crowd.visit(model, people, TAGS)[1].index == tuple(people)
