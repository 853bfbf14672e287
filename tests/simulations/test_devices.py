"""A simulated device: what leaves, how large it can be, who adds the noise, and that rounds repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_world

from commonground.client.handlers import sealed_content
from commonground.clipping import clip_update, joint_norm
from commonground.losses import LossSettings, PreferenceLoss, Scores
from commonground.simulations import world as worlds
from commonground.simulations.devices import (
    STREAM,
    SimulatedDevice,
    close_stores,
    device_noise,
    open_device,
)
from commonground.simulations.store import Store
from commonground.simulations.world import Arm, World, adopt
from commonground.training import shared_phase
from commonground.training.update import People, first_private, visit

SCHEDULES = ("decoupled", "alternating", "joint")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


def start(world: World, arm: Arm = "shared") -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in world.models[arm].initial_shared().items()}


def moved(world: World, round: int) -> dict[str, np.ndarray]:
    """The shared adapter of a round, made up."""
    return {k: v + np.float32(0.01 * round) for k, v in start(world).items()}


def bytes_of(tensors: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in tensors.items()}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("tags", [["safety"], ["safety", "taste"]])
def test_what_leaves_is_the_manifest_and_one_constant(
    monkeypatch: pytest.MonkeyPatch, store: Store, schedule: str, tags: list[str]
) -> None:
    """T2: one ArrayRecord with exactly the manifest's names, one metric."""
    world = toy_world.tiny_world(monkeypatch, schedule=schedule, shared__tags=tags)
    device = SimulatedDevice(world, store, "shared", 2)
    content = sealed_content(device.shared_update(1, start(world)))
    assert list(content.array_records) == ["arrays"]
    assert list(content["arrays"]) == [f"shared.{tag}.u" for tag in tags]
    assert list(content["arrays"]) == [spec.name for spec in device.manifest.tensors]
    assert [dict(record) for record in content.metric_records.values()] == [{"num-examples": 1}]
    assert not content.config_records


@pytest.mark.parametrize("variant", [{}, {"privacy__unit": "comparison"}, {"privacy__trust": "local"}])
@pytest.mark.parametrize("factor", [1e6, 1e30, math.nan, -math.inf])
def test_adversarial_training_stays_within_the_clip(
    monkeypatch: pytest.MonkeyPatch, store: Store, factor: float, variant: dict[str, Any]
) -> None:
    """T3: losses times 1e6, losses that are no numbers. What is not finite becomes zeros."""

    class Loud(PreferenceLoss):
        def __call__(self, scores: Scores, settings: LossSettings) -> torch.Tensor:
            return factor * super().__call__(scores, settings)

    world = toy_world.tiny_world(monkeypatch, **variant)
    clip = world.manifests["shared"].clip
    monkeypatch.setattr(shared_phase, "get_loss", Loud)
    for person in range(world.people):
        device = SimulatedDevice(world, store, "shared", person)
        tensors = device.shared_update(1, start(world)).tensors
        if world.manifests["shared"].noise_on_device:
            noise = device_noise(world, "shared", [person], 1)
            tensors = {name: value - noise[name][0] for name, value in tensors.items()}
        norm = joint_norm(tensors)
        assert norm <= clip * (1 + 1e-6)
        if not math.isfinite(factor):
            assert norm < 1e-6
        elif not variant:
            # Rounding toward zero takes up to a step from each number.
            short = world.manifests["shared"].grid * math.sqrt(world.manifests["shared"].size)
            assert clip - short <= norm <= clip or (factor > 1e20 and norm == 0)


