"""`bench bounds`: survival by hand, draws that are kept, prompts held out, the curve and its page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_models import tiny_llama, tiny_tokenizer

from commonground.bounds.budget import Budget
from commonground.bounds.charter_files import charter_probes, default_charter, shipped_folder
from commonground.bounds.enforcement import Enforcement
from commonground.bounds.guard import Guard
from commonground.bounds.menu import Item
from commonground.bounds.probes import fingerprint
from commonground.bounds.tiers import Placement, shipped_labelled
from commonground.errors import InputError
from commonground.simulations.bench import bounds, bounds_people, bounds_plot, bounds_view
from commonground.simulations.bench.bounds_curve import LINES, TOLD, CostCurve, curve
from commonground.simulations.bench.bounds_people import TASTES, told
from commonground.simulations.bench.bounds_prompts import PROMPTS
from commonground.simulations.bench.bounds_survival import resampled, survival
from commonground.simulations.defended import DEFENCES
from commonground.simulations.kept_draws import KeptDraws
from commonground.simulations.writing import PROMPTS as LOOKED_AT


def column(text: str) -> np.ndarray:
    return np.array([[c == "1"] for c in text])


class TestSurvival:
    draws = resampled(8, 500, np.random.default_rng(0))

    def of(self, under: str, unbounded: str = "11111100", shared: str = "10000000") -> Any:
        return survival(column(under), column(unbounded), column(shared), self.draws)

    def test_by_hand(self) -> None:
        found = self.of("11110000")
        # (4 - 1) / (6 - 1)
        assert (found.rate, found.kept, found.answers) == (0.5, pytest.approx(0.6), 8)
        assert 0 <= found.low < 0.6 < found.high <= 1.2

    def test_the_ends_of_the_scale_are_exact_in_every_draw(self) -> None:
        assert (self.of("11111100").kept, self.of("10000000").kept) == (1.0, 0.0)
        top, zero = self.of("11111100"), self.of("10000000")
        assert (top.low, top.high, zero.low, zero.high) == (1.0, 1.0, 0.0, 0.0)

    def test_a_shift_that_is_too_small_has_no_share(self) -> None:
        found = self.of("11100000", unbounded="11000000")
        assert (found.rate, found.kept, found.low) == (0.375, None, None)

    def test_an_interval_needs_a_shift_in_nearly_every_draw(self) -> None:
        """With one prompt of three that shifts, three draws in ten have none."""
        tables = column("100"), column("100"), column("000")
        found = survival(*tables, resampled(3, 500, np.random.default_rng(0)))
        assert (found.kept, found.low, found.high) == (1.0, None, None)

    def test_several_tastes_count_by_their_shifts(self) -> None:
        under, unbounded = np.hstack([column("11"), column("00")]), np.hstack([column("11"), column("11")])
        shared = np.zeros((2, 2), dtype=bool)
        found = survival(under, unbounded, shared, resampled(2, 50, np.random.default_rng(0)))
        assert (found.kept, found.low, found.high) == (0.5, 0.5, 0.5)

    def test_tables_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"shapes \(2, 1\), \(3, 1\), \(2, 1\)"):
            survival(column("11"), column("111"), column("11"), self.draws)


class Counting:
    """Writers that number their draws."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def write_shared(self, asked: Sequence[tuple[int, str]], seed: int) -> list[str]:
        self.calls.append(("shared", len(asked)))
        return [f"shared {seed} {person} {prompt} {len(self.calls)}" for person, prompt in asked]

    def write_personal(self, asked: Sequence[tuple[int, str]], budget: Budget | None, seed: int) -> list[str]:
        self.calls.append(("personal", len(asked)))
        spent = None if budget is None else budget.delta
        return [f"own {spent} {seed} {person} {prompt} {len(self.calls)}" for person, prompt in asked]


