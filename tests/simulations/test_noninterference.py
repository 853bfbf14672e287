"""Methods B2, test T1: nothing private can change a byte, or the order, of what leaves a device.

Two rounds of every person are played through the client app as a server would ask for them. In the
decoupled schedule what leaves is the same whatever becomes of the private side; in the other schedules
the same changes do show, so that the comparison is known to be able to fail.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_world
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from toy_patience import a_while

from commonground.client.app import app
from commonground.client.devices import OPENERS
from commonground.comparisons import TAGS
from commonground.randomness import generator, normal
from commonground.simulations import devices
from commonground.simulations.devices import STREAM, SimulatedDevice
from commonground.simulations.grid import InProcessGrid
from commonground.simulations.store import Store
from commonground.simulations.world import Arm, World
from commonground.training import update
from commonground.training.reward import RewardModel

Outbound = list[tuple[Any, ...]]
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "tanh": {"model__form": "tanh"},
    "batches": {"shared__batch": 1},
    "comparison": {"privacy__unit": "comparison"},
    "local noise": {"privacy__trust": "local"},
    "no noise": {"privacy__shared__epsilon": "inf", "privacy__private__epsilon": "inf"},
    "label": {"privacy__private__mechanism": "label"},
    "constraint": {"bounds__constraint": 0.0, "bounds__constraint_rate": 20.0},
}


def small_world(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> World:
    return toy_world.tiny_world(monkeypatch, people=4, cohort=2, **changes)


def play(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    world: World,
    meddle: Callable[[Store, int], None] | None = None,
    arm: Arm = "shared",
) -> Outbound:
    """Everything that leaves in two rounds, in order; `meddle` is called before each."""
    store = Store(folder)
    monkeypatch.setitem(OPENERS, "played", lambda person: SimulatedDevice(world, store, arm, person))
    monkeypatch.setenv("COMMONGROUND_DEVICE", "played")
    grid, found = InProcessGrid(app, world.people), []
    shared = {k: v.numpy() for k, v in world.models[arm].initial_shared().items()}
    try:
        for round in (1, 2):
            if meddle is not None:
                meddle(store, round)
            arrays = ArrayRecord({name: Array(value) for name, value in shared.items()})
            after = arm == "shared" and world.config.schedule == "decoupled"
            kinds = ("train", "train.private") if after else ("train",)
            for kind in kinds:
                for person in range(world.people):
                    values = {
                        "round": round,
                        "person": person,
                        "manifest": world.manifests[arm].digest,
                        "final": False,
                    }
                    content = RecordDict({"arrays": arrays, "config": ConfigRecord(values)})
                    asked = Message(content, dst_node_id=person + 1, message_type=kind)
                    found += [written(reply) for reply in grid.send_and_receive([asked])]
            moves = {k: normal(v.shape, 0, "server", round, k).numpy() for k, v in shared.items()}
            shared = {k: shared[k] + moves[k] for k in shared}
    finally:
        store.close()
    return found


def written(reply: Message) -> tuple[Any, ...]:
    """Everything of a reply that its sender decides, bytes and order included."""
    if reply.has_error():
        return ("error", reply.error.code, reply.error.reason)
    arrays = [
        (key, name, array.dtype, tuple(array.shape), array.data)
        for key, record in reply.content.array_records.items()
        for name, array in record.items()
    ]
    rest = [(key, dict(r)) for key, r in reply.content.items() if key not in reply.content.array_records]
    kind = (reply.metadata.src_node_id, reply.metadata.dst_node_id, reply.metadata.message_type)
    return (*kind, list(reply.content), arrays, rest)


def arbitrary(world: World) -> Callable[[Store, int], None]:
    """Put loud tensors in place of every person's private state."""
    plan = world.plans["shared"].private

    def meddle(store: Store, round: int) -> None:
        for person in range(world.people):
            state = update.first_private(world.models["shared"], 1, plan)
            loud = {k: 100 * normal(v.shape, round, "loud", person) for k, v in state.adapter.items()}
            store.write(STREAM, person, round - 1, replace(state, adapter=loud).to_arrays())

    return meddle


def other_tastes(world: World) -> World:
    """The same people, every taste comparison about other texts: what they prefer is all different."""
    features = copy.copy(world.features)
    taste = features.tag == TAGS.index("taste")
    draws = generator(0, "other tastes")
    size = len(features.private)
    for side in ("chosen", "rejected"):
        other = torch.from_numpy(draws.integers(0, size, len(taste)))
        setattr(features, side, torch.where(taste, other, getattr(features, side)))
    old = world.models["shared"]
    assert isinstance(old, RewardModel)
    model = RewardModel(features, old.tags, old.form, world.config.seed)
    return replace(world, features=features, models={**world.models, "shared": model})


