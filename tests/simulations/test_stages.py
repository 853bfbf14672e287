"""The stages after the rounds: the last private phase, local models, one central model; cut off anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_world

from commonground.comparisons import TAGS
from commonground.evaluation.logistic import log_loss
from commonground.randomness import normal
from commonground.simulations.crowd import TableCrowd
from commonground.simulations.devices import STREAM, SimulatedDevice
from commonground.simulations.measure import Policy, margins
from commonground.simulations.stages import RIDGE, local_adapters, personal_adapters, pooled_central, settle
from commonground.simulations.store import Store
from commonground.simulations.world import World
from commonground.training.model import Tensors


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


def quiet(name: str, done: int, total: int) -> None:
    """Nobody is told."""


def somewhere(world: World) -> Tensors:
    return {k: normal(s, 0, "somewhere", k) for k, s in world.models["shared"].shared_spec().items()}


def states(store: Store, world: World, stream: str, round: int) -> dict[int, dict[str, bytes]]:
    found = {}
    for person in world.evaluated.tolist():
        arrays = store.read(stream, person, round + 1) or {}
        found[person] = {name: value.tobytes() for name, value in arrays.items()}
    return found


def wide_world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world so wide that the last bits of a reward depend on how many people are scored at once."""
    monkeypatch.setattr(toy_world, "SIZE", 384)
    return toy_world.tiny_world(monkeypatch, people=12, shared__tags=["safety", "taste"])


@pytest.mark.parametrize("kept", [0, 1, 7, 11, 12])
def test_a_stage_that_was_cut_off_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: int
) -> None:
    """Killed between two people of one chunk: the resumed run must not train the rest in another batch."""
    world = wide_world(monkeypatch)
    shared, last = somewhere(world), world.config.rounds + 1
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    for store in (whole, cut):
        for person in (0, 3, 8):
            arrays = {k: v.numpy() for k, v in shared.items()}
            SimulatedDevice(world, store, "shared", person).private_update(2, arrays, False)
    settle(world, whole, shared, quiet)
    wanted = states(whole, world, STREAM, last)
    local_adapters(world, whole, quiet)
    wanted_local = states(whole, world, "local", 1)
    for person in world.evaluated[:kept].tolist():
        done = whole.read(STREAM, person, last + 1)
        done_local = whole.read("local", person, 2)
        assert done is not None
        assert done_local is not None
        cut.write(STREAM, person, last, done)
        cut.write("local", person, 1, done_local)
    settle(world, cut, shared, quiet)
    local_adapters(world, cut, quiet)
    assert states(cut, world, STREAM, last) == wanted
    assert states(cut, world, "local", 1) == wanted_local
    whole.close()
    cut.close()


def test_settling_goes_on_where_the_visits_ended(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    """The same as the device's own last phase, to rounding; and every lifetime is spent exactly."""
    world = toy_world.tiny_world(monkeypatch)
    shared, last = somewhere(world), world.config.rounds + 1
    arrays = {k: v.numpy() for k, v in shared.items()}
    SimulatedDevice(world, store, "shared", 2).private_update(1, arrays, False)
    settle(world, store, shared, quiet)
    batched = personal_adapters(world, store, last)["private.v"]
    for person in world.evaluated.tolist():
        found = store.read(STREAM, person, last + 1)
        assert found is not None
        assert found["steps"].tolist() == [world.plans["shared"].private.steps]
        SimulatedDevice(world, store, "shared", person).private_update(last, arrays, True)
    alone = personal_adapters(world, store, last)["private.v"]
    assert torch.allclose(batched, alone, atol=1e-6)
    assert batched.abs().max() > 1e-2


def test_local_models_know_nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A local model does not change when everybody else's comparisons go, nor with the shared adapter."""
    world = toy_world.tiny_world(monkeypatch)
    rows = {
        person: own if person == 3 else {tag: np.zeros(0, np.int64) for tag in TAGS}
        for person, own in world.train_rows.items()
    }
    found = []
    for name, one in (("all", world), ("alone", replace(world, train_rows=rows))):
        store = Store(tmp_path / name)
        found.append(local_adapters(one, store, quiet)["private.v"])
        store.close()
    assert torch.allclose(found[0][3], found[1][3], atol=1e-6)
    assert not torch.allclose(found[0][2], found[1][2], atol=1e-3)


def test_the_central_model_is_the_optimum_of_its_objective(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = toy_world.tiny_world(monkeypatch)
    found = pooled_central(world, tmp_path, quiet)
    features = world.features
    for tag in TAGS:
        rows = np.concatenate([world.train_rows[p][tag] for p in world.eligible.tolist()])
        block = features.block[tag].double()
        x = block[features.chosen[rows]] - block[features.rejected[rows]]
        w = found[f"shared.{tag}.u"].double().requires_grad_()
        objective = torch.nn.functional.softplus(-(x @ w)).sum() + RIDGE / 2 * w.square().sum()
        slope = torch.autograd.grad(objective, w)[0]
        assert slope.abs().max() < 1e-3
        assert objective < torch.from_numpy(log_loss(np.zeros(len(rows)))).sum()
    again = pooled_central(world, tmp_path, quiet)  # read back, not fitted again
    assert all(torch.equal(again[name], value) for name, value in found.items())


@pytest.mark.parametrize("form", ["linear", "tanh"])
def test_a_central_model_without_a_safety_comparison_stays_at_its_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    world = toy_world.tiny_world(monkeypatch, model__form=form)
    rows = {person: {**own, "safety": np.zeros(0, np.int64)} for person, own in world.train_rows.items()}
    world = replace(world, train_rows=rows, crowd=TableCrowd(rows, world.features))
    found = pooled_central(world, tmp_path, quiet)
    assert set(found) == set(world.models["pooled"].shared_spec())
    assert torch.count_nonzero(found["shared.safety.u"]) == 0
    assert torch.count_nonzero(found["shared.taste.u"]) > 0


def test_margins_are_those_of_each_owner_in_the_order_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = toy_world.tiny_world(monkeypatch, people=9, evaluation__people=5)
    model, shared = world.models["shared"], somewhere(world)
    private = {"private.v": normal((5, 8), 0, "private")}
    rows = world.test_rows[::-1].copy()
    found = margins(world, Policy(model, shared, private), rows)
    features = world.features
    for place, row in enumerate(rows.tolist()):
        person = int(np.flatnonzero(world.evaluated == world.owner[row])[0])
        sides = (int(features.chosen[row]), int(features.rejected[row]))
        wanted = torch.zeros(())
        for sign, side in zip((1, -1), sides, strict=True):
            reward = private["private.v"][person] @ features.private[side]
            if world.table[row].tag == "safety":
                reward = reward + shared["shared.safety.u"] @ features.block["safety"][side]
            wanted = wanted + sign * reward
        assert found[place] == pytest.approx(float(wanted), abs=1e-5)
    assert margins(world, Policy(model), rows).tolist() == [0.0] * len(rows)