def test_a_draw_is_written_once_also_after_a_kill_and_a_call_goes_on_whole(tmp_path: Path) -> None:
    asked = [(0, "a"), (0, "b"), (1, "a")]

    def ask() -> tuple[list[list[str]], list[tuple[str, int]]]:
        inner = Counting()
        kept = KeptDraws(inner, tmp_path / "deep" / "draws.jsonl")
        texts = [kept.write_personal(asked, None, 1), kept.write_personal(asked[:2], None, 1)]
        texts += [kept.write_personal(asked, Budget(3.0), 1), kept.write_personal(asked, None, 2)]
        texts += [kept.write_shared(asked[1:], 1), kept.write_shared(asked, 1)]
        return texts, inner.calls

    texts, calls = ask()
    # a part of a known call is known; a call of which something is new is asked whole
    assert calls == [("personal", 3)] * 3 + [("shared", 2), ("shared", 3)]
    assert texts[1] == texts[0][:2]
    assert texts[5][1:] == texts[4], "what was said stays said"
    assert len({text for one in texts[2:4] for text in one} | set(texts[0])) == 9
    assert ask() == (texts, [])
    file = tmp_path / "deep" / "draws.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:9])
    assert ask()[1] == calls[3:]


def test_without_a_file_draws_are_remembered_in_memory() -> None:
    inner = Counting()
    kept = KeptDraws(inner)
    assert kept.write_shared([(0, "a")], 1) == kept.write_shared([(0, "a")], 1)
    assert len(inner.calls) == 1


def test_the_everyday_prompts_are_held_out_from_everything() -> None:
    charter = default_charter()
    elsewhere = {prompt for prompt, _ in shipped_labelled()} | set(LOOKED_AT)
    elsewhere |= {
        p.prompt for name in charter.probes for p in charter_probes(charter, name, shipped_folder())
    }
    elsewhere |= {comparison.prompt for taste in TASTES for comparison in told(taste)}
    mine = {fingerprint(prompt) for prompt in PROMPTS}
    assert len(mine) == len(PROMPTS) == 24
    assert not mine & {fingerprint(prompt) for prompt in elsewhere}


def test_a_person_chooses_her_style_each_time_and_on_forty_prompts() -> None:
    said = told("emoji")
    assert len({one.prompt for one in said}) == 40
    assert said == told("emoji") != told("brief")


class Words:
    """A detector that looks for one word."""

    def __init__(self, word: str) -> None:
        self.name, self.digest, self._word = word, word * 8, word

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        return [float(self._word in text.split()) for text in (prompts if answers is None else answers)]


class Styled:
    """A person who likes emoji and one who likes lists; half of the budgets are too small for either."""

    said = ("so 🙂", "- one\n- two")

    def write_shared(self, asked: Sequence[tuple[int, str]], seed: int) -> list[str]:
        return ["so it is" for _ in asked]

    def write_personal(self, asked: Sequence[tuple[int, str]], budget: Budget | None, seed: int) -> list[str]:
        bad = [" bad" if "evil" in prompt else "" for _, prompt in asked]
        if budget is not None and budget.delta < 5:
            return ["so it is" + word for word in bad]
        return [self.said[person] + word for (person, _), word in zip(asked, bad, strict=True)]


ASKED = [*(f"fine {k}" for k in range(7)), "evil", "near 1", "closed 1"]


def toy_stack() -> Enforcement:
    placement = Placement(Words("closed"), Words("near"), 0.5, 0.5)
    return Enforcement(default_charter(), placement, Guard(Words("bad")), Budget(1.0))


@pytest.fixture(scope="module")
def found() -> CostCurve:
    stack = toy_stack()
    items = [Item("emoji", rendering="emoji"), Item("neutral")]
    told = [items[0], Item("bullets", rendering="bullets")]
    shown = bounds.written(KeptDraws(Styled()), stack, ASKED, items, told, lambda _: None)
    where: dict[str, str | float | bool] = {"words": "2 cores", "load": 0.1, "loaded": False, "threads": 1}
    settings = {"seed": 0, "<b>tokens</b>": 4}
    return curve(where, settings, TASTES[:2], ASKED, items, stack.charter.bounds, shown)


