"""Comparisons as they come, split by prompt and given to people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from commonground.comparisons import Comparison, Person
from commonground.data.feedback import FEWER, IDLE, BadRows, Note, TagFeedback
from commonground.data.request import Request, Side
from commonground.data.rows import PairRow
from commonground.data.splits import draw_people, normalise, pair_sides
from commonground.randomness import generator


def share_out(
    rows: Sequence[PairRow], ask: Request, bad: BadRows, left_out: Counter[str], unit: str
) -> TagFeedback:
    """Split pairs by prompt and give every one to one person.

    Pairs with a person stay with that person. Pairs without are dealt out disjointly by seed, to the
    owners or to invented people p00001, p00002, ... Safety pairs to train on are dealt only to people
    who take part in shared training: nobody else could use them.

    Args:
        rows: usable pairs in file order.
        ask: what the run wants.
        bad: bad rows so far.
        left_out: reasons so far; extended in the result, not in place.
        unit: what one comparison is, in words.
    """
    left_out = Counter(left_out)
    rows = _without_repeats(rows, left_out)
    rows, notes = _both_ways(rows, left_out)
    if any(row.person is not None for row in rows) and not all(row.person is not None for row in rows):
        left_out["rows without a person in a file that names people"] = sum(r.person is None for r in rows)
        rows = [row for row in rows if row.person is not None]
    sides = pair_sides(rows, ask.seed, ask.tag)
    if straddling := sides.count(None):
        left_out["pairs with one answer on each side of the split"] = straddling
    owned = rows[0].person is not None
    people, held = _keep(rows, sides, ask, left_out) if owned else _deal(rows, sides, ask, left_out)
    lists: dict[Side, list[Comparison]] = {"train": [], "test": []}
    for side, cap in ask.caps:
        for person in people:
            mine = held[side].get(person.id, [])
            if len(mine) > cap:
                left_out[f"{side} pairs beyond the cap of {cap} a person"] += len(mine) - cap
                order = generator(ask.seed, "data", ask.tag, side, person.id).permutation(len(mine))
                mine = [mine[index] for index in order[:cap]]
            lists[side] += [
                Comparison(row.prompt, row.chosen, row.rejected, ask.tag, person.id) for row in mine
            ]
    return TagFeedback(
        people=people,
        train=tuple(lists["train"]),
        test=tuple(lists["test"]),
        catalogue=(),
        bad_rows=bad,
        left_out=dict(left_out),
        unit=unit,
        notes=notes,
    )


Held = dict[Side, dict[str, list[PairRow]]]


def _without_repeats(rows: Sequence[PairRow], left_out: Counter[str]) -> list[PairRow]:
    seen: dict[tuple[str, str, str, str | None], PairRow] = {}
    for row in rows:
        key = (normalise(row.prompt), normalise(row.chosen), normalise(row.rejected), row.person)
        seen.setdefault(key, row)
    if len(seen) < len(rows):
        left_out["repeats of a comparison"] = len(rows) - len(seen)
    return list(seen.values())


def _both_ways(rows: Sequence[PairRow], left_out: Counter[str]) -> tuple[Sequence[PairRow], tuple[Note, ...]]:
    """What one person said both ways: the newest where rows have a time, else both, and a note."""
    said: dict[tuple[str | None, str, frozenset[str]], list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        if row.person is not None:
            answers = frozenset((normalise(row.chosen), normalise(row.rejected)))
            said[row.person, normalise(row.prompt), answers].append(at)
    both = [places for places in said.values() if len(places) > 1]
    if not both:
        return rows, ()
    timed = [places for places in both if all(rows[at].time is not None for at in places)]
    old: set[int] = set()
    for places in timed:
        newest = max(places, key=lambda at: (rows[at].time or 0.0, at))
        old |= set(places) - {newest}
    notes: tuple[Note, ...] = ()
    if old:
        left_out["earlier answers of a person who later said the opposite"] = len(old)
    if len(both) > len(timed):
        count = len(both) - len(timed)
        notes = (Note(f"pairs about which one person said both: {count} (both are kept: no row has a time)"),)
    return [row for at, row in enumerate(rows) if at not in old], notes


def _keep(
    rows: Sequence[PairRow], sides: Sequence[Side | None], ask: Request, left_out: Counter[str]
) -> tuple[tuple[Person, ...], Held]:
    """Every pair stays with the person the file names."""
    train: defaultdict[str, list[PairRow]] = defaultdict(list)
    test: defaultdict[str, list[PairRow]] = defaultdict(list)
    groups: dict[str, str] = {}
    for row, side in zip(rows, sides, strict=True):
        person = row.person or ""
        if row.group is not None:
            groups.setdefault(person, row.group)
        if side is not None:
            (train if side == "train" else test)[person].append(row)
    named = set(train) | set(test)
    if ask.owners is not None:
        people = tuple(owner for owner in ask.owners if owner.id in named)
        ids = {owner.id for owner in people}
        if others := sum(row.person not in ids for row in rows):
            left_out["pairs of people who are not in this run"] = others
    else:
        if idle := len(named - set(train)):
            left_out["people without a train pair"] = idle
        people = draw_people(train, groups, ask.people, ask.split, ask.seed)
        if len(train) > ask.people:
            left_out["usable people beyond the number asked for"] = len(train) - ask.people
        elif len(train) < ask.people:
            left_out[FEWER] = ask.people - len(train)
    return people, {"train": train, "test": test}


def _deal(
    rows: Sequence[PairRow], sides: Sequence[Side | None], ask: Request, left_out: Counter[str]
) -> tuple[tuple[Person, ...], Held]:
    """Pairs without a person, dealt out one at a time in a seeded order, so counts differ by one at most."""
    if any(row.group is not None for row in rows):
        left_out["groups of pairs without a person"] = sum(row.group is not None for row in rows)
    everybody = (
        ask.owners
        if ask.owners is not None
        else draw_people([f"p{n:05d}" for n in range(1, ask.people + 1)], {}, ask.people, ask.split, ask.seed)
    )
    held: Held = {"train": defaultdict(list), "test": defaultdict(list)}
    for side, cap in ask.caps:
        takers = [p for p in everybody if side == "test" or ask.tag == "taste" or p.split == "train"]
        pile = [row for row, where in zip(rows, sides, strict=True) if where == side]
        order = generator(ask.seed, "data", ask.tag, "deal", side).permutation(len(pile))
        for turn, index in enumerate(order[: cap * len(takers)]):
            held[side][takers[turn % len(takers)].id].append(pile[index])
        if beyond := max(len(pile) - cap * len(takers), 0):
            left_out[f"{side} pairs beyond the cap of {cap} a person"] = beyond
    if ask.owners is not None:
        return tuple(p for p in everybody if p.id in held["train"] or p.id in held["test"]), held
    # an unseen person may have nothing to train on: safety is learned in shared training only
    people = tuple(
        p for p in everybody if p.id in held["train"] or (p.split == "unseen" and p.id in held["test"])
    )
    if len(people) < len(everybody):
        left_out[IDLE] = len(everybody) - len(people)
        ids = {person.id for person in people}
        if stranded := sum(len(mine) for one, mine in held["test"].items() if one not in ids):
            left_out["test pairs of people without a train pair"] = stranded
    return people, held
