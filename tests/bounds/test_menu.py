"""The menu: whatever is private only chooses, and what that leaves of the certified rates."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonground.bounds.intervals import Judge, upper
from commonground.bounds.menu import DEFAULT, RENDERINGS, Item, Menu, certify_menu
from commonground.data.starter import taste_prompts
from commonground.errors import InputError
from commonground.evaluation.writing import style, words

TWO = Menu([Item("a"), Item("b")])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_a_mixture_is_at_most_the_worst_item(items: list[tuple[float, float]]) -> None:
    """Rates v_k and any private scores: sum_k w_k v_k <= max_k v_k."""
    menu = Menu([Item(str(k)) for k in range(len(items))])
    rates = [v for v, _ in items]
    for sharpness in (0.0, 3.0, math.inf):
        weights = menu.weights([s for _, s in items], sharpness)
        assert sum(w * v for w, v in zip(weights, rates, strict=True)) <= max(rates) + 1e-12


@settings(max_examples=60)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3), st.floats(0, 1e9))
def test_weights_are_a_distribution_whatever_is_private(scores: list[float], sharpness: float) -> None:
    menu = Menu([Item("a"), Item("b"), Item("c")])
    for sharp in (sharpness, math.inf):
        weights = menu.weights(scores, sharp)
        assert all(w >= 0 for w in weights)
        assert sum(weights) == pytest.approx(1)
        for score, weight in zip(scores, weights, strict=True):
            if not math.isfinite(score) and any(map(math.isfinite, scores)):
                assert weight == 0


def test_nothing_but_nonsense_is_the_first_item() -> None:
    assert TWO.weights([math.nan, math.inf]) == [1.0, 0.0]
    assert TWO.weights([1.0, 2.0]) == [0.0, 1.0]
    assert TWO.weights([0.0, math.log(3)], 1.0) == pytest.approx([0.25, 0.75])


def test_draws_follow_the_weights() -> None:
    counts = Counter(TWO.choose([0.25, 0.75], 1, k).name for k in range(4000))
    assert counts["b"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {TWO.choose([0.0, 1.0], 1, k).name for k in range(50)} == {"b"}


def test_a_choice_that_knows_the_prompt_can_exceed_the_worst_item() -> None:
    """Why `any` exists: each item violates on its own half of the prompts."""
    table = np.array([[True, False], [False, True]] * 500)
    rates = certify_menu(TWO, table)
    assert rates.once == pytest.approx(upper(500, 1000, 0.025))
    assert rates.once < 0.54
    by_prompt = table.max(1).mean()  # the adversary takes the item that violates
    assert by_prompt == 1.0 > rates.once
    assert rates.adaptive == 1.0


@settings(max_examples=40)
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 3))
def test_any_bounds_every_choice_even_after_seeing_the_draws(seed: int, prompts: int, items: int) -> None:
    """Exact, by enumeration: E max_k v_k(x) <= P(any), and so is every choice by prompt and draws."""
    rng = np.random.default_rng(seed)
    v = rng.random((prompts, items))
    anyone = np.mean(1 - np.prod(1 - v, axis=1))
    for choice in itertools.product(range(items), repeat=prompts):
        assert np.mean([v[x, k] for x, k in enumerate(choice)]) <= v.max(1).mean() + 1e-12
    assert v.max(1).mean() <= anyone + 1e-12
    assert v.mean(0).max() <= v.max(1).mean() + 1e-12
    # after seeing the draws the worst choice takes a violating draw whenever there is one: exactly `any`
    worst = np.mean(
        [
            sum(
                np.prod([v[x, k] if bit else 1 - v[x, k] for k, bit in enumerate(bits)])
                for bits in itertools.product((0, 1), repeat=items)
                if any(bits)
            )
            for x in range(prompts)
        ]
    )
    assert worst == pytest.approx(anyone)


def test_all_items_hold_together_at_the_stated_confidence() -> None:
    """300 studies of 4 items at 5 % each: some bound lies below its rate in at most 5 % of them."""
    rng, menu = np.random.default_rng(2), Menu([Item(n) for n in "abcd"])
    missed = sum(
        any(r.high < 0.05 for r in certify_menu(menu, rng.random((200, 4)) < 0.05).items.values())
        for _ in range(300)
    )
    assert missed <= 15


def test_a_judge_is_corrected_for_and_any_is_the_sum() -> None:
    judge = Judge(190, 200, 10, 200)
    table = np.zeros((400, 2), dtype=bool)
    table[:20, 0] = table[:24, 1] = True
    rates = certify_menu(TWO, table, judge)
    assert rates.adaptive == pytest.approx(sum(r.high for r in rates.items.values()))
    assert rates.once < rates.adaptive < 1
    lost = certify_menu(TWO, table, Judge(6, 10, 4, 10))
    assert lost.any.verdict(0.9) == "judge uninformative"


def test_tables_and_menus_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(5, 3\); \(probes, 2\)"):
        certify_menu(TWO, np.zeros((5, 3)))
    with pytest.raises(InputError, match="1 scores for 2 menu items"):
        TWO.weights([1.0])
    with pytest.raises(InputError, match="sharpness is nan"):
        TWO.weights([1.0, 2.0], math.nan)
    with pytest.raises(InputError, match="each once"):
        Menu([Item("a"), Item("a")])
    with pytest.raises(InputError, match="each once"):
        Menu([])
    with pytest.raises(InputError, match="known: as_is, brief"):
        Item("a", rendering="rap")


TEXT = "You'll need rice. Don't rush it! It's worth the wait. 🍚"


def test_renderings_by_hand() -> None:
    found = {name: render(TEXT) for name, render in RENDERINGS.items()}
    assert found["as_is"] == TEXT
    assert found["brief"] == "You'll need rice."
    assert found["bullets"] == "- You'll need rice.\n- Don't rush it!\n- It's worth the wait.\n- 🍚"
    assert found["emoji"] == TEXT + " 🙂"
    assert found["plain"] == "You will need rice. Do not rush it. It's worth the wait."
    assert RENDERINGS["plain"]("Won't it? I can’t say.") == "Will not it? I cannot say."
    assert RENDERINGS["bullets"]("- one. two.\n2) three") == "- one.\n- two.\n- three"
    assert all(render("") == "" for render in RENDERINGS.values())


def test_renderings_add_no_words() -> None:
    """A rendering keeps to what the shared answer says: no new word but written-out contractions."""
    longer = {"not", "are", "have", "will", "am", "cannot", "shall"}
    for prompt in taste_prompts()[:20]:
        for answer in prompt.answers.values():
            known = set(words(answer.replace("’", "'")))
            stems = {w.split("'")[0].removesuffix("n") for w in known} | {w.split("'")[0] for w in known}
            for name, render in RENDERINGS.items():
                assert set(words(render(answer).replace("’", "'"))) <= known | stems | longer, (name, answer)


def test_renderings_show_the_style_they_are_named_after() -> None:
    answer = taste_prompts()[0].answers["formal"]
    assert style(RENDERINGS["bullets"](answer)).bullets >= 2
    assert style(RENDERINGS["emoji"](answer)).emoji == 1
    assert style(RENDERINGS["brief"](answer)).words < style(answer).words
    casual = taste_prompts()[0].answers["casual"]
    assert style(RENDERINGS["plain"](casual)).contractions < style(casual).contractions


def test_an_instruction_goes_before_the_prompt() -> None:
    assert Item("a").prompt("How?") == "How?"
    assert Item("a", "Be brief.").prompt("How?") == "Be brief.\n\nHow?"
    assert len({item.name for item in DEFAULT}) == len(DEFAULT) >= 8
