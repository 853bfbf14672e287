"""Nothing leaks: the properties that every split must have, on random tables and files."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonground.data.dialogue import render
from commonground.data.rows import PairRow
from commonground.data.splits import (
    components,
    draw_people,
    held_out,
    normalise,
    pair_sides,
    person_test_items,
)

words = st.sampled_from([f"w{n}" for n in range(30)])
seeds = st.integers(0, 5)


def test_normalise_hides_what_a_reader_does_not_see() -> None:
    assert normalise(" A\tJoke\n") == normalise("a joke") == normalise("\uff41 joke")
    assert normalise("a joke") != normalise("a joke.")


def test_held_out_has_the_share_and_ignores_order_and_repeats() -> None:
    keys = [f"k{n}" for n in range(100)]
    drawn = held_out(keys, 0.25, 1, "x")
    assert len(drawn) == 25
    assert drawn == held_out([*reversed(keys), "k3"], 0.25, 1, "x")
    assert drawn != held_out(keys, 0.25, 2, "x")
    assert drawn != held_out(keys, 0.25, 1, "y")
    assert held_out(["a"], 0.5, 1, "x") == frozenset()
    assert len(held_out(["a", "b"], 0.01, 1, "x")) == len(held_out(["a", "b"], 0.99, 1, "x")) == 1


@pytest.mark.parametrize(("count", "held"), [(0, 0), (1, 0), (2, 0), (3, 1), (10, 4), (100, 35)])
def test_a_person_keeps_two_items_to_train_on(count: int, held: int) -> None:
    assert int(person_test_items(count, 1, "taste", "u1").sum()) == held


def test_the_items_held_out_differ_between_people_and_tags() -> None:
    first = person_test_items(40, 1, "taste", "u1")
    assert not np.array_equal(first, person_test_items(40, 1, "taste", "u2"))
    assert not np.array_equal(first, person_test_items(40, 1, "safety", "u1"))
    assert np.array_equal(first, person_test_items(40, 1, "taste", "u1"))


def test_components_by_hand() -> None:
    assert components([["a", "b"], ["c", "d"], ["b", "c"], ["e", "e"]]) == ["a", "a", "a", "e"]


@given(
    st.lists(st.tuples(words, words, words).filter(lambda t: t[1] != t[2]), min_size=1, max_size=40), seeds
)
def test_no_prompt_is_on_both_sides(rows: list[tuple[str, str, str]], seed: int) -> None:
    # the same prompt in other case and spacing is the same prompt
    pairs = [PairRow(f"{p} ?" if n % 2 else f" {p.upper()}  ?", c, r) for n, (p, c, r) in enumerate(rows)]
    sides = pair_sides(pairs, seed, "safety")
    if len({normalise(pair.prompt) for pair in pairs}) < 2:
        return
    assert None not in sides
    where = defaultdict(set)
    for pair, side in zip(pairs, sides, strict=True):
        where[normalise(pair.prompt)].add(side)
    assert all(len(found) == 1 for found in where.values())
    assert {"train", "test"} == set(sides)


@given(st.lists(st.tuples(words, words).filter(lambda t: t[0] != t[1]), min_size=1, max_size=60), seeds)
def test_without_prompts_no_answer_is_on_both_sides(rows: list[tuple[str, str]], seed: int) -> None:
    for prompt in ("", "Which is funnier?"):  # one prompt for all separates nothing either
        pairs = [PairRow(prompt, chosen, rejected) for chosen, rejected in rows]
        seen: dict[str | None, set[str]] = {"train": set(), "test": set(), None: set()}
        for pair, side in zip(pairs, pair_sides(pairs, seed, "taste"), strict=True):
            seen[side] |= {pair.chosen, pair.rejected}
        assert not seen["train"] & seen["test"]


def test_one_knot_of_answers_is_split_by_text_with_both_sides_used() -> None:
    pairs = [PairRow("", f"t{a}", f"t{b}") for a in range(20) for b in range(a)]
    sides = pair_sides(pairs, 1, "taste")
    # 7 of 20 texts are held out: 13 * 12 / 2 pairs to train on, 7 * 6 / 2 to test, 13 * 7 on neither side
    assert (sides.count("train"), sides.count("test"), sides.count(None)) == (78, 21, 91)


def test_later_turns_of_a_conversation_stay_with_its_opening() -> None:
    pairs = []
    for n in range(40):
        asked, said = ("user", f"question {n}"), ("assistant", f"answer {n}")
        pairs.append(PairRow(render([asked]), said[1], "other"))
        pairs.append(PairRow(render([asked, said, ("user", "and then?")]), "more", "less"))
    sides = pair_sides(pairs, 1, "taste")
    assert sides[::2] == sides[1::2]
    assert sides.count("test") == 20


def test_sides_do_not_depend_on_the_order_of_the_file() -> None:
    pairs = [PairRow(f"p{n % 17}", f"c{n}", f"r{n}") for n in range(60)]
    assert pair_sides(pairs[::-1], 1, "safety") == pair_sides(pairs, 1, "safety")[::-1]


def test_people_are_drawn_by_seed_and_a_quarter_is_unseen() -> None:
    ids = [f"u{n}" for n in range(100)]
    drawn = draw_people(ids, {"u3": "north"}, 40, "unseen_people", 1)
    assert drawn == draw_people(ids[::-1], {"u3": "north"}, 40, "unseen_people", 1)
    assert len(drawn) == 40
    assert sum(person.split == "unseen" for person in drawn) == 10
    assert all(person.split == "train" for person in draw_people(ids, {}, 40, "warm", 1))
    assert [one.id for one in draw_people(ids, {}, 40, "warm", 1)] == [one.id for one in drawn]
    assert {one.group for one in draw_people(ids, {"u3": "north"}, 100, "warm", 1)} == {None, "north"}
