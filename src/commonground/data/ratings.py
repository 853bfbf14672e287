"""Rating tables into comparisons: two items that one person rated far apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from commonground.comparisons import Comparison, Person
from commonground.data.feedback import FEWER, Note, TagFeedback
from commonground.data.ratings_table import Floats, Ints, RatingTable, read_ratings
from commonground.data.request import Request, Side, SourceLike
from commonground.data.splits import COLD_SHARE, draw_people, held_out, normalise, person_test_items
from commonground.errors import DataError
from commonground.randomness import generator

Bools = npt.NDArray[np.bool_]

TOLERANCE = 1e-9  # 4.17 - 0.17 is 4 for a reader
MOST_ITEMS = 1000  # of one person and side, drawn by seed: all pairs of 50,000 items would not fit in memory


def far_apart(ratings: Floats, min_gap: float) -> tuple[Ints, Ints]:
    """Every unordered pair whose ratings differ by at least `min_gap`, once.

    Args:
        ratings: (n,) ratings of one person.
        min_gap: above 0, in rating points.

    Returns:
        Positions of the higher and of the lower rated item, (k,) each.
    """
    higher, lower = np.nonzero(ratings[:, None] - ratings[None, :] >= min_gap - TOLERANCE)
    return higher.astype(np.int64), lower.astype(np.int64)


def _drawn(
    person: str, items: Ints, ratings: Floats, texts: tuple[str, ...], ask: Request, gap: float, side: Side
) -> list[Comparison]:
    """At most the cap of one person's comparisons of one side, drawn by seed."""
    rng = generator(ask.seed, "data", ask.tag, side, person)
    if len(items) > MOST_ITEMS:
        some = np.sort(rng.permutation(len(items))[:MOST_ITEMS])
        items, ratings = items[some], ratings[some]
    higher, lower = far_apart(ratings, gap)
    chosen = rng.permutation(len(higher))[: dict(ask.caps)[side]]
    return [Comparison("", texts[items[higher[k]]], texts[items[lower[k]]], ask.tag, person) for k in chosen]


def load_ratings(spec: SourceLike, ask: Request) -> TagFeedback:
    """Comparisons from a rating table.

    Warm: 35 % of a person's items are held out and appear in no train pair of that person. Cold: 25 % of
    all items are held out from everybody. A pair has both items on one side.

    Raises:
        DataError: the folder cannot be used, or `min_gap` is not above 0.
    """
    if not 0 < spec.min_gap < float("inf"):
        raise DataError(f"{ask.place}.min_gap is {spec.min_gap}; a number above 0 is needed")
    table = read_ratings(Path(spec.path), spec.columns, spec.missing)
    left_out = Counter(table.left_out)
    cold: Bools | None = None
    if ask.split == "cold":
        names = [normalise(text) for text in table.texts]
        unseen = held_out(names, COLD_SHARE, ask.seed, "data", ask.tag, "cold")
        cold = np.array([name in unseen for name in names])

    owners = {owner.id for owner in ask.owners} if ask.owners is not None else None
    held: dict[str, Bools] = {}
    for person, (items, ratings) in table.ratings.items():
        if owners is not None and person not in owners:
            left_out["people who are not in this run"] += 1
            continue
        if np.ptp(ratings) == 0:
            left_out["people whose ratings are all equal"] += 1
            continue
        mask = cold[items] if cold is not None else person_test_items(len(items), ask.seed, ask.tag, person)
        train = ratings[~mask]
        if len(train) < 2 or np.ptp(train) < spec.min_gap - TOLERANCE:
            left_out[f"people without two train items rated {spec.min_gap:g} apart"] += 1
        else:
            held[person] = mask
    people: tuple[Person, ...]
    if ask.owners is not None:
        people = tuple(owner for owner in ask.owners if owner.id in held)
    else:
        people = draw_people(held, table.groups, ask.people, ask.split, ask.seed)
        if len(held) > ask.people:
            left_out["usable people beyond the number asked for"] = len(held) - ask.people
        elif len(held) < ask.people:
            left_out[FEWER] = ask.people - len(held)
    train_pairs: list[Comparison] = []
    test_pairs: list[Comparison] = []
    for person in (one.id for one in people):
        (items, ratings), mask = table.ratings[person], held[person]
        train_pairs += _drawn(person, items[~mask], ratings[~mask], table.texts, ask, spec.min_gap, "train")
        test_pairs += _drawn(person, items[mask], ratings[mask], table.texts, ask, spec.min_gap, "test")
    return TagFeedback(
        people=people,
        train=tuple(train_pairs),
        test=tuple(test_pairs),
        catalogue=table.texts,
        bad_rows=table.bad_rows,
        left_out=dict(left_out),
        unit=(
            f"one pair of items a person rated at least {spec.min_gap:g} points apart; one rating touches "
            "many pairs, so pair-level privacy is not rating-level privacy"
        ),
        notes=table.notes + _few(table, held, len(test_pairs), spec.min_gap, ask),
    )


def _few(
    table: RatingTable, held: Mapping[str, Bools], tests: int, gap: float, ask: Request
) -> tuple[Note, ...]:
    """A word where the gap does not fit the scale: nobody, or nobody's held-out items, lie so far apart."""
    if tests or (held and not ask.test_pairs):
        return ()
    least, most = table.spread["least"], table.spread["most"]
    who = "nobody has two held-out items" if held else "nobody has two items"
    words = f"with min_gap={gap:g} on ratings from {least:g} to {most:g} {who} so far apart"
    fits = gap_that_fits(least, most)
    fix = f"; {ask.place}.min_gap={fits:g} fits the scale" if 0 < fits < gap else ""
    return (Note(words + fix, loud=True),)


def gap_that_fits(least: float, most: float) -> float:
    """A fifth of the scale, as 4 is on Jester's -10 to 10; a whole number where that is at least 1."""
    fifth = (most - least) / 5
    return float(max(round(fifth), 1)) if most - least >= 2 else float(f"{fifth:.2g}")
