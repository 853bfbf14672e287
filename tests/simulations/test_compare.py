"""A whole tournament from the command line: ties, refusals, failures, common draws, kill -9."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_patience import LIMIT, until
from toy_runs import Kit, receipts
from typer.testing import CliRunner

from commonground.simulations.cli import app
from commonground.simulations.compare.folder import CELLS, DATA, REPORT, TABLE
from commonground.simulations.folder import RESULT

pytestmark = pytest.mark.slow
TOYS = Path(__file__).parents[1] / "toys"
GRID = (
    "strategies=[fedavg,fedmedian,fedavgm,toy_competitors:Mine,toy_competitors:Broken,toy_competitors:Deadly]",
    "seeds=2",
    "privacy.shared.epsilon=[8,inf]",
    "shared.tags=[safety,taste]",
    "rounds=2",
)
Rows = list[dict[str, str]]


def command(kit: Kit, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "commonground.simulations.cli", "compare", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **kit.variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOYS)},
        start_new_session=True,
    )


def table(folder: Path) -> Rows:
    """The table without the seconds, which no two runs share."""
    rows = list(csv.DictReader(io.StringIO((folder / TABLE).read_text())))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def result(folder: Path, cell: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CELLS / cell / RESULT).read_text())
    return found


@pytest.fixture(scope="module")
def tournament(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """Folder, what was said, and the envelope of a tournament that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("compare") / "t"
    process = command(kit, *kit.overrides, *GRID, "--out", str(folder), "--workers", "2", "--format", "json")
    out, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    return folder, said, json.loads(out)


Tournament = tuple[Path, str, dict[str, Any]]


def test_every_strategy_and_setting_is_a_row(tournament: Tournament) -> None:
    folder, said, envelope = tournament
    rows = table(folder)
    assert list(rows[0])[:4] == ["strategy", "status", "seeds", "privacy.shared.epsilon"]
    names = [
        "fedavg",
        "fedmedian",
        "fedavgm",
        *(f"toy_competitors:{one}" for one in ("Mine", "Broken", "Deadly")),
    ]
    assert [(row["privacy.shared.epsilon"], row["strategy"]) for row in rows] == [
        (epsilon, name) for epsilon in ("8", "inf") for name in names
    ]
    assert [row["status"] for row in rows] == [
        *("done", "refused", "done", "done", "failed", "failed"),
        *("done", "done", "done", "done", "failed", "failed"),
    ]
    reasons = {row["strategy"]: row["reason"] for row in rows[:6]}
    assert "its sensitivity is about 2C" in reasons["fedmedian"]
    assert reasons["toy_competitors:Broken"] == "seed 0, 1: ValueError: no second round"
    assert reasons["toy_competitors:Deadly"] == "seed 0, 1: its process ended with exit code 7"
    assert {row["seeds"] for row in rows if row["status"] == "done"} == {"0 1"}
    assert (folder / REPORT).is_file()
    assert envelope["data"]["result"] == json.loads((folder / DATA).read_text())
    assert said.splitlines()[0].startswith(
        "24 cells: 6 strategies x 2 seeds x 2 values of privacy.shared.eps"
    )
    assert "2 cells refused: fedmedian compares" in said
    assert "21 cells left: about" in said


def test_a_subclass_that_changes_nothing_ties_exactly_with_noise_and_without(tournament: Tournament) -> None:
    """Noise is keyed by the rule: two names of one rule release the same, and no difference can cancel."""
    folder, _, envelope = tournament
    rows = {(row["strategy"], row["privacy.shared.epsilon"]): row for row in table(folder)}
    for epsilon in ("8", "inf"):
        mine, plain = rows["toy_competitors:Mine", epsilon], rows["fedavg", epsilon]
        assert {**mine, "strategy": ""} == {**plain, "strategy": ""}
    ties = [one for one in envelope["data"]["result"]["differences"] if one["strategy"].endswith("Mine")]
    assert len(ties) == 12
    assert {(one["mean"], one["low"], one["high"], one["p_holm"]) for one in ties} == {(0, 0, 0, 1)}
    assert any("Mine and fedavg tie exactly" in said for said in envelope["data"]["result"]["conclusion"])


