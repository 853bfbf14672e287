"""Splits that leak nothing from train to test.

Items and prompts are grouped by normalised text first, so a text under two ids is one item. The size of
every share is fixed and the draw is keyed by seed and purpose, never by file order.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from commonground.comparisons import Person
from commonground.data.dialogue import opening
from commonground.data.request import Side
from commonground.data.rows import PairRow
from commonground.randomness import generator

ITEM_SHARE = 0.35  # of one person's items are held out (warm)
COLD_SHARE = 0.25  # of all items are unseen by everybody (cold)
PROMPT_SHARE = 0.25  # of all prompts of a pair file are held out
UNSEEN_SHARE = 0.25  # of the people never take part in shared training (unseen_people)
KNOT = 8  # pairs: a smaller file whose answers all hang together is left whole


def normalise(text: str) -> str:
    """A text without differences that a reader would not see: Unicode form, case, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def held_out(keys: Iterable[str], share: float, seed: int, *name: str | int) -> frozenset[str]:
    """A seeded draw of about `share` of the distinct keys, at least one and never all of them.

    Args:
        keys: what is split, e.g. normalised texts; repeats and order do not matter.
        share: in (0, 1).
        seed: the run's seed.
        name: what the draw is for.

    Returns:
        The keys held out for test; empty when there are fewer than two keys.
    """
    known = sorted(set(keys))
    if len(known) < 2:
        return frozenset()
    count = min(max(round(share * len(known)), 1), len(known) - 1)
    order = generator(seed, *name).permutation(len(known))
    return frozenset(known[index] for index in order[:count])


def person_test_items(
    count: int, seed: int, tag: str, person: str
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of a person's items are held out: 35 % by seed, with two items always left to train on.

    Returns:
        (count,) bool.
    """
    mask = np.zeros(count, dtype=np.bool_)
    number = max(min(round(ITEM_SHARE * count), count - 2), 0)
    mask[generator(seed, "data", tag, "items", person).permutation(count)[:number]] = True
    return mask


def components(linked: Sequence[Sequence[str]]) -> list[str]:
    """For each row of node names, the name of its connected component (its smallest node)."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for nodes in linked:
        for other in nodes[1:]:
            low, high = sorted((root(nodes[0]), root(other)))
            parent[high] = low
    return [root(nodes[0]) for nodes in linked]


def pair_sides(rows: Sequence[PairRow], seed: int, tag: str) -> list[Side | None]:
    """The side of every pair of a file: prompts are split globally, so no prompt is on both sides.

    Pairs with the same prompt, or with the same opening turn (a later turn's context quotes the answer
    preferred earlier), stay together. Pairs without a prompt, or all with one and the same prompt, stay
    together when they share an answer. Where answers knit more than half of these into one knot, their
    texts are split instead and a pair with one text on each side is None: it belongs to neither.

    Args:
        rows: pairs of the file.
        seed: the run's seed.
        tag: keys the draw.

    Returns:
        A side for each row, or None.
    """
    prompts = [normalise(row.prompt) for row in rows]
    by_prompt = len(set(prompts)) > 1
    linked: list[list[str]] = []
    for row, prompt in zip(rows, prompts, strict=True):
        if prompt and by_prompt:
            linked.append([f"prompt\x1f{prompt}", f"opening\x1f{normalise(opening(row.prompt))}"])
        else:
            linked.append([f"answer\x1f{normalise(row.chosen)}", f"answer\x1f{normalise(row.rejected)}"])
    names = components(linked)
    test = held_out(names, PROMPT_SHARE, seed, "data", tag, "prompts")
    sides: list[Side | None] = ["test" if name in test else "train" for name in names]

    bare = [index for index, nodes in enumerate(linked) if nodes[0].startswith("answer")]
    if bare:
        knot, size = Counter(names[index] for index in bare).most_common(1)[0]
        if size >= KNOT and 2 * size > len(bare):
            inside = [index for index in bare if names[index] == knot]
            texts = {text for index in inside for text in linked[index]}
            unseen = held_out(texts, ITEM_SHARE, seed, "data", tag, "answers")
            for index in inside:
                held = sum(text in unseen for text in linked[index])
                sides[index] = ("train", None, "test")[held]
    return sides


def draw_people(
    ids: Iterable[str], groups: dict[str, str], number: int, split: str, seed: int
) -> tuple[Person, ...]:
    """People drawn by seed, in the drawn order; with `unseen_people` a quarter of them is marked unseen.

    Args:
        ids: everybody who could be drawn.
        groups: id -> public group, for those who have one.
        number: how many to draw; fewer are returned when fewer exist.
        split: one of `request.SPLITS`.
        seed: the run's seed.
    """
    known = sorted(set(ids))
    order = generator(seed, "data", "people").permutation(len(known))[:number]
    drawn = [known[index] for index in order]
    unseen: frozenset[str] = frozenset()
    if split == "unseen_people":
        unseen = held_out(drawn, UNSEEN_SHARE, seed, "data", "unseen")
    return tuple(Person(i, groups.get(i), "unseen" if i in unseen else "train") for i in drawn)