def test_an_update_below_the_clip_is_sent_as_it_is(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    world = toy_world.tiny_world(monkeypatch, privacy__shared__epsilon=math.inf)
    person = 1
    people = People((person,), (world.train_rows[person],))
    plan = world.plans["shared"]
    state = first_private(world.models["shared"], 1, plan.private)
    found, _ = visit(world.models["shared"], people, world.models["shared"].initial_shared(), state, plan, 1)
    sent = SimulatedDevice(world, store, "shared", person).shared_update(1, start(world)).tensors
    for name, value in sent.items():
        np.testing.assert_array_equal(value, found[name][0].numpy())
        assert np.abs(value).max() > 1e-3


def test_the_device_adds_noise_of_the_right_size_to_the_clipped_update(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    world = toy_world.tiny_world(monkeypatch, privacy__trust="local")
    plan, model = world.plans["shared"], world.models["shared"]
    left = []
    for person in range(world.people):
        people = People((person,), (world.train_rows[person],))
        state = first_private(model, 1, plan.private)
        plain, _ = visit(model, people, model.initial_shared(), state, plan, 1)
        arrays = {name: value[0].numpy() for name, value in plain.items()}
        clipped = clip_update(arrays, world.manifests["shared"].clip)
        for round in range(1, 41):  # without batches the update is the same in every round
            sent = SimulatedDevice(world, store, "shared", person).shared_update(round, start(world))
            left.append(sent.tensors["shared.safety.u"] - clipped["shared.safety.u"])
    noise = np.stack(left).astype(np.float64)
    assert world.noise_std == pytest.approx(world.claim.noise_multiplier * world.manifests["shared"].clip)
    assert abs(noise.std() - world.noise_std) < 3 * world.noise_std / math.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 3 * world.noise_std / math.sqrt(noise.size)
    correlations = np.corrcoef(noise) - np.eye(len(noise))  # nobody's noise, of no round, is another's
    assert np.abs(correlations).max() < 0.999


def test_with_central_trust_the_device_adds_none(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    world = toy_world.tiny_world(monkeypatch)
    assert not world.manifests["shared"].noise_on_device
    assert world.noise_std > 0
    one, two = (
        SimulatedDevice(world, store, "shared", 0).shared_update(round, start(world)).tensors
        for round in (1, 2)
    )
    assert bytes_of(one) == bytes_of(two)


@pytest.mark.identity
@pytest.mark.parametrize("variant", [{}, {"privacy__trust": "local"}, {"shared__batch": 1}])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_round_asked_for_again_is_answered_the_same(
    monkeypatch: pytest.MonkeyPatch, store: Store, schedule: str, variant: dict[str, Any]
) -> None:
    """A killed run repeats its last round: same bytes, same private state, no second receipt."""
    world = toy_world.tiny_world(monkeypatch, schedule=schedule, **variant)
    device = SimulatedDevice(world, store, "shared", 3)

    def play(round: int) -> dict[str, bytes]:
        sent = bytes_of(device.shared_update(round, moved(world, round)).tensors)
        if schedule == "decoupled":
            device.private_update(round, moved(world, round), False)
        return sent

    def kept(round: int) -> dict[str, bytes]:
        arrays = store.read(STREAM, 3, round + 1)
        assert arrays is not None
        return bytes_of(arrays)

    sent = {}
    for round in (1, 2, 3):
        sent[round] = play(round)
        state = kept(round)
        device.shared_update(round, moved(world, round))  # killed before the private phase was asked for
        assert play(round) == sent[round]
        assert play(round) == sent[round]
        assert kept(round) == state
    assert len({tuple(value.values()) for value in sent.values()}) == 3
    assert [r["round"] for r in store.receipts("shared", 9)] == [1, 2, 3]
    steps = store.read(STREAM, 3, 4)
    assert steps is not None
    plan = world.plans["shared"]
    a_visit = plan.private.steps_per_visit
    if schedule == "joint":  # one private step beside each shared one, and no more
        a_visit = min(a_visit, plan.shared.steps)
    assert steps["steps"].tolist() == [3 * a_visit]


def test_the_final_private_phase_spends_the_rest_of_a_lifetime(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    world = toy_world.tiny_world(monkeypatch, privacy__private__steps=9)
    device = SimulatedDevice(world, store, "shared", 0)
    device.private_update(2, start(world), False)
    device.private_update(4, start(world), True)
    device.private_update(4, start(world), True)
    arrays = store.read(STREAM, 0, 5)
    assert arrays is not None
    assert arrays["steps"].tolist() == [9]


def test_a_receipt_is_kept_of_every_message(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    world = toy_world.tiny_world(monkeypatch)
    arms: tuple[Arm, ...] = ("shared", "pooled")
    sealed = {}
    for arm in arms:
        for round in (2, 1, 2):
            for person in (4, 0):
                device = SimulatedDevice(world, store, arm, person)
                sealed[arm, round, person] = device.shared_update(round, start(world, arm))
    for arm in arms:
        found = store.receipts(arm, 99)
        assert [(r["round"], r["person"]) for r in found] == [(1, 0), (1, 4), (2, 0), (2, 4)]
        for receipt in found:
            mine = sealed[arm, receipt["round"], receipt["person"]].receipt
            assert receipt["digest"] == mine.digest
            assert receipt["bytes"] == mine.bytes == 4 * world.manifests[arm].size
            assert receipt["names"] == [spec.name for spec in world.manifests[arm].tensors]
            assert receipt["epsilon"] == "not claimed"  # six people are too few for a delta
        assert store.totals(arm) == (4, 16 * world.manifests[arm].size)
    assert len(store.receipts("shared", 3)) == 3


def test_a_receipt_quotes_what_was_spent_where_it_is_claimed(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    world = toy_world.tiny_world(monkeypatch)
    silent = replace(world.claim, noise_multiplier=0.0, epsilon=math.inf)
    for round, claim in enumerate((replace(world.claim, meaningful=True), world.claim, silent), start=1):
        device = SimulatedDevice(replace(world, claim=claim), store, "shared", 0)
        device.shared_update(round, start(world))
    spent, unclaimed, unlimited = (receipt["epsilon"] for receipt in store.receipts("shared", 3))
    assert float(spent) == pytest.approx(world.claim.epsilon_after(1), rel=1e-5)
    assert 0 < float(spent) < world.claim.epsilon
    assert (unclaimed, unlimited) == ("not claimed", "inf")


def test_a_refused_message_leaves_neither_state_nor_receipt(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    world = toy_world.tiny_world(monkeypatch, schedule="alternating")
    smaller = replace(world.manifests["shared"], tensors=world.manifests["shared"].tensors[:0])
    world = replace(world, manifests={**world.manifests, "shared": smaller})
    with pytest.raises(Exception, match="the manifest allows exactly"):
        SimulatedDevice(world, store, "shared", 0).shared_update(1, start(world))
    assert store.totals("shared") == (0, 0)
    assert not store.has(STREAM, 0, 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_pooled_arm_leaves_no_private_state(
    monkeypatch: pytest.MonkeyPatch, store: Store, schedule: str
) -> None:
    world = toy_world.tiny_world(monkeypatch, schedule=schedule)
    SimulatedDevice(world, store, "pooled", 0).shared_update(1, start(world, "pooled"))
    assert not store.has(STREAM, 0, 1)


def test_a_device_is_opened_from_the_environment_of_its_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = toy_world.tiny_world(monkeypatch)
    monkeypatch.setattr(worlds, "_WORLDS", {})
    adopt(str(tmp_path), world)
    monkeypatch.setenv("COMMONGROUND_RUN", str(tmp_path))
    try:
        for arm in ("shared", "pooled"):
            monkeypatch.setenv("COMMONGROUND_ARM", arm)
            device = open_device(1)
            names = [spec.name for spec in device.manifest.tensors]
            assert names == (
                ["shared.safety.u"] if arm == "shared" else ["shared.safety.u", "shared.taste.u"]
            )
            sealed = device.shared_update(1, start(world, "shared" if arm == "shared" else "pooled"))
            assert list(sealed.tensors) == names
    finally:
        close_stores()
    assert (tmp_path / "state" / "private.sqlite").is_file()
