"""The adapted clip in whole worlds: a fleet is one device at a time, devices refuse, a run says its clip."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from toy_runs import Kit

from commonground.client.devices import OPENERS
from commonground.client.handlers import REFUSED, shared_phase
from commonground.clipping import joint_norm
from commonground.errors import ConfigError, EgressError
from commonground.randomness import normal
from commonground.server.job import Job
from commonground.server.rounds import load_outcome
from commonground.simulations.devices import SimulatedDevice
from commonground.simulations.fleet import Fleet
from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.grid import InProcessGrid
from commonground.simulations.settings import read_settings
from commonground.simulations.store import Store
from commonground.simulations.world import Arm, World
from commonground.strategies.records import ARRAYS, CONFIG, to_record

PEOPLE = 60
FLAG = "extra.within_clip"
ADAPTED = ("people=60", "cohort=50", "privacy.shared.clip_mode=adaptive")


def world_of(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> World:
    settings = {"people": PEOPLE, "cohort": 50, "privacy__shared__clip_mode": "adaptive"}
    return toy_world.tiny_world(monkeypatch, **settings | changes)


def broadcast(world: World, arm: Arm, round: int) -> dict[str, np.ndarray]:
    sent = world.first_arrays(arm)
    return {n: v + 0.3 * np.abs(normal(v.shape, 7, "u", n, round).numpy()) for n, v in sent.items()}


@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
@pytest.mark.parametrize("epsilon", [8.0, math.inf])
def test_a_fleet_is_one_device_at_a_time(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[Store, FleetStore], name: str, epsilon: float
) -> None:
    changes = {"strategy__name": name, "privacy__shared__epsilon": epsilon, "privacy__shared__clip": 100.0}
    one = world_of(monkeypatch, **changes)
    many = world_of(monkeypatch, **changes, runtime="fleet", fleet__chunk=7)
    assert one.manifests == many.manifests
    assert one.manifests["shared"].clip == 100.0
    people = one.eligible.tolist()
    arms: tuple[Arm, ...] = ("shared", "pooled")
    for arm in arms:
        fleet = Fleet(many, arm, stores[1])
        for round in (1, 2):
            u = broadcast(one, arm, round)
            free = fleet.train(round, u, people, each=True, clip=100.0).arrays
            norms = [joint_norm({n: v[p] for n, v in free.items() if n != FLAG}) for p in range(PEOPLE)]
            clip = float(np.median(norms))
            sent = [
                SimulatedDevice(one, stores[0], arm, p).shared_update(round, u, clip=clip).tensors
                for p in people
            ]
            each = fleet.train(round, u, people, each=True, clip=clip)
            total = fleet.train(round, u, people, each=False, clip=clip)
            assert each.answered == people
            for key in sent[0]:
                rows = np.stack([tensors[key] for tensors in sent])
                np.testing.assert_allclose(rows, each.arrays[key], atol=1e-5, rtol=1e-5)
                np.testing.assert_allclose(rows.sum(0), total.arrays[key], atol=1e-4, rtol=1e-5)
            bits = [float(tensors[FLAG]) for tensors in sent]
            assert set(bits) == {0.5, -0.5}
            assert max(joint_norm({n: v for n, v in t.items() if n != FLAG}) for t in sent) <= clip * 1.000001
        with pytest.raises(EgressError, match=r"the manifest allows above 0 and at most 100"):
            fleet.train(3, u, people, each=False, clip=100.1)
        with pytest.raises(EgressError, match="asks for clip None"):
            fleet.train(3, u, people, each=False)


def test_a_device_refuses_a_larger_clip_and_says_no_more(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[Store, FleetStore]
) -> None:
    world = world_of(monkeypatch)
    monkeypatch.setitem(OPENERS, "mine", lambda person: SimulatedDevice(world, stores[0], "shared", person))
    monkeypatch.setenv("COMMONGROUND_DEVICE", "mine")
    arrays = to_record(broadcast(world, "shared", 1))
    InProcessGrid(ClientApp(), 1)  # Flower's Message() asks the process which task it belongs to

    def ask(**more: float) -> Message:
        own = {"round": 1, "person": 4, "manifest": world.manifests["shared"].digest}
        content = RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord(own | more)})
        return shared_phase(Message(content, dst_node_id=5, message_type=MessageType.TRAIN))

    for wrong in ({"clip": 2.6}, {"clip": 0.0}, {"clip": math.nan}, {}):
        reply = ask(**wrong)
        assert reply.has_error()
        assert reply.error.code == REFUSED
    assert stores[0].totals("shared") == (0, 0)
    sent = ask(clip=0.01)
    assert float(sent.content[ARRAYS][FLAG].numpy()) == -0.5
    assert stores[0].totals("shared")[0] == 1


def test_a_device_with_one_clip_takes_no_other(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[Store, FleetStore]
) -> None:
    world = toy_world.tiny_world(monkeypatch)
    with pytest.raises(EgressError, match="this manifest has clip 2"):
        SimulatedDevice(world, stores[0], "shared", 0).shared_update(
            1, broadcast(world, "shared", 1), clip=1.0
        )


def test_a_whole_run_in_both_runtimes(tmp_path: Path, kit: Kit) -> None:
    one = kit(tmp_path / "one", *ADAPTED)
    many = kit(tmp_path / "many", *ADAPTED, "runtime=fleet")
    for result, folder in ((one, tmp_path / "one"), (many, tmp_path / "many")):
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        clips = [line["clip"] for line in lines if line["arm"] == "shared"]
        assert clips[0] == 0.1
        assert len(set(clips)) == len(clips) == 3
        job = Job.load(folder / "state" / "job-shared.json")
        assert job.wrapper().mechanism.clip == 0.1
        assert load_outcome(job).counts["refused"] == 0
        public = result["privacy"]["shared"]["adaptive"]
        assert (public["start"], public["most"], public["bit_noise"]) == (0.1, 2.5, 2.5)
        assert "The clip is adapted" in result["privacy"]["statement"]
        assert f"the count of bits ({FLAG}) and the clip C_t of every round" in result["privacy"]["statement"]
        assert result["egress"]["tensors"][-1] == FLAG
        assert result["egress"]["manifest"]["bit"]["name"] == FLAG
    left, right = (
        load_outcome(Job.load(tmp_path / folder / "state" / "job-shared.json")).arrays
        for folder in ("one", "many")
    )
    for name, value in left.items():
        np.testing.assert_allclose(value, right[name], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("people=200",), "found 'adaptive' with a cohort of 40; accepted: with at least 50 people"),
        ((*ADAPTED, "privacy.trust=local"), "privacy.trust: found 'local' with privacy.shared.clip_mode"),
        ((*ADAPTED, "privacy.unit=comparison"), "privacy.unit: found 'comparison' with privacy.shared"),
        ((*ADAPTED, "privacy.shared.epsilon=inf", "strategy.name=krum"), "found 'krum' with privacy.shared"),
        (
            (*ADAPTED, "privacy.shared.clip=1", "privacy.shared.clip_start=2"),
            "found 2; accepted: at most privacy.shared.clip, 1",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match="found") as caught:
        read_settings(None, ["privacy.shared.clip_mode=adaptive", *words])
    assert len(caught.value.faults) == 1
    assert message in str(caught.value)
