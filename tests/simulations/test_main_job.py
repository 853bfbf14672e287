"""The main job on a few planted people: what result.json holds, and that nothing about it is chance."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_patience import until

from commonground.errors import ConfigError, RunFolderError
from commonground.privacy.ledger import Ledger
from commonground.simulations.runner import simulate
from commonground.simulations.settings import read_settings

pytestmark = pytest.mark.model
SMALL = (
    "people=16",
    "rounds=2",
    "data.pairs_per_person=12",
    "data.test_pairs=12",
    "evaluation.resamples=100",
)
SAME = ("policies", "paired", "privacy", "egress")


def run(out: Path, *overrides: str) -> dict[str, Any]:
    return simulate(read_settings(None, (*SMALL, *overrides)), out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("run") / "plain"
    return out, run(out)


def test_the_result_has_every_key_of_the_contract(plain: tuple[Path, dict[str, Any]]) -> None:
    out, result = plain
    kept = json.loads((out / "result.json").read_text())
    assert kept == result
    assert kept["schema"] == 1
    assert {"policies", "per_person", "data", "seconds"} <= set(kept["simulation_only"])
    for policy in ("base", "pooled", "pooled_central", "local", "shared", "personal"):
        taste, safety = kept["policies"][policy]["taste"], kept["policies"][policy]["safety"]
        assert 0 <= taste["low"] <= taste["accuracy"] <= taste["high"] <= 1
        assert 0 <= taste["worst_decile"] <= taste["accuracy"]
        assert taste["people"] == 16
        assert 0 <= safety["low"] <= safety["accuracy"] <= safety["high"] <= 1
        assert safety["comparisons"] > 0
    assert {"mean", "low", "high"} <= set(kept["paired"]["personal_minus_pooled"])
    assert {"nats", "low", "high", "null"} <= set(kept["erased"])
    assert {"taste", "safety"} <= set(kept["format_probe"])
    assert kept["privacy"]["shared"]["unit"] == "person"
    assert kept["privacy"]["private"]["unit"] == "comparison"
    assert "simulation" in kept["privacy"]["statement"]
    assert kept["egress"]["private_tensors"] == 0
    assert kept["egress"]["refused"] == 0
    assert kept["egress"]["tensors"] == ["shared.safety.u"]
    assert kept["egress"]["bytes"] == kept["egress"]["messages"] * 384 * 4
    assert kept["truth"]["taste"]["attainable"]["personal"] > 0.7
    for name in ("config.yaml", "events.jsonl", "report.html"):
        assert (out / name).is_file()


def test_events_have_a_line_a_round(plain: tuple[Path, dict[str, Any]]) -> None:
    events = [json.loads(line) for line in (plain[0] / "events.jsonl").read_text().splitlines()]
    assert [(e["arm"], e["round"]) for e in events] == [(a, r) for a in ("shared", "pooled") for r in (1, 2)]
    assert all({"seconds", "people", "epsilon"} <= set(event) for event in events)


def test_so_few_people_get_no_epsilon(plain: tuple[Path, dict[str, Any]]) -> None:
    shared = plain[1]["privacy"]["shared"]
    assert shared["epsilon"] is None
    assert "no number is claimed" in plain[1]["privacy"]["statement"]


def test_the_ledger_was_charged_what_the_claim_says(plain: tuple[Path, dict[str, Any]]) -> None:
    shared = plain[1]["privacy"]["shared"]
    with Ledger(plain[0] / "state" / "ledger.sqlite", "reader") as ledger:
        assert len(ledger.spent("*")) == 1  # one kind of charge
        assert ledger.epsilon("*", shared["delta"]) == pytest.approx(shared["epsilon_if_many"], rel=1e-9)


def test_same_seed_same_result_and_another_seed_another(
    plain: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    again, other = run(tmp_path / "a"), run(tmp_path / "b", "seed=2")
    assert all(again[key] == plain[1][key] for key in (*SAME, "erased", "per_person"))
    assert other["policies"] != again["policies"]


def test_a_finished_run_is_left_as_it_is(plain: tuple[Path, dict[str, Any]]) -> None:
    before = (plain[0] / "result.json").read_bytes()
    assert run(plain[0]) == plain[1]
    assert (plain[0] / "result.json").read_bytes() == before


def test_a_folder_of_another_configuration_is_refused(plain: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(RunFolderError, match="another configuration"):
        run(plain[0], "seed=7")


def test_with_all_tags_pooled_is_the_shared_model(tmp_path: Path) -> None:
    result = run(tmp_path / "r", "shared.tags=[safety,taste]", "privacy.shared.epsilon=inf")
    assert (
        result["policies"]["pooled"]["safety"]["accuracy"]
        == result["policies"]["shared"]["safety"]["accuracy"]
    )
    assert result["privacy"]["shared"]["epsilon"] == "inf"


@pytest.mark.parametrize(
    "overrides",
    [
        ("schedule=alternating",),
        ("schedule=joint",),
        ("privacy.trust=local",),
        ("privacy.unit=comparison",),
        ("privacy.private.mechanism=label",),
        ("model.form=tanh",),
        ("data.split=cold",),
        ("data.split=unseen_people",),
        ("strategy.name=fedadam",),
        ("strategy.name=krum", "privacy.shared.epsilon=inf"),
        ("loss.name=ipo", "privacy.accountant=prv"),
    ],
)
def test_every_way_to_run_it_ends_with_a_result(overrides: tuple[str, ...], tmp_path: Path) -> None:
    result = run(tmp_path / "r", *overrides)
    assert result["egress"]["private_tensors"] == 0
    assert result["egress"]["messages"] > 0


def test_a_rule_that_needs_single_replies_is_refused_under_noise() -> None:
    with pytest.raises(ConfigError, match="krum"):
        read_settings(None, (*SMALL, "strategy.name=krum"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines", [pytest.param(1, marks=pytest.mark.night), 3, pytest.param(5, marks=pytest.mark.night)]
)
def test_kill_9_and_resume_is_an_uninterrupted_run(lines: int, tmp_path: Path) -> None:
    """Killed when `lines` events are written; what comes out is what comes out of a run left alone."""
    many = ("rounds=3", "people=20")
    whole = run(tmp_path / "whole", *many)
    command = [sys.executable, "-m", "commonground.simulations.cli", "simulate", *SMALL, *many]
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    events = out / "events.jsonl"
    until(lambda: events.is_file() and len(events.read_text().splitlines()) >= lines, alive=process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "result.json").exists()
    resumed = simulate(read_settings(out / "config.yaml"), out)
    assert all(resumed[key] == whole[key] for key in SAME)
    pairs = [(e["arm"], e["round"]) for e in map(json.loads, events.read_text().splitlines())]
    assert pairs == [(a, r) for a in ("shared", "pooled") for r in (1, 2, 3)]