def no_tastes(world: World) -> World:
    """The same people without a taste comparison."""
    rows = {person: {**own, "taste": np.zeros(0, np.int64)} for person, own in world.train_rows.items()}
    return replace(world, train_rows=rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_private_changes_a_byte_in_the_decoupled_schedule(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variant: str
) -> None:
    world = small_world(monkeypatch, **VARIANTS[variant])
    plain = play(monkeypatch, tmp_path / "plain", world)
    assert len(plain) == 2 * 2 * 4
    assert [len(message[4]) for message in plain[:4]] == [len(world.manifests["shared"].tensors)] * 4
    assert any(np.frombuffer(array[4][-12:], np.float32).any() for m in plain[8:12] for array in m[4])
    assert play(monkeypatch, tmp_path / "again", world) == plain
    assert play(monkeypatch, tmp_path / "states", world, arbitrary(world)) == plain
    assert play(monkeypatch, tmp_path / "tastes", other_tastes(world)) == plain
    assert play(monkeypatch, tmp_path / "none", no_tastes(world)) == plain


@pytest.mark.parametrize("what", ["raise", "exit", "stall", "nan"])
def test_a_private_phase_that_breaks_changes_nothing_that_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    world = small_world(monkeypatch)
    plain = play(monkeypatch, tmp_path / "plain", world)
    honest = update.private_phase

    def broken(*args: Any, **kwargs: Any) -> Any:
        if what == "raise":
            raise RuntimeError("person 3 likes purple dragons")
        if what == "exit":
            raise SystemExit("person 3 likes purple dragons")
        state = honest(*args, **kwargs)
        if what == "stall":
            a_while(0.02)
            return state
        return replace(state, adapter={k: v * float("nan") for k, v in state.adapter.items()})

    monkeypatch.setattr(devices, "private_phase", broken)
    assert play(monkeypatch, tmp_path / "broken", world) == plain


@pytest.mark.parametrize("variant", ["default", "local noise"])
def test_a_damaged_private_store_changes_nothing_that_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variant: str
) -> None:
    """States of another shape, of no known name, and bytes that are no state at all."""
    world = small_world(monkeypatch, **VARIANTS[variant])
    plain = play(monkeypatch, tmp_path / "plain", world)

    def damage(store: Store, round: int) -> None:
        store.write(STREAM, 0, round - 1, {"adapter/private.v": np.zeros((3, 99), np.float32)})
        store.write(STREAM, 1, round - 1, {"purple": np.zeros(1, np.float32)})
        store.write(STREAM, 2, round - 1, {"steps": np.zeros(1, np.int64)})
        store._database.execute("UPDATE state SET arrays=? WHERE person=2", (b"no state",))

    assert play(monkeypatch, tmp_path / "damaged", world, damage) == plain


@pytest.mark.parametrize("schedule", ["alternating", "joint"])
def test_the_other_schedules_do_show_what_is_private(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, schedule: str
) -> None:
    """Guards against testing nothing; and why these schedules may claim person-level privacy alone."""
    world = small_world(monkeypatch, schedule=schedule)
    plain = play(monkeypatch, tmp_path / "plain", world)
    assert play(monkeypatch, tmp_path / "again", world) == plain
    for name, found in (
        ("states", play(monkeypatch, tmp_path / "states", world, arbitrary(world))),
        ("tastes", play(monkeypatch, tmp_path / "tastes", other_tastes(world))),
    ):
        changed = [left != right for left, right in zip(plain, found, strict=True)]
        # in the joint schedule the first step of a first visit is taken at the untouched adapter
        assert sum(changed) >= 4, name


def test_in_the_other_schedules_a_broken_private_phase_is_a_constant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = small_world(monkeypatch, schedule="alternating")

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("person 3 likes purple dragons")

    monkeypatch.setattr(update, "private_phase", broken)
    found = play(monkeypatch, tmp_path, world)
    assert set(found) == {("error", 1001, "the shared phase failed on the device")}


@pytest.mark.parametrize("schedule", ["decoupled", "alternating", "joint"])
def test_pooled_is_one_model_and_knows_no_private_adapter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, schedule: str
) -> None:
    world = small_world(monkeypatch, schedule=schedule)
    plain = play(monkeypatch, tmp_path / "plain", world, arm="pooled")
    assert play(monkeypatch, tmp_path / "states", world, arbitrary(world), arm="pooled") == plain
    assert len({message[4][0][4] for message in plain}) == len(plain)