def test_cells_of_a_seed_share_people_cohorts_and_data_and_no_noise(tournament: Tournament) -> None:
    folder = tournament[0]
    plain, momentum = (result(folder, f"{name}_epsilon=8_seed=0") for name in ("fedavg", "fedavgm"))
    for key in ("person", "local", "pooled_central", "train_pairs"):
        assert plain["per_person"][key] == momentum["per_person"][key]
    assert plain["erased"] == momentum["erased"]
    drawn = [[event["people"] for event in one["curves"]["shared"]] for one in (plain, momentum)]
    assert drawn[0] == drawn[1]
    jobs = [
        json.loads((folder / "cells" / f"{name}_epsilon=8_seed=0" / "state" / "job-shared.json").read_text())
        for name in ("fedavg", "fedavgm")
    ]
    assert jobs[0]["seed"] == jobs[1]["seed"]
    assert jobs[0]["noise_seed"] != jobs[1]["noise_seed"]
    digests = [
        [row for row in receipts(folder / "cells" / name) if row[1] == 1]
        for name in ("fedavg_epsilon=8_seed=0", "fedavgm_epsilon=8_seed=0", "fedavg_epsilon=8_seed=1")
    ]
    assert digests[0] == digests[1] != digests[2]
    losses = [one["policies"]["shared"]["taste"]["calibration"]["log_loss"] for one in (plain, momentum)]
    assert losses[0] != losses[1]


def test_the_document_holds_nobody(tournament: Tournament) -> None:
    text = (tournament[0] / DATA).read_text()
    assert '"per_person"' not in text
    assert all(
        f'"{person}"' not in text
        for person in result(tournament[0], "fedavg_epsilon=8_seed=0")["per_person"]["person"]
    )


@pytest.mark.night
def test_kill_9_and_resume_give_the_same_table(kit: Kit, tournament: Tournament, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    few = ("strategies=[fedavg,fedavgm,fedmedian]", *GRID[1:2], "privacy.shared.epsilon=[8]", *GRID[3:])
    process = command(kit, *kit.overrides, *few, "--out", str(folder), "--workers", "2")
    until(lambda: len(list(folder.glob(f"{CELLS}/*/{RESULT}"))) >= 2, alive=process)
    os.kill(process.pid, signal.SIGKILL)  # its workers are left to themselves
    process.communicate()
    kept = {file: file.stat().st_mtime_ns for file in folder.glob(f"{CELLS}/*/{RESULT}")}
    assert not (folder / TABLE).exists()
    again = command(kit, "--resume", str(folder), "--workers", "2")
    said = again.communicate(timeout=LIMIT)[1]
    assert again.returncode == 0, said
    assert "cells done before" in said
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    whole = [row for row in table(tournament[0]) if row["privacy.shared.epsilon"] == "8"]
    assert table(folder) == [whole[0], whole[2], whole[1]]


def test_another_grid_is_refused_and_a_finished_one_stays(kit: Kit, tournament: Tournament) -> None:
    folder = str(tournament[0])
    done = CliRunner().invoke(app, ["compare", "strategies=[fedavg]", "--out", folder])
    assert done.exit_code == 2
    assert "holds a tournament of another grid" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    done = CliRunner().invoke(app, ["compare", "--resume", folder, "--config", "x.yaml"])
    assert (done.exit_code, "--resume takes the tournament's own grid" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, ["compare", "strategies=[fedavg]", "--workers", "0"])
    assert (done.exit_code, "--workers is 0" in done.stderr) == (2, True)


def test_nothing_done_at_all_fails_and_says_why(kit: Kit, tmp_path: Path) -> None:
    """All refused: no process is started, the table and the page have the reasons."""
    words = ["compare", "strategies=[fedmedian,krum]", "seeds=1", "--out", str(tmp_path / "t")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "none of 2 cells is done; fedmedian refused: " in done.stderr
    assert [row["status"] for row in table(tmp_path / "t")] == ["refused", "refused"]
    assert (tmp_path / "t" / REPORT).is_file()
