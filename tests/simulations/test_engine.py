"""Both runtimes: same seed, same bytes; nothing left behind."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import toy_device

from commonground.errors import InputError
from commonground.server.job import Job
from commonground.server.rounds import RoundEvent, load_outcome
from commonground.simulations.engine import environment, run_job

PEOPLE = 6


def write_job(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    zeros: dict[str, Any] = {spec.name: np.zeros(spec.shape, np.float32) for spec in toy_device.SPECS}
    np.savez(folder / "initial.npz", **zeros)
    values: dict[str, Any] = {
        "arm": "shared",
        "people": PEOPLE,
        "rounds": 3,
        "q": 0.7,
        "m": 4.2,
        "seed": 1,
        "manifest": toy_device.manifest().to_dict(),
        "noise_multiplier": 0.3,
        "initial": str(folder / "initial.npz"),
        "checkpoint": str(folder / "arm"),
        "strategy": "fedadam",
        "average": True,
        "private": True,
        "final_private": [0, 5],
        **changes,
    }
    Job(**values).save(folder / "job.json")
    return folder / "job.json"


def run(folder: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[bytes], list[str]]:
    """Bytes after each round, and what the private phases left."""
    path = write_job(folder)
    (folder / "store").mkdir()
    monkeypatch.setenv("TOY_STORE", str(folder / "store"))
    events: list[RoundEvent] = []
    outcome = run_job(path, runtime, PEOPLE, on_round=events.append, device="toy_device:open_device")
    assert outcome.finished
    rounds = [b"".join(v.tobytes() for v in event.arrays.values()) for event in events]
    return rounds, sorted(f"{file.name} {file.read_text()}" for file in (folder / "store").iterdir())


@pytest.mark.identity(once=True)
@pytest.mark.slow
def test_same_seed_same_bytes_in_process_and_on_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    variables = dict(os.environ)
    here = run(tmp_path / "here", "inprocess", monkeypatch)
    monkeypatch.setenv("TOY_FAULT", "private:2:1:print")  # prints of a device stay with the device
    there = run(tmp_path / "there", "ray", monkeypatch)
    assert here == there
    assert len(here[0]) == 3
    assert [child for child in psutil.Process().children(recursive=True) if "ray" in child.name()] == []
    monkeypatch.undo()
    assert dict(os.environ) == variables
    captured = capfd.readouterr()
    said = captured.out + captured.err
    assert toy_device.SECRET not in said
    # on a busy machine Ray may complain of its dashboard, which nobody asked for
    assert said == "" or said.startswith("Failed to start the dashboard")


def test_a_finished_job_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "job", "inprocess", monkeypatch)
    told: list[RoundEvent] = []
    path = tmp_path / "job" / "job.json"
    assert run_job(path, "ray", PEOPLE, on_round=told.append).finished  # not even Ray is started
    assert told == []


def test_two_seeds_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_job(write_job(tmp_path / "a"), "inprocess", PEOPLE, device="toy_device:open_device")
    second = run_job(write_job(tmp_path / "b", seed=2), "inprocess", PEOPLE, device="toy_device:open_device")
    assert not np.array_equal(first.arrays["head.a"], second.arrays["head.a"])


def test_errors_of_the_server_app_come_out(tmp_path: Path) -> None:
    path = write_job(tmp_path / "job")
    with pytest.raises(InputError, match="runtime is 'cloud'; accepted: inprocess, ray, fleet"):
        run_job(path, "cloud", PEOPLE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="5 nodes for a job of 6 people"):
        run_job(path, "inprocess", 5)


def test_without_ray_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    path = write_job(tmp_path / "job")
    with pytest.raises(InputError, match="needs the package 'ray'") as caught:
        run_job(path, "ray", PEOPLE)
    assert "simulation" in str(caught.value.hint)
    assert load_outcome(Job.load(path)).round == 0


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEPT", "old")
    monkeypatch.delenv("TOY_NEW", raising=False)
    with environment({"TOY_KEPT": None, "TOY_NEW": "1"}):
        assert "TOY_KEPT" not in os.environ
        assert os.environ["TOY_NEW"] == "1"
        os.environ["TOY_BY_THE_WAY"] = "1"
    assert "TOY_BY_THE_WAY" not in os.environ
    assert os.environ["TOY_KEPT"] == "old"
    assert "TOY_NEW" not in os.environ
