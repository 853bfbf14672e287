"""Killed at any instant, stopped by any signal: what comes out is what an uninterrupted run gives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import toy_killed
from toy_patience import LIMIT
from toy_runs import Kit
from typer.testing import CliRunner

from commonground.simulations.cli import app
from commonground.simulations.engine import environment
from commonground.simulations.folder import CONFIG, EVENTS, REPORT, RESULT

SAME = ("policies", "paired", "privacy", "egress", "erased", "format_probe", "per_person")
POINTS = 7
Plain = tuple[Path, dict[str, Any]]


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return found


def check_events(folder: Path, last: int = 3) -> None:
    """Every line is whole, and no round of an arm stands there twice."""
    lines = (folder / EVENTS).read_text().splitlines()
    rounds = [(event["arm"], event["round"]) for event in map(json.loads, lines)]
    assert rounds == [(arm, round) for arm in ("shared", "pooled") for round in range(1, last + 1)]


@pytest.mark.slow
def test_kill_9_at_many_instants_changes_nothing(kit: Kit, tmp_path: Path) -> None:
    few = ("people=6", "rounds=2", "cohort=3", "privacy.private.steps=6")
    done = subprocess.run(
        [sys.executable, toy_killed.__file__, str(tmp_path), str(POINTS), *kit.overrides, *few],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **kit.variables, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["total"] > 40
    whole = result_of(tmp_path / "whole")
    killed = told["found"]
    assert [one["signal"] for one in killed] == [signal.SIGKILL] * POINTS
    assert all(one["files"].count(CONFIG) == 1 for one in killed[1:])  # written first
    for one in killed:
        folder = Path(one["run"])
        result = result_of(folder)
        assert {key: result[key] for key in SAME} == {key: whole[key] for key in SAME}, one
        check_events(folder, 2)
        assert not list(folder.rglob("*.part"))
        assert (folder / REPORT).is_file()


def test_resume_from_the_command_line(kit: Kit, plain: Plain, tmp_path: Path) -> None:
    """Before the first checkpoint it starts over; a torn line of events is no obstacle."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(plain[0] / CONFIG, folder)
    (folder / EVENTS).write_text('{"arm": "shared", "round": 1}\n{"arm": "sha')
    with environment(kit.variables):
        done = CliRunner().invoke(app, ["simulate", "--resume", str(folder)])
    assert done.exit_code == 0, done.output
    result = result_of(folder)
    assert {key: result[key] for key in SAME} == {key: plain[1][key] for key in SAME}
    check_events(folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert CliRunner().invoke(app, ["simulate", "--resume", str(folder)]).exit_code == 0
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("state/shared/checkpoint.npz", "checkpoint.npz cannot be read"),
        ("state/initial-pooled.npz", "cannot be read"),
        ("state/pooled_central.npz", "cannot be read"),
        ("state/private.sqlite", "not a database"),
        ("state/ledger.sqlite", "not a database"),
        ("config.yaml", "is damaged"),
    ],
)
def test_a_damaged_run_is_one_line(kit: Kit, plain: Plain, tmp_path: Path, file: str, words: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(plain[0], folder)
    (folder / RESULT).unlink()
    if file.endswith("ledger.sqlite"):
        shutil.rmtree(folder / "state" / "shared")  # it is opened where a round is to come
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2] if file.endswith(".npz") else b"junk: [" * 300)
    for rest in folder.rglob("*.sqlite-*"):
        rest.unlink()
    with environment(kit.variables):
        done = CliRunner().invoke(app, ["simulate", "--resume", str(folder)])
    assert done.exit_code == 2, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert not (folder / RESULT).exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.night)])
def test_signals_stop_the_command_and_it_says_how_to_go_on(
    kit: Kit, plain: Plain, tmp_path: Path, number: signal.Signals
) -> None:
    variables = {**os.environ, **kit.variables, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "commonground.simulations.cli", "simulate"]
    process = subprocess.Popen(
        [*command, *kit.overrides, "rounds=500", "--out", "run"],
        cwd=tmp_path,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = threading.Timer(LIMIT, process.kill)  # a run that says nothing must not hang the tests
    deadline.start()
    assert process.stderr is not None
    assert any("shared rounds: 1 of 500" in line for line in process.stderr)
    process.send_signal(number)
    rest = process.communicate()[1].splitlines()
    deadline.cancel()
    assert process.returncode == 130
    stops = [line for line in rest if "rounds: " not in line]
    assert stops == ["stopped; what is done is kept in run; go on with: commonground simulate --resume run"]
    lines = (tmp_path / "run" / EVENTS).read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(1, len(lines) + 1))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_no_result(kit: Kit, plain: Plain, tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full: the page does not fit."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)\n"
        "from commonground.simulations.cli import main; main()"
    )
    for room in (1_000_000, 1_000):
        words = [sys.executable, "-c", code, str(room), "simulate", *kit.overrides, "--out", f"run-{room}"]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, **kit.variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr
    assert (tmp_path / "run-1000000" / EVENTS).is_file()  # its rounds are kept
    assert not (tmp_path / "run-1000").exists()  # it had none
    assert not [p for p in tmp_path.rglob("*") if p.name in (RESULT, REPORT) or ".part" in p.name]
    with environment(kit.variables):
        done_again = CliRunner().invoke(app, ["simulate", "--resume", str(tmp_path / "run-1000000")])
    assert done_again.exit_code == 0
    result = result_of(tmp_path / "run-1000000")
    assert {key: result[key] for key in SAME} == {key: plain[1][key] for key in SAME}
