"""The loop: resume after kill -9, order of messages, final private phase, errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_device
from flwr.app import Message

from commonground.client.app import app
from commonground.client.devices import OPENERS
from commonground.errors import CommonGroundError, InterruptedRunError, RunFolderError, StrategyError
from commonground.server.job import Job
from commonground.server.rounds import Outcome, RoundEvent, load_outcome, run_rounds
from commonground.simulations.grid import InProcessGrid

PEOPLE = 6


@pytest.fixture(autouse=True)
def toy_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    monkeypatch.setitem(OPENERS, "toy", toy_device.open_device)
    monkeypatch.setenv("COMMONGROUND_DEVICE", "toy")
    monkeypatch.setenv("TOY_STORE", str(tmp_path / "store"))


def make_job(folder: Path, **changes: Any) -> Job:
    zeros: dict[str, Any] = {spec.name: np.zeros(spec.shape, np.float32) for spec in toy_device.SPECS}
    np.savez(folder / "initial.npz", **zeros)
    values: dict[str, Any] = {
        "arm": "shared",
        "people": PEOPLE,
        "rounds": 4,
        "q": 0.6,
        "m": 3.6,
        "seed": 1,
        "manifest": toy_device.manifest().to_dict(),
        "noise_multiplier": 0.3,
        "initial": str(folder / "initial.npz"),
        "checkpoint": str(folder / "arm"),
        "strategy": "fedavgm",
        "average": True,
        "private": True,
        "final_private": [0, 5],
    }
    return Job(**{**values, **changes})


def bits(outcome: Outcome) -> bytes:
    assert outcome.averaged is not None
    return b"".join(v.tobytes() for part in (outcome.arrays, outcome.averaged) for v in part.values())


class Recorder(InProcessGrid):
    """Remembers which messages went out, in order."""

    def push_messages(self, messages: Any) -> Any:
        kept = list(messages)
        self.sent = [*getattr(self, "sent", []), *kept]
        return super().push_messages(kept)


def kinds(grid: Recorder) -> list[tuple[str, int, int]]:
    def one(message: Message) -> tuple[str, int, int]:
        config = message.content["config"]
        return message.metadata.message_type, config["round"], config["person"]

    return [one(message) for message in grid.sent]


def test_a_whole_run(tmp_path: Path) -> None:
    events: list[RoundEvent] = []
    grid = Recorder(app, PEOPLE)
    outcome = run_rounds(grid, make_job(tmp_path), events.append)
    assert (outcome.round, outcome.finished) == (4, True)
    assert [event.round for event in events] == [1, 2, 3, 4]
    assert outcome.counts["messages"] == sum(event.replies for event in events) > 0
    assert outcome.counts["bytes"] == 28 * outcome.counts["messages"]  # 7 numbers of float32
    assert all(event.replies == len(event.people) and event.arm == "shared" for event in events)
    np.testing.assert_array_equal(events[-1].arrays["head.a"], outcome.arrays["head.a"])
    expected = []
    for event in events:  # every shared message of a round, then its private ones, by person
        expected += [("train", event.round, p) for p in event.people]
        expected += [("train.private", event.round, p) for p in event.people]
    assert kinds(grid) == [*expected, ("train.private", 5, 0), ("train.private", 5, 5)]


def test_the_last_private_phase_trains_against_the_averaged_adapter(tmp_path: Path) -> None:
    outcome = run_rounds(InProcessGrid(app, PEOPLE), make_job(tmp_path))
    assert outcome.averaged is not None
    total = sum(float(value.sum()) for value in outcome.averaged.values())
    assert (tmp_path / "store" / "5-final").read_text().split()[0] == repr(total)
    assert not (tmp_path / "store" / "1-final").exists()


def test_without_private_phases_none_is_asked(tmp_path: Path) -> None:
    grid = Recorder(app, PEOPLE)
    run_rounds(grid, make_job(tmp_path, private=False, final_private=[]))
    assert {kind for kind, _, _ in kinds(grid)} == {"train"}


def test_a_finished_run_sends_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    first = run_rounds(InProcessGrid(app, PEOPLE), job)
    written = job.checkpoint_file.read_bytes()
    again = run_rounds(Recorder(app, 0), job)  # no node at all would do
    assert bits(again) == bits(first)
    assert job.checkpoint_file.read_bytes() == written


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("shared:1:0", marks=pytest.mark.night),
        "shared:3:1",
        "private:2:3",
        pytest.param("private:5:5", marks=pytest.mark.night),
    ],
)
def test_kill_9_and_resume(tmp_path: Path, fault: str) -> None:
    """Before the first checkpoint, in a shared phase, in a private phase, in the last private phase."""
    whole = run_rounds(InProcessGrid(app, PEOPLE), make_job(tmp_path, checkpoint=str(tmp_path / "whole")))
    job = make_job(tmp_path)
    job.save(tmp_path / "job.json")
    code = (
        "import sys; from pathlib import Path\n"
        "from commonground.simulations.engine import run_job\n"
        "run_job(Path(sys.argv[1]), 'inprocess', 6, device='toy_device:open_device')"
    )
    variables = {
        **os.environ,
        "TOY_FAULT": f"{fault}:kill",
        "PYTHONPATH": str(Path(toy_device.__file__).parent),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code, str(tmp_path / "job.json")]
    killed = subprocess.run(command, check=False, env=variables, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    assert load_outcome(job).round == min(int(fault.split(":")[1]) - 1, 4)
    assert not load_outcome(job).finished
    resumed = run_rounds(InProcessGrid(app, PEOPLE), job)
    assert bits(resumed) == bits(whole)
    assert resumed.counts == whole.counts
    np.testing.assert_array_equal(resumed.taken_part, whole.taken_part)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedyogi"])
def test_stopped_after_any_round_and_resumed(tmp_path: Path, strategy: str) -> None:
    whole = run_rounds(
        InProcessGrid(app, PEOPLE), make_job(tmp_path, strategy=strategy, checkpoint=str(tmp_path / "whole"))
    )
    job = make_job(tmp_path, strategy=strategy)
    for last in (1, 2, 3):
        stop = threading.Event()
        with pytest.raises(InterruptedRunError) as caught:
            run_rounds(Waiting(app, PEOPLE, stop, last), job, stop=stop)
        assert caught.value.exit_code == 130
        assert load_outcome(job).round == last - 1
    assert bits(run_rounds(InProcessGrid(app, PEOPLE), job)) == bits(whole)


class Waiting(InProcessGrid):
    """Never answers in round `last`, as a node that hangs; sets `stop` instead."""

    def __init__(self, client_app: Any, nodes: int, stop: threading.Event, last: int) -> None:
        super().__init__(client_app, nodes)
        self.stop, self.last = stop, last

    def push_messages(self, messages: Any) -> Any:
        kept = list(messages)
        self.hangs = bool(kept) and kept[0].content["config"]["round"] == self.last
        return super().push_messages(kept)

    def pull_messages(self, message_ids: Any) -> Any:
        if self.hangs:
            self.stop.set()
            return []
        return super().pull_messages(message_ids)


def test_replies_that_do_not_come_in_time_are_absent(tmp_path: Path) -> None:
    job = make_job(tmp_path, rounds=1, timeout=0.05, q=1.0, private=False, final_private=[])
    outcome = run_rounds(Waiting(app, PEOPLE, threading.Event(), 1), job)
    assert outcome.finished
    assert outcome.counts["messages"] == 0


def test_another_jobs_checkpoint_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    run_rounds(InProcessGrid(app, PEOPLE), job)
    with pytest.raises(RunFolderError, match="another job") as caught:
        run_rounds(InProcessGrid(app, PEOPLE), replace(job, seed=2))
    assert caught.value.exit_code == 2


def test_an_error_of_a_device_stops_a_simulation_and_not_a_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_FAULT", "shared:2:1:raise")
    job = make_job(tmp_path, q=1.0)
    with pytest.raises(
        CommonGroundError, match="shared, round 2: 1 of 6 devices answered with an error"
    ) as caught:
        run_rounds(InProcessGrid(app, PEOPLE), job)
    assert toy_device.SECRET not in str(caught.value)
    assert load_outcome(job).round == 1
    outcome = run_rounds(InProcessGrid(app, PEOPLE), replace(job, stop_on_error=False))
    assert (outcome.counts["errors"], outcome.counts["messages"]) == (1, 23)


def test_job_file_round_trips(tmp_path: Path) -> None:
    manifest = replace(toy_device.manifest(), clip=float("inf")).to_dict()
    job = make_job(
        tmp_path, manifest=manifest, noise_multiplier=0.0, eligible=[0, 2], options={"server_momentum": 0.5}
    )
    job.save(tmp_path / "job.json")
    assert Job.load(tmp_path / "job.json") == job
    assert Job.load(tmp_path / "job.json").digest == job.digest


@pytest.mark.parametrize("content", [None, "{", "[]", '{"arm": "x"}'])
def test_a_job_file_that_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "job.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"job\.json cannot be read"):
        Job.load(tmp_path / "job.json")


def test_parts_of_a_job_must_go_together(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match="krum compares"):
        make_job(tmp_path, strategy="krum", options={}).wrapper()
    assert make_job(tmp_path, strategy="krum", options={}, noise_multiplier=0.0).wrapper().individual
    local = replace(toy_device.manifest(), noise_on_device=True).to_dict()
    own = {"trust": "local", "manifest": local, "noise_multiplier": 0.0}
    assert make_job(tmp_path, **own, device_noise=2.0).wrapper().z == 0
    with pytest.raises(StrategyError, match="its deviation is 0; accepted: above 0"):
        make_job(tmp_path, **own).wrapper()
    with pytest.raises(StrategyError, match="trust is central"):
        make_job(tmp_path, manifest=local, noise_multiplier=0.0).wrapper()


def test_missing_initial_arrays(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"initial arrays .*nowhere"):
        make_job(tmp_path, initial=str(tmp_path / "nowhere.npz")).initial_arrays()