def test_the_curve_is_what_the_toy_people_lose(found: CostCurve) -> None:
    by = {one.name: one for one in found.mechanisms}
    assert [name for name in by if name != TOLD] == list(DEFENCES)
    kept = {name: [one.free["all"].kept, one.everyday["all"].kept] for name, one in by.items()}
    # 8 prompts are free, and one answer to them is bad; of all 10 three are not personal in style
    assert kept["none"] == [1.0, 1.0]
    assert kept["guard"] == pytest.approx([7 / 8, 9 / 10])
    assert kept["tiers"] == pytest.approx([7 / 8, 7 / 10])
    assert kept["budget_1"] == kept["budget_3"] == kept["shared"] == kept["closed"] == [0.0, 0.0]
    assert kept["budget_10"] == kept["budget_30"] == [1.0, 1.0]
    assert by["menu"].free["emoji"].kept == 1.0
    assert by["menu"].free["bullets"].kept == 0.0
    assert by[TOLD].free["emoji"].kept == 1.0
    assert by["guard"].sources == {"personal": 18, "shared": 2}
    assert found.placed == {"free": 8, "sensitive": 1, "closed": 1}
    assert (found.free_share.events, found.free_share.trials) == (8, 10)
    assert (found.held_back.events, found.held_back.trials, found.held_answers) == (1, 8, 2)
    assert found.held_back.low < 1 / 8 < found.held_back.high
    assert found.missed == [found.bars[0].what]
    assert found.bars[0].seen == pytest.approx(7 / 8)


def test_what_is_printed_and_drawn_says_what_was_found(found: CostCurve) -> None:
    said = bounds_view.words(found)
    assert said[0].startswith("placed free: 8 of 10 (44.4 to 97.5 %)")
    assert (
        said[1]
        == "personal answers that the guard held back there: 2 of 16, to 1 of 8 (0.3 to 52.7 %) prompts"
    )
    each, together = (one for one in bounds_view.tables(found)[2:4] if not isinstance(one, str))
    assert [str(list(column.cells)[1]) for column in each.columns][1:] == ["88", "88"]
    assert [str(list(column.cells)[2]) for column in together.columns][3:] == ["3.72"]
    page = bounds_plot.page(found)
    assert "<b>tokens</b>" not in page
    assert not re.search(r"<(?:script|link|img)\b[^>]*(?:src|href)=", page)
    drawn = bounds_plot.figures(found)
    assert set(drawn) == {"together", "tastes"}
    points = drawn["together"]["data"][0]["x"]
    assert points[1] == pytest.approx(87.5)
    assert len(points) == len(LINES)
    assert "fine 0" in page
    assert bounds_view.factor(found.mechanisms[2]) == "3.72"
    assert json.loads(json.dumps(found.to_dict()))["mechanisms"][0]["factor"] is None


@pytest.mark.night
def test_a_small_run_of_a_tiny_model_is_the_same_each_time_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds_people, "LAYERS", 2)
    monkeypatch.setattr(bounds_people, "ASKED", 1)
    monkeypatch.setattr(bounds_people, "PAIRS", 8)
    monkeypatch.setattr(bounds, "PROMPTS", PROMPTS[:3])
    monkeypatch.setattr(bounds, "Encoder", lambda: None)
    monkeypatch.setattr(bounds, "enforce", lambda *_: toy_stack())
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    tiny_llama().save_pretrained(tmp_path / "base")
    heard: list[str] = []
    one = bounds.measure(quick=True, say=heard.append, keep=tmp_path / "out", base=str(tmp_path / "base"))
    assert one.tastes == TASTES[:2]
    assert [line.name for line in one.mechanisms] == list(LINES)
    assert any("tiers (" in line for line in heard)
    state = tmp_path / "out" / "bench-bounds-state"
    written = {file.name: file.read_bytes() for file in state.iterdir()}
    assert len(written) == 3
    for name in written:
        if name.startswith("draws"):
            (state / name).write_bytes(written[name][: len(written[name]) // 2])
    other = bounds.measure(quick=True, say=heard.append, keep=tmp_path / "out", base=str(tmp_path / "base"))
    assert other.mechanisms == one.mechanisms
    assert other.items == one.items
    assert {file.name: file.read_bytes() for file in state.iterdir()} == written
