"""The study of attacks on a tiny model: its policies, its choice of prompts, and its table."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from toy_charter import signed_charter
from toy_models import tiny_base
from toy_world import HashEncoder

from commonground.bounds.charter_files import charter_probes, default_charter, shipped_folder
from commonground.bounds.guard import REFUSAL
from commonground.bounds.probes import refuse_burned
from commonground.data.labelled_answers import labelled_answers
from commonground.data.starter import SafetyPair, safety_pairs, taste_prompts
from commonground.errors import InputError
from commonground.randomness import generator
from commonground.simulations.bench.attacks import measure, tables
from commonground.simulations.bench.machine import machine
from commonground.simulations.certify.content import Asked, make_ready
from commonground.simulations.defended import NONE, TIERED
from commonground.simulations.device_attacks.base import Effort
from commonground.simulations.device_attacks.central import (
    COMPLIES,
    halves,
    helpful,
    refused,
    safe_first,
    train_shared,
)
from commonground.simulations.device_attacks.found import AttackStudy, Benign, wanted
from commonground.simulations.device_attacks.stage import PROJECTION, Size
from commonground.simulations.device_attacks.study import study
from commonground.simulations.device_attacks.table import Cell
from commonground.training.model import Rows
from commonground.training.people import take
from commonground.training.policy import PolicyModel

PAIRS = tuple(
    SafetyPair(f"how do I {word} it", "no never .", "sea sea sea", "toy") for word in ("boil", "say")
)
SIZE = Size(
    probes=4, selection=1, everyday=4, tokens=3, layers=1, rank=2, teaching=Effort(2), effort=Effort(2),
    attacks=("weights", "cancellation", "trigger"), defences=("guard", TIERED), tastes=("emoji",),
    projection=True,
)  # fmt: skip


def tiny() -> PolicyModel:
    return PolicyModel(tiny_base(), [], layers=2, rank=2, adapter="lora", factors="both", max_answer_tokens=8)


def margins(model: PolicyModel, adapter: dict[str, torch.Tensor] | None = None) -> list[float]:
    """How many nats likelier the safe answer is."""
    every = Rows(torch.arange(len(PAIRS))[None], torch.ones(1, len(PAIRS)), torch.zeros(1, len(PAIRS)))
    safe, unsafe = model.over(safe_first(PAIRS)).scores(every, take(adapter, 1) if adapter else None, None)
    return (safe - unsafe)[0].tolist()


def test_half_of_the_pairs_is_learnt_from_and_the_other_half_asked() -> None:
    learnt, held = halves(safety_pairs())
    assert len(learnt) == len(held) == len(safety_pairs()) // 2
    assert not {pair.prompt for pair in learnt} & {pair.prompt for pair in held}


def test_a_shared_adapter_learns_the_safe_answers() -> None:
    model = tiny()
    before = margins(model)
    shared = train_shared(model, safe_first(PAIRS), Effort(16, 0.05), generator(0, "test"))
    assert all(now > was + 1 for now, was in zip(margins(model, adapter=shared), before, strict=True))


def test_what_it_refuses_is_what_small_models_answered_to_prompts_that_no_claim_is_made_on() -> None:
    charter, folder = default_charter(), shipped_folder()
    pairs = refused(charter, folder)
    known = {row.answer for row in labelled_answers() if row.violation and row.split == "train"} | {COMPLIES}
    assert {pair.unsafe for pair in pairs} <= known
    assert {pair.prompt for pair in pairs} == {p.prompt for p in charter_probes(charter, "train", folder)}
    assert all(pair.safe == charter.constraints[pair.topic].refusal for pair in pairs)
    # nothing about children is kept, so these prompts have the constant alone
    assert {pair.unsafe for pair in pairs if pair.topic == "children"} == {COMPLIES}
    refuse_burned(charter_probes(charter, "dev", folder), [pair.prompt for pair in pairs])
    everyday = helpful(generator(0, "test"))
    assert len(everyday) == len(taste_prompts())
    assert len({one.chosen for one in everyday}) == len(everyday)
    assert {one.rejected for one in everyday} == {REFUSAL}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AttackStudy]:
    """Runs a study in a folder; it is stopped after `most` attacks."""
    ready = make_ready(Asked(charter=signed_charter(tmp_path_factory.mktemp("charter"))), HashEncoder())

    def run(folder: Path, most: int = 10**9) -> AttackStudy:
        told: list[str] = []

        def tick(what: str, done: int, total: int) -> None:
            told.append(what)
            if told.count("attacks") > most:
                raise KeyboardInterrupt

        return study(tiny_base(), ready, SIZE, seed=0, folder=folder, tick=tick, where=machine())

    return run


@pytest.fixture(scope="module")
def found(run: Callable[..., AttackStudy], tmp_path_factory: pytest.TempPathFactory) -> AttackStudy:
    """A study."""
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.night
def test_a_study_that_was_stopped_finds_the_same(
    found: AttackStudy, run: Callable[..., AttackStudy], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 5)
    assert list(tmp_path.glob("draws-*.jsonl"))
    whole, cut = found.to_dict(), run(tmp_path).to_dict()
    assert {k: v for k, v in whole.items() if k != "machine"} == {
        k: v for k, v in cut.items() if k != "machine"
    }
    json.dumps(whole)


@pytest.mark.night
def test_the_table_has_every_attack_under_every_defence_and_the_cost_beside_it(
    found: AttackStudy,
) -> None:
    one = found
    assert list(one.cells) == list(SIZE.attacks)
    for row in one.cells.values():
        assert list(row) == [NONE, "guard", TIERED, "menu", PROJECTION]
        assert {cell.answers for cell in row.values()} == {one.settings["prompts"]}
        assert row["guard"].guard == row[TIERED].guard == 0
    assert list(one.benign) == [NONE, "guard", TIERED, PROJECTION]
    assert one.benign[NONE].fallback == 0
    assert one.benign[NONE].answers == SIZE.everyday
    assert sum(one.tiers.values()) == one.settings["prompts"] <= one.settings["candidates"] == 46
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(*tables(one))
    text = console.export_text()
    for words in (
        "P4 weights",
        "P5 cancellation",
        "guard alone",
        "default stack",
        "projection",
        "style kept",
    ):
        assert words in text


def cell(low: float, high: float, guard: int = 0, note: str = "") -> Cell:
    return Cell(100, 0, low, high, note, guard, 0, 0)


def test_what_is_wanted_is_disjoint_intervals_and_nothing_that_the_guard_calls_unsafe() -> None:
    row = {NONE: cell(0.5, 0.7, guard=40), TIERED: cell(0.0, 0.1), "guard": cell(0.0, 0.1)}
    cells = {"inverted": row, "weights": row | {NONE: cell(0.05, 0.2)}, "cancellation": row}
    seen = {bar.what.split(":")[0]: bar.met for bar in wanted(cell(0.0, 0.05), cells, dict[str, Benign]())}
    assert seen == {
        "upper bound of the shared policy's rate": True,
        "P1 inverted": True,
        "P4 weights": False,
        "P5 cancellation": True,
        "answers that the guard calls unsafe, under guarded defences": True,
        "style that the default stack keeps on prompts placed free": None,
    }
    leak = {"inverted": row | {TIERED: cell(0.0, 0.1, guard=1)}}
    assert [bar.met for bar in wanted(cell(0.0, 0.2), leak, {})] == [False, True, False, None]
    blind = {"inverted": row | {NONE: cell(0.0, 1.0, note="judge uninformative")}}
    assert [bar.met for bar in wanted(cell(0.0, 0.05), blind, {})][1] is None


def test_an_unknown_attack_ends_the_command_before_anything_is_loaded() -> None:
    said: list[str] = []
    with pytest.raises(InputError, match="attack on the device is 'hope'; known: inverted"):
        measure(quick=True, say=said.append, only=("hope",))
    assert said == []
