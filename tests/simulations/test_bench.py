"""`commonground bench`: equal numbers, what is printed and written, what a missed bar does. No timing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from commonground.errors import CommonGroundError, StorageError
from commonground.simulations.bench import client_step, local, plot, point, rounds, scale, view
from commonground.simulations.bench.client_step import by_fleet, by_loop, by_vmap, difference, step_task
from commonground.simulations.bench.machine import machine, peak_memory_mb
from commonground.simulations.bench.measured import Bar, Measured, Row, Spread, paired, spread
from commonground.simulations.bench.point import Point
from commonground.simulations.bench.timing import alternate, one_thread
from commonground.simulations.cli import app


def quiet(_: str) -> None:
    """Nobody is told."""


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["bench", *words])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """What a benchmark found, without measuring: one bar reached, one missed, one not measured."""
    bars = [
        Bar("quick", 2.0, 3.0, "x"),
        Bar("small", 1.0, 1.5, "GB", at_least=False),
        Bar("other", 1.0, None, "x"),
    ]
    row = Row("<b>steps</b>", "steps/s", Spread(900.0, 1234.5, 2000.0, 3))
    at = {"x": 1000.0, "seconds": 0.5, "seconds_min": 0.4, "seconds_max": 0.6}
    at |= {"memory": 500.0, "memory_min": 490.0, "memory_max": 510.0}
    where: dict[str, str | float | bool] = {"words": "2 cores", "load": 0.1, "loaded": False, "threads": 1}
    found = Measured("scale", where, {"rounds": 3}, [row], bars, ["a note"], {"people": [at], "cohort": []})
    monkeypatch.setattr(scale, "measure", lambda **_: found)
    return found


def test_the_three_ways_take_the_same_steps_and_would_be_told_apart() -> None:
    task, people = step_task(3), [0, 2]
    plain = by_loop(task, people)
    for way in (by_vmap, by_fleet):
        assert difference(way(task, people), plain) < 1e-6
    assert difference(plain, by_fleet(task, [0, 1])) > 1e-3  # another person
    one = {name: value[:1] for name, value in plain.items()}
    assert difference(by_fleet(task, [0]), one) < 1e-6


def test_the_clip_binds_and_leaving_it_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    task = step_task(2)
    plain = by_loop(task, [0, 1])
    monkeypatch.setattr(client_step, "CLIP", 1e6)
    monkeypatch.setattr(client_step, "NOISE", 0.0)
    free = by_fleet(task, [0, 1])
    monkeypatch.setattr(client_step, "CLIP", 0.3)
    clipped = by_fleet(task, [0, 1])
    assert difference(free, clipped) > local.SAME
    assert difference(clipped, plain) > local.SAME  # nor is the noise nothing


def test_ways_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(task: client_step.Step, people: range) -> dict[str, torch.Tensor]:
        return {name: value + 1e-4 for name, value in by_fleet(task, people).items()}

    monkeypatch.setattr(local, "by_fleet", wrong)
    with pytest.raises(CommonGroundError, match=r"differ by 0.0001; at most 1e-05"):
        local.measure(quick=True, say=quiet)


def test_candidates_take_turns_after_a_first_run_each() -> None:
    order: list[str] = []

    def work(name: str, units: float) -> Callable[[], float]:
        def run() -> float:
            order.append(name)
            return units

        return run

    rates = alternate({"a": work("a", 1.0), "b": work("b", 1000.0)}, 2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(values) for name, values in rates.items()} == {"a": 2, "b": 2}


def test_spreads_ratios_and_bars_by_hand() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(1.0, 2.5, 10.0, 4)
    assert paired([6.0, 4.0], [2.0, 8.0]) == [3.0, 0.5]
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])
    assert Bar("", 2.0, 2.0, "x").met is True
    assert Bar("", 2.0, 1.9, "x").met is False
    assert Bar("", 2.0, 1.9, "x", at_least=False).met is True
    assert Bar("", 2.0, None, "x").met is None


def test_one_thread_is_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_figures_have_three_digits() -> None:
    assert [view.figure(v) for v in (0.12345, 1.5, 45.0, 123.4, 12345.6)] == [
        "0.123",
        "1.5",
        "45",
        "123",
        "12,346",
    ]


def test_the_machine_is_described_without_a_path() -> None:
    where = machine()
    assert "core" in str(where["words"])
    assert "/" not in str(where["words"])
    assert where["threads"] == 1
    assert 10 < peak_memory_mb() < 100_000


def test_a_missed_bar_is_said_and_fails_only_where_that_is_asked_for(tiny: Measured) -> None:
    plain = call("scale", "--quick")
    assert plain.exit_code == 0
    assert "MISSED" in plain.stdout
    assert "not measured" in plain.stdout
    assert "one thread a process" in plain.stdout
    assert "1,234" in plain.stdout
    assert tiny.missed == ["small"]
    checked = call("scale", "--quick", "--check", "--format", "json")
    assert checked.exit_code == 1
    envelope = json.loads(checked.stdout)
    assert envelope["status"] == "ok"
    assert envelope["data"]["missed"] == ["small"]
    assert [bar["met"] for bar in envelope["data"]["bars"]] == [True, False, None]


def test_a_folder_gets_the_numbers_and_a_page_that_is_complete_in_itself(
    tiny: Measured, tmp_path: Path
) -> None:
    assert call("scale", "--out", str(tmp_path / "b")).exit_code == 0
    data = json.loads((tmp_path / "b" / "bench-scale.json").read_text(encoding="utf-8"))
    assert data["rows"][0]["values"] == {"min": 900.0, "median": 1234.5, "max": 2000.0, "count": 3}
    page = (tmp_path / "b" / "bench-scale.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;steps" in page
    assert "<b>steps" not in page
    assert 'src="http' not in page
    assert "default-src 'none'" in page
    assert set(plot.figures(tiny)) == {"people-seconds", "people-memory"}  # no cohort was measured
    import plotly.graph_objects as go

    for drawn in plot.figures(tiny).values():
        go.Figure(json.loads(re.sub(r"var\([\w-]+\)", "#123456", json.dumps(drawn))))  # raises on a wrong key


def test_a_folder_that_cannot_be_written_is_one_clear_line(tiny: Measured, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = call("scale", "--out", str(tmp_path / "file" / "b"))
    assert result.exit_code == StorageError.exit_code
    assert result.stderr.startswith("error: cannot use ")


@pytest.mark.parametrize("name", ["local", "round", "scale", "roof", "policy"])
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert f"commonground bench {name}" in result.stdout
    for option in ("--quick", "--check", "--out", "--format"):
        assert option in result.stdout


@pytest.mark.night
def test_a_run_in_a_process_of_its_own_tells_its_rounds_and_kernel() -> None:
    found = point.run_point([*rounds.job(8, 2), "runtime=fleet"], kernel=True, fresh=True)
    assert found.people == [8, 8]
    assert len(found.rounds) == len(found.kernel) == 2
    assert all(0 < k <= w for k, w in zip(found.kernel, found.looked_up, strict=True))
    assert found.total > sum(found.rounds)
    assert found.memory > 100


def test_a_run_that_fails_says_why() -> None:
    with pytest.raises(CommonGroundError, match=r"ended with 1: .*peeple"):
        point.run_point(["peeple=3"])


def test_rounds_hold_the_right_ratios_against_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {"inprocess": 4.0, "ray": 12.0, "fleet": 0.5}

    def run(settings: list[str], *, kernel: bool = False) -> Point:
        runtime = next(w.split("=")[1] for w in settings if w.startswith("runtime="))
        seconds = [99.0, took[runtime], took[runtime]]  # the first round is warm-up
        return Point(seconds, [8] * 3, [9.0, 0.4, 0.3] if kernel else [], [9.0, 0.45, 0.35] if kernel else [])

    monkeypatch.setattr(rounds, "run_point", run)
    found = rounds.measure(quick=False, say=quiet)
    seen: dict[str, Any] = {bar.what: bar.seen for bar in found.bars}
    assert seen["summed release: kernel / fleet's round, same job"] == pytest.approx(0.7)
    assert seen["individual replies: fleet against Flower's Ray engine"] == 24.0
    rows = {row.what: row.values for row in found.rows}
    assert rows["summed release: fleet against one by one in this process"].median == 8.0
    assert rows["summed release: Flower's Ray engine"].count == 6


def test_scale_compares_the_ends_and_adds_the_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def run(settings: list[str] | tuple[str, ...], *, fresh: bool = False) -> Point:
        people = next(w for w in settings if w.startswith("people="))
        asked.append((people, fresh))
        seconds = 1.2 if people == "people=100000" and not fresh else 1.0
        return Point([9.0, seconds, seconds], [5] * 3, total=120.0, memory=1024.0)

    monkeypatch.setattr(scale, "run_point", run)
    found = scale.measure(quick=False, headline=True, say=quiet)
    assert [(bar.seen, bar.met) for bar in found.bars] == [(1.2, False), (2.0, True), (1.0, True)]
    rows = {row.what: row.values for row in found.rows}
    assert next(v for k, v in rows.items() if k.endswith("drawn in every round")).median == 1.0
    assert asked.count(("people=100000", True)) == 3
    assert [at["x"] for at in found.curves["cohort"]] == [64, 512, 4096]
