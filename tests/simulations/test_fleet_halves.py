"""Device halves of strategies in whole worlds: a fleet is one device at a time, and nothing private shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from toy_runs import Kit, make_kit

from commonground.clipping import joint_norm
from commonground.errors import ConfigError
from commonground.randomness import normal
from commonground.server.job import Job
from commonground.server.rounds import load_outcome
from commonground.simulations.compare.measures import measures
from commonground.simulations.devices import STREAM, SimulatedDevice, memory_stream
from commonground.simulations.fleet import Fleet
from commonground.simulations.fleet_grid import FleetGrid
from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.root import root_rows
from commonground.simulations.settings import read_settings
from commonground.simulations.store import Store
from commonground.simulations.world import Arm, World, _groups
from commonground.strategies.registry import STRATEGIES, client_half
from commonground.training.update import first_private

PEOPLE = 9
FACTORS = {name: getattr(factory, "factors", "") for name, factory in STRATEGIES.items()}
HALVES = sorted(
    name for name in STRATEGIES if FACTORS[name] != "product" and client_half(name) is not None
)  # those that look at products have no fleet: there is no product in a reward
every_half = pytest.mark.parametrize("name", HALVES)
OPTIONS: dict[str, dict[str, Any]] = {"fednova": {"cap": 6.0}}


def world_of(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> World:
    options = {"strategy__name": name, "strategy__options": OPTIONS.get(name, {})}
    options |= {"model__form": "tanh"} if FACTORS[name] else {}
    return toy_world.tiny_world(monkeypatch, **{"people": PEOPLE, **options, **changes})


def broadcast(world: World, arm: Arm, round: int) -> dict[str, np.ndarray]:
    """Everything that a server might send, away from its start, another one each round."""
    sent = world.first_arrays(arm)
    return {n: v + 0.3 * np.abs(normal(v.shape, 7, "u", n, round).numpy()) for n, v in sent.items()}


@every_half
@pytest.mark.parametrize("chunk", [1, pytest.param(64, marks=pytest.mark.night)])
def test_a_fleet_is_one_device_at_a_time(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[Store, FleetStore], name: str, chunk: int
) -> None:
    one = world_of(monkeypatch, name)
    many = world_of(monkeypatch, name, runtime="fleet", fleet__chunk=chunk)
    assert one.manifests == many.manifests
    assert one.groups == many.groups
    people = one.eligible.tolist()
    arms: tuple[Arm, ...] = ("shared", "pooled")
    for arm in arms:
        fleet = Fleet(many, arm, stores[1])
        for round in (1, 2, 2):  # a round that comes again is the same round
            u = broadcast(one, arm, round)
            sent = [SimulatedDevice(one, stores[0], arm, p).shared_update(round, u) for p in people]
            each = fleet.train(round, u, people, each=True)
            total = fleet.train(round, u, people, each=False)
            assert each.answered == people
            for spec in one.manifests[arm].tensors:
                rows = np.stack([sealed.tensors[spec.name] for sealed in sent])
                np.testing.assert_allclose(rows, each.arrays[spec.name], atol=1e-5, rtol=1e-5)
                np.testing.assert_allclose(rows.sum(0), total.arrays[spec.name], atol=1e-4, rtol=1e-5)
                rests = name == "rolora" and spec.name.endswith(".A" if round % 2 else ".u")
                assert (np.abs(rows).max() > 1e-4) is not rests, spec.name
            norms = [joint_norm(sealed.tensors) for sealed in sent]
            assert max(norms) <= one.manifests[arm].clip * (1 + 1e-6)
        assert one.half is not None
        if one.half.kept(one.models[arm].shared_spec()):
            kept = [stores[s].read_many(memory_stream(arm), people, 3) for s in (0, 1)]
            assert kept[0][0].all()
            assert kept[1][0].all()
            for key, value in kept[0][1].items():
                np.testing.assert_allclose(value, kept[1][1][key], atol=1e-5, rtol=1e-5)
                assert np.abs(value).max() > 1e-4


def outbound(world: World, folder: Path, loud: bool = False) -> list[bytes]:
    """What leaves every device in two rounds with the private phase between them."""
    store, found = Store(folder), []
    plan, model = world.plans["shared"].private, world.models["shared"]
    for round in (1, 2):
        u = broadcast(world, "shared", round)
        for person in range(PEOPLE):
            if loud:
                state = first_private(model, 1, plan)
                other = {k: 9 * normal(v.shape, round, "loud", person) for k, v in state.adapter.items()}
                store.write(STREAM, person, round - 1, replace(state, adapter=other).to_arrays())
            device = SimulatedDevice(world, store, "shared", person)
            sealed = device.shared_update(round, u)
            found.append(b"".join(value.tobytes() for value in sealed.tensors.values()))
            if world.plans["shared"].schedule == "decoupled":
                device.private_update(round, u, final=False)
    store.close()
    return found


@every_half
def test_nothing_private_changes_a_byte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    world = world_of(monkeypatch, name)
    plain = outbound(world, tmp_path / "plain")
    assert outbound(world, tmp_path / "again") == plain
    assert outbound(world, tmp_path / "loud", loud=True) == plain
    rows = {person: {**own, "taste": own["taste"][:0]} for person, own in world.train_rows.items()}
    assert outbound(replace(world, train_rows=rows), tmp_path / "tasteless") == plain
    other = {person: {**own, "safety": own["safety"][:1]} for person, own in world.train_rows.items()}
    assert outbound(replace(world, train_rows=other), tmp_path / "safety") != plain


@pytest.mark.parametrize(
    "name",
    [n if n in ("maxmin", "scaffold") else pytest.param(n, marks=pytest.mark.night) for n in HALVES],
)
def test_in_the_other_schedules_it_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    world = world_of(monkeypatch, name, schedule="alternating")
    assert outbound(world, tmp_path / "loud", loud=True) != outbound(world, tmp_path / "plain")


def test_groups_are_public_names_and_a_group_for_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(monkeypatch, "maxmin")
    assert world.groups == ("18-34", "35-54", "55+")
    mine = [world.population.people[p].group for p in range(PEOPLE)]
    assert [world.groups[g] for g in world.group_of(range(PEOPLE)).tolist()] == mine
    people = [replace(p, group=None if i < 2 else "north") for i, p in enumerate(world.population.people)]
    population = replace(world.population, people=people)
    found = _groups(population, None)
    assert found == ("north", None)
    other = replace(world, population=population, groups=found)
    assert other.group_of(range(4)).tolist() == [1, 1, 0, 0]
    assert world_of(monkeypatch, "nash").group_of(range(4)).tolist() == [0, 0, 0, 0]


def test_centred_clipping_clips_where_there_is_no_privacy(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"privacy__shared__epsilon": float("inf"), "privacy__private__epsilon": float("inf")}
    assert world_of(monkeypatch, "centred_clipping", **free).manifests["shared"].clip == 2.5
    assert world_of(monkeypatch, "nash", **free).manifests["shared"].clip == 1e6


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


@pytest.mark.parametrize("name", ["scaffold", "maxmin", "centred_clipping"])
def test_whole_runs_agree_between_runtimes(kit: Kit, tmp_path: Path, name: str) -> None:
    one = kit(tmp_path / "one", f"strategy.name={name}")
    many = kit(tmp_path / "many", f"strategy.name={name}", "runtime=fleet")
    left, right = (
        load_outcome(Job.load(tmp_path / run / "state" / "job-shared.json")).arrays for run in ("one", "many")
    )
    assert left.keys() == right.keys()
    for key, value in left.items():
        np.testing.assert_allclose(value, right[key], atol=1e-4)
    assert one["egress"]["tensors"] == [t["name"] for t in one["egress"]["manifest"]["tensors"]]
    assert one["egress"]["private_tensors"] == 0
    assert "extra." not in json.dumps(one["policies"])
    received = sum(int(np.prod(t["shape"])) for t in one["egress"]["manifest"].get("received", []))
    costs = measures(one, np.array(one["per_person"]["minority"]))
    drawn = sum(event["people"] for event in one["curves"]["shared"])
    assert costs["bytes_up"] == one["egress"]["bytes"]
    assert costs["bytes_down"] == one["egress"]["bytes"] + 4 * received * drawn
    assert many["privacy"]["shared"]["numbers"] == one["privacy"]["shared"]["numbers"]


def test_a_server_that_asks_node_by_node_gets_the_same(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kit(tmp_path / "whole", "runtime=fleet", "strategy.name=scaffold")
    monkeypatch.setattr(FleetGrid, "serves_cohorts", False)
    single = kit(tmp_path / "single", "runtime=fleet", "strategy.name=scaffold")
    assert single["policies"] == whole["policies"]


def test_fltrust_trusts_the_starter_pairs(kit: Kit, tmp_path: Path) -> None:
    found = kit(tmp_path / "run", "strategy.name=fltrust", "privacy.shared.epsilon=inf")
    assert found["policies"]["shared"] != found["policies"]["base"]


def test_what_fltrust_trusts_is_in_nobodys_test(monkeypatch: pytest.MonkeyPatch) -> None:
    world = toy_world.tiny_world(monkeypatch, people=PEOPLE)
    tested = {world.table[row].chosen for row in world.test_rows.tolist()}
    tested |= {world.table[row].rejected for row in world.test_rows.tolist()}
    rows = root_rows(world)
    assert len(rows) >= 4
    assert tested.isdisjoint(text for r in rows for text in (world.table[r].chosen, world.table[r].rejected))


# Noise is keyed by the configuration: runs that are written differently are the same only without any.
NOISELESS = ("privacy.shared.epsilon=inf", "privacy.private.epsilon=inf")


def test_a_strategy_of_somebody_elses_with_both_halves(kit: Kit, tmp_path: Path) -> None:
    plain = kit(tmp_path / "plain", *NOISELESS)
    once = kit(
        tmp_path / "once", *NOISELESS, "strategy.name=toy_strategies:Doubled", "strategy.options.times=1.0"
    )
    twice = kit(tmp_path / "twice", *NOISELESS, "strategy.name=toy_strategies:Doubled")
    assert once["policies"] == plain["policies"]
    assert twice["policies"]["shared"] != plain["policies"]["shared"]


def test_names_that_are_settings_reach_the_run(kit: Kit, tmp_path: Path) -> None:
    alternating = kit(tmp_path / "alternating", *NOISELESS, "schedule=alternating")
    fedalt = kit(tmp_path / "fedalt", *NOISELESS, "strategy.name=fedalt")
    assert fedalt["policies"] == alternating["policies"]
    assert fedalt["config"]["schedule"] == "alternating"
    ditto = kit(tmp_path / "ditto", "strategy.name=ditto", "strategy.options.lam=0.5")
    assert ditto["config"]["privacy"]["private"]["ridge"] == 0.5


@pytest.mark.parametrize("epsilon", ["inf", "8"])
def test_a_basis_travels_and_weights_do_not(kit: Kit, tmp_path: Path, epsilon: str) -> None:
    common = ["strategy.name=lore", "shared.tags=[safety,taste]", f"privacy.shared.epsilon={epsilon}"]
    found = kit(tmp_path / "lore", *common)
    assert found["config"]["model"]["form"] == "basis"
    sent = {tensor["name"] for tensor in found["egress"]["manifest"]["tensors"]}
    assert sent == {"shared.safety.u", "shared.taste.u", "shared.taste.R"}
    learned = load_outcome(Job.load(tmp_path / "lore" / "state" / "job-shared.json")).arrays
    start = np.eye(*learned["shared.taste.R"].shape)
    assert np.abs(learned["shared.taste.R"] - start).max() > 1e-3
    pooled = load_outcome(Job.load(tmp_path / "lore" / "state" / "job-pooled.json")).arrays
    assert sorted(pooled) == ["shared.safety.u", "shared.taste.u"]  # nobody's weights, hence no basis
    fleet = kit(tmp_path / "fleet", *common, "runtime=fleet")
    for name in ("personal", "shared", "pooled", "local"):
        left, right = (one["policies"][name]["taste"]["accuracy"] for one in (found, fleet))
        assert left == pytest.approx(right, abs=0.02), name


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["strategy.name=fedalt", "schedule=joint"], r"schedule: found 'joint' with strategy.name=fedalt"),
        (["strategy.name=nash", "privacy.unit=comparison"], "all of a person's comparisons"),
        (["strategy.name=fedsim", "privacy.unit=comparison"], "moves all of them"),
        (["strategy.name=rfa"], "one by one.*centred_clipping"),
        (["strategy.name=fltrust"], "one by one.*centred_clipping"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(given: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_settings(None, given)


def test_a_minority_that_its_group_names_is_served_by_maxmin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fifth is the group `few`, so that a rule over groups can see it."""
    world = world_of(monkeypatch, "maxmin", people=40, data__taste__preset="named_minority")
    assert world.groups == ("few", "most")
    assert world.population.minority is not None
    few = world.group_of(range(40)).numpy() == 0
    assert (few == world.population.minority).all()
    assert 2 <= few.sum() <= 16
