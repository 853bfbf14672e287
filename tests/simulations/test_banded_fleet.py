"""Banded noise in whole worlds: devices keep to their cap and distance by themselves, and a run resumes."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from toy_runs import Kit

from commonground.client.devices import OPENERS
from commonground.client.handlers import FAILED, shared_phase
from commonground.errors import ConfigError, EgressError, InterruptedRunError
from commonground.manifest import Manifest
from commonground.privacy.banded import BandedNoise
from commonground.randomness import normal
from commonground.server.job import Job
from commonground.server.rounds import RoundEvent, load_outcome
from commonground.simulations import runner
from commonground.simulations.devices import SimulatedDevice, join
from commonground.simulations.fleet import Fleet
from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.grid import InProcessGrid
from commonground.simulations.settings import read_settings
from commonground.simulations.store import PrivateStore, Store
from commonground.simulations.world import World
from commonground.strategies.records import ARRAYS, CONFIG, to_record

PEOPLE = 12
BANDED = ("rounds=6", "cohort=4", "privacy.shared.mechanism=banded", "privacy.shared.participations=2")


def world_of(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> World:
    """Twelve people, four expected a round: b = 3; at most two visits in nine rounds."""
    settings = {
        "people": PEOPLE, "cohort": 4, "rounds": 9, "privacy__shared__mechanism": "banded",
        "privacy__shared__participations": 2,
    }  # fmt: skip
    return toy_world.tiny_world(monkeypatch, **settings | changes)


def broadcast(world: World, round: int) -> dict[str, np.ndarray]:
    sent = world.first_arrays("shared")
    return {n: v + 0.3 * np.abs(normal(v.shape, 7, "u", n, round).numpy()) for n, v in sent.items()}


def test_the_manifest_says_it_and_its_digest_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    banded, plain = world_of(monkeypatch), toy_world.tiny_world(monkeypatch, people=PEOPLE, cohort=4)
    manifest = banded.manifests["shared"]
    assert manifest.participation == (2, 3)
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest
    assert manifest.digest != plain.manifests["shared"].digest
    assert "participation" not in plain.manifests["shared"].to_dict()


@pytest.mark.parametrize("which", [0, 1])
def test_a_device_keeps_to_cap_and_distance(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[Store, FleetStore], which: int
) -> None:
    world = world_of(monkeypatch)
    store: PrivateStore = stores[which]

    def asked(round: int, *people: int) -> list[bool]:
        return list(join(world, store, "shared", people, round).tolist())

    assert asked(2, 5, 6) == [True, True]
    assert asked(2, 5, 6) == [True, True]  # asked again for a round that was joined
    assert asked(3, 5, 7) == [False, True]
    assert asked(4, 5, 6) == [False, False]
    assert asked(1, 5) == [False]  # a round before one that was joined
    assert asked(5, 5) == [True]
    assert asked(5, 5) == [True]
    assert asked(8, 5, 6, 7) == [False, True, True]  # twice is the cap
    assert join(world, store, "pooled", [5], 5).tolist() == [True]  # another adapter, another record


def test_a_device_that_is_asked_early_sends_nothing(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[Store, FleetStore]
) -> None:
    world = world_of(monkeypatch)
    device = SimulatedDevice(world, stores[0], "shared", 4)
    first = device.shared_update(1, broadcast(world, 1)).tensors
    with pytest.raises(EgressError, match="round 3 comes too early, or too often"):
        device.shared_update(3, broadcast(world, 3))
    again = device.shared_update(1, broadcast(world, 1)).tensors
    assert all(again[name].tobytes() == value.tobytes() for name, value in first.items())
    assert stores[0].totals("shared")[0] == 1
    monkeypatch.setitem(OPENERS, "mine", lambda person: device)
    monkeypatch.setenv("COMMONGROUND_DEVICE", "mine")
    InProcessGrid(ClientApp(), 1)  # Flower's Message() asks the process which task it belongs to
    own = {"round": 2, "person": 4, "manifest": world.manifests["shared"].digest}
    content = RecordDict({ARRAYS: to_record(broadcast(world, 2)), CONFIG: ConfigRecord(own)})
    reply = shared_phase(Message(content, dst_node_id=5, message_type=MessageType.TRAIN))
    assert reply.error.code == FAILED


def test_a_fleet_leaves_out_who_is_asked_early(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[Store, FleetStore]
) -> None:
    one = world_of(monkeypatch)
    many = world_of(monkeypatch, runtime="fleet", fleet__chunk=5)
    fleet, u = Fleet(many, "shared", stores[1]), broadcast(one, 1)
    assert fleet.train(1, u, [0, 1, 2, 3], each=False).answered == [0, 1, 2, 3]
    later = fleet.train(2, u, list(range(PEOPLE)), each=True)
    assert (later.answered, later.refused) == ([4, 5, 6, 7, 8, 9, 10, 11], 4)
    for person in later.answered:
        sent = SimulatedDevice(one, stores[0], "shared", person).shared_update(2, u).tensors
        for name, value in sent.items():
            place = later.answered.index(person)
            np.testing.assert_allclose(value, later.arrays[name][place], atol=1e-5)
    nobody = fleet.train(3, u, [0, 1, 2], each=False)
    assert (nobody.answered, nobody.refused) == ([], 3)


def test_a_whole_run_is_charged_by_visit_and_the_same_in_both_runtimes(tmp_path: Path, kit: Kit) -> None:
    outcomes = []
    for name in ("inprocess", "fleet"):
        folder = tmp_path / name
        result = kit(folder, "people=60", "cohort=20", *BANDED[:1], *BANDED[2:], f"runtime={name}")
        shared = result["privacy"]["shared"]
        assert (shared["banded"]["band"], shared["banded"]["participations"]) == (3, 2)
        assert shared["epsilon_if_many"] == pytest.approx(8, abs=0.05)
        for words in ("band b = 3", "No amplification by sampling is claimed"):
            assert words in result["privacy"]["statement"]
        job = Job.load(folder / "state" / "job-shared.json")
        outcomes.append(load_outcome(job))
        assert outcomes[-1].counts["refused"] == outcomes[-1].counts["errors"] == 0
        assert outcomes[-1].taken_part.max() <= 2
        with sqlite3.connect(folder / "state" / "ledger.sqlite") as ledger:
            rows = ledger.execute("SELECT person, SUM(steps), MIN(z), MAX(z), MIN(q) FROM entries GROUP BY 1")
            charged = {person: (steps, low, high, q) for person, steps, low, high, q in rows}
        ledger.close()
        each = shared["noise_multiplier"] * math.sqrt(2)
        for person, times in enumerate(outcomes[-1].taken_part.tolist()):
            if times:
                assert charged[f"person {person}"] == (times, pytest.approx(each), pytest.approx(each), 1.0)
    for name, value in outcomes[0].arrays.items():
        np.testing.assert_allclose(value, outcomes[1].arrays[name], atol=1e-5)


def test_a_run_that_was_stopped_releases_the_same_noise(
    tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = kit(tmp_path / "straight", *BANDED)
    told = runner._Curve.add

    def stop(self: Any, event: RoundEvent) -> None:
        told(self, event)
        if event.round == 4:
            raise InterruptedRunError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(runner._Curve, "add", stop)
        with pytest.raises(InterruptedRunError):
            kit(tmp_path / "stopped", *BANDED)
    resumed = kit(tmp_path / "stopped", *BANDED)
    for key in ("policies", "curves"):
        left, right = (json.loads(json.dumps(result[key])) for result in (straight, resumed))
        for lines in (left, right):
            for events in lines.values() if key == "curves" else ():
                for line in events:
                    del line["seconds"]
        assert left == right
    jobs = [Job.load(tmp_path / name / "state" / "job-shared.json") for name in ("straight", "stopped")]
    for name, value in load_outcome(jobs[0]).arrays.items():
        assert value.tobytes() == load_outcome(jobs[1]).arrays[name].tobytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("people=100", "cohort=20", "privacy.shared.band=6"), "found 6; accepted: at most 5"),
        (("privacy.trust=local",), "privacy.trust: found 'local' with privacy.shared.mechanism=banded"),
        (("privacy.unit=comparison",), "privacy.unit: found 'comparison' with privacy.shared.mechanism"),
        (
            ("people=300", "privacy.shared.clip_mode=adaptive"),
            "privacy.shared.clip_mode: found 'adaptive' with",
        ),
        (("privacy.shared.mechanism=tree",), "found 'tree'; accepted: gaussian, banded"),
    ],
)
def test_what_does_not_go_together_is_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match="found") as caught:
        read_settings(None, ["privacy.shared.mechanism=banded", *words])
    assert len(caught.value.faults) == 1
    assert message in str(caught.value)


def test_sens_of_the_run_is_that_of_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = world_of(monkeypatch).claim
    assert claim.banded == BandedNoise(3, 2, claim.noise_multiplier)
    assert claim.banded.sensitivity == pytest.approx(math.sqrt(2 * (1 + 1 / 4 + 9 / 64)))
