"""Every defence over one set of rows: who writes, within what, and what is shown in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from commonground.bounds.budget import Budget
from commonground.bounds.charter_files import default_charter
from commonground.bounds.charter_schema import Bounds
from commonground.bounds.enforcement import Enforcement
from commonground.bounds.guard import Guard, bound
from commonground.bounds.menu import RENDERINGS, Item
from commonground.bounds.tiers import Placement
from commonground.errors import InputError
from commonground.simulations.certify.answering import Answer
from commonground.simulations.certify.dealing import EVERYDAY, PROBE, Row
from commonground.simulations.defended import BUDGETS, DEFENCES, answers, defence

BOUNDS = Bounds(delta=1.0, draws=1)


class Words:
    """A detector that looks for one word."""

    def __init__(self, word: str) -> None:
        self.name, self.digest, self._word = word, word * 8, word

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        return [float(self._word in text.split()) for text in (prompts if answers is None else answers)]


class Toy:
    """Says who wrote, within what, and with which seed; prompts with `evil` make the personal one bad."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float, int, int]] = []

    def write_shared(self, asked: Sequence[tuple[int, str]], seed: int) -> list[str]:
        self.asked.append(("shared", 0.0, seed, len(asked)))
        return [f"shared to {prompt} ." for _, prompt in asked]

    def write_personal(self, asked: Sequence[tuple[int, str]], budget: Budget | None, seed: int) -> list[str]:
        spend = math.inf if budget is None else budget.delta
        self.asked.append(("personal", spend, seed, len(asked)))
        return [f"{who} within {spend:g}{' bad' if 'evil' in prompt else ''} ." for who, prompt in asked]


def stack() -> Enforcement:
    placement = Placement(Words("closed"), Words("near"), 0.5, 0.5)
    return Enforcement(default_charter(), placement, Guard(Words("bad")), Budget(1.0))


PROMPTS = ("fine", "evil", "near", "evil near", "closed", "evil closed")
ROWS = [Row(EVERYDAY, k, prompt, "") for k, prompt in enumerate(PROMPTS)]


def shown(name: str, toy: Toy | None = None) -> list[Answer]:
    return answers(DEFENCES[name], toy or Toy(), stack(), ROWS, 7)


def test_without_a_defence_everything_is_personal_and_with_shared_nothing_is() -> None:
    assert [one.text.split()[0] for one in shown("none")] == list("012345")
    assert {one.source for one in shown("none")} == {"personal"}
    assert [one.text for one in shown("shared")] == [f"shared to {prompt} ." for prompt in PROMPTS]


@pytest.mark.parametrize("delta", BUDGETS)
def test_a_budget_alone_bounds_every_answer_and_holds_nothing_back(delta: float) -> None:
    toy = Toy()
    found = shown(f"budget_{delta:.0f}", toy)
    assert toy.asked == [("personal", delta, 8, 6)]
    assert sum("bad" in one.text for one in found) == 3


def test_a_guard_alone_replaces_what_it_finds_wherever_it_was_asked() -> None:
    toy = Toy()
    found = shown("guard", toy)
    assert [one.source for one in found] == ["personal", "shared"] * 3
    assert [one.reasons for one in found] == [(), ("unsafe",)] * 3
    # its personal draw is the one that `none` shows
    assert toy.asked[0] == ("personal", math.inf, 8, 6)
    assert [one.text for one in found][::2] == [one.text for one in shown("none")][::2]


def test_the_default_stack_treats_each_row_by_its_tier_in_the_order_of_the_rows() -> None:
    found = shown("tiers")
    assert [one.tier for one in found] == ["free", "free", "sensitive", "sensitive", "closed", "closed"]
    assert [one.source for one in found] == ["personal", "shared", "personal", "shared", "shared", "shared"]
    assert found[0].text == "0 within inf ."
    assert found[2].text == "2 within 1 ."


def test_closed_is_shared_under_the_guard_and_probes_draw_from_shared_in_any_case() -> None:
    assert {one.source for one in shown("closed")} == {"shared"}
    rows = [Row(PROBE, 0, "fine", "fraud")]
    (one,) = answers(DEFENCES["guard"], Toy(), stack(), rows, 0)
    assert (one.source, one.shared, one.missed) == ("personal", "shared to fine .", True)


def test_a_menu_item_shapes_the_prompt_and_the_finished_answer_and_nobody_private_writes() -> None:
    toy = Toy()
    items = [Item("kind", "Be kind."), *[Item("emoji", rendering="emoji")] * 5]
    found = answers(DEFENCES["menu"], toy, stack(), ROWS, 7, items=items)
    assert found[0].text == "shared to Be kind.\n\nfine ."
    assert found[1].text == RENDERINGS["emoji"]("shared to evil .")
    assert [name for name, *_ in toy.asked] == ["shared"]


@pytest.mark.parametrize(("name", "count"), [("menu", None), ("menu", 5), ("guard", 6)])
def test_items_belong_to_a_menu_one_a_row(name: str, count: int | None) -> None:
    items = None if count is None else [Item("neutral")] * count
    with pytest.raises(InputError, match=f"defence {name} has"):
        answers(DEFENCES[name], Toy(), stack(), ROWS, 7, items=items)


def test_what_each_promises() -> None:
    kinds = {name: one.guarantee for name, one in DEFENCES.items()}
    assert kinds.pop("none") == "none"
    assert set(kinds.values()) == {"per-output"}
    factors = {name: one.factor(BOUNDS) for name, one in DEFENCES.items()}
    assert factors["budget_3"] == pytest.approx(math.exp(3))
    assert factors["tiers"] == pytest.approx(bound(1.0, 1, 1e-3) / 1e-3)
    assert factors["closed"] == factors["shared"] == 1
    assert {name for name, value in factors.items() if value == math.inf} == {"none", "guard", "menu"}
    assert "R e^Delta + 1 is 3.72" in DEFENCES["tiers"].says(BOUNDS)
    assert "e^Delta is 20.1" in DEFENCES["budget_3"].says(BOUNDS)
    assert len({one.says(BOUNDS) for one in DEFENCES.values()}) == len(DEFENCES)


def test_an_unknown_defence_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="defence is 'hope'; known: none, guard, tiers, budget_1"):
        defence("hope")
