"""Rating tables, read and checked.

A folder with a table ``ratings`` (columns person, item, rating, optional group and time) and a file ``items``
(``{"item": id, "text": ...}``), each in any form of `containers`; or one table with a column of texts; or
MovieLens' ``ratings`` and ``movies``; or a matrix with a column for each item. Ratings may be on any scale.
Rows are checked column by column, because tables have hundreds of thousands of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from commonground.data.feedback import SHOWN, BadRows, Note
from commonground.data.ratings_files import UNKNOWN, UNUSABLE, rating_files, read_columns, read_items
from commonground.data.reading import nothing_usable
from commonground.data.values import case_twins

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

REASONS = (
    "",
    "person is missing",
    "item is missing",
    "rating is missing",
    "rating is not a number",
    "rating is NaN",
    "rating is not finite",
    "item is not in the item file",
    "item has no usable text",
    "person rated the item a second time",
)


@dataclass(frozen=True)
class RatingTable:
    """All usable ratings of a folder.

    Attributes:
        texts: one text an item; ids with the same normalised text are one item.
        groups: person id -> public group.
        ratings: person id -> (item indices (n,), ratings (n,)), each item once, items ascending.
        rows: rating rows in the file, bad ones included.
        bad_rows: rows of either file that could not be used.
        left_out: reasons why readable ratings were not used.
        spread: least, quartiles and most of the usable ratings, and the commonest with their counts.
        notes: what a reader has to be told.
    """

    texts: tuple[str, ...]
    groups: dict[str, str]
    ratings: dict[str, tuple[Ints, Floats]]
    rows: int
    bad_rows: BadRows
    left_out: Counter[str]
    spread: dict[str, Any]
    notes: tuple[Note, ...]


def read_ratings(path: Path, columns: Mapping[str, str], missing: Sequence[float] = ()) -> RatingTable:
    """Read a rating table and the texts of its items.

    Args:
        path: a folder with a table `ratings` and a file `items`, or one table.
        columns: our column names -> those of the table.
        missing: numbers that say that there is no rating.

    Raises:
        DataError: a file is missing, empty, without the needed columns, or without a usable row.
    """
    table, items_file = rating_files(path)
    bad = BadRows()
    in_table = BadRows()
    rated = read_columns(table, items_file, columns, in_table)
    index, texts = read_items(items_file, rated, bad)
    path = table
    people, items, given = rated.people, rated.items, rated.given
    person, item = rated.person, rated.item
    text = np.array([index.get(one, UNKNOWN) for one in items], dtype=np.int64)[item]
    rating, fault = _to_ratings(given)
    fault[(fault == 0) & (text == UNKNOWN)] = REASONS.index("item is not in the item file")
    fault[(fault == 0) & (text == UNUSABLE)] = REASONS.index("item has no usable text")
    fault[item == _position(items, "")] = REASONS.index("item is missing")
    fault[person == _position(people, "")] = REASONS.index("person is missing")
    left_out: Counter[str] = Counter()
    gone = np.zeros(len(given), dtype=np.bool_)
    for number in missing:
        means_none = (fault == 0) & (rating == number) & ~gone
        if count := np.count_nonzero(means_none):
            left_out[f"ratings of {number:g}, which means that there is none"] = int(count)
        gone |= means_none
    if rated.times:
        older = _older(np.flatnonzero((fault == 0) & ~gone), person, item, np.array(rated.times))
        if len(older):
            left_out["earlier ratings of an item that the person rated again"] = len(older)
        gone[older] = True
    usable = np.flatnonzero((fault == 0) & ~gone)
    fault[_repeats(usable, person, item)] = REASONS.index("person rated the item a second time")
    for at in np.flatnonzero(fault):
        value = {"rating": given[at], "item": items[item[at]]}
        reason = REASONS[fault[at]]
        both = f"{people[person[at]]}, {items[item[at]]}"
        in_table.add(f"{path.name}:{rated.lines[at]}", reason, value.get(reason.split()[0], both))

    usable = np.flatnonzero((fault == 0) & ~gone)
    if not len(usable):
        raise nothing_usable(str(path), in_table)
    again = _repeats(usable, person, text)
    if len(again):
        left_out["second ratings of one text under two item ids"] = len(again)
        usable = np.setdiff1d(usable, again)
    rows = len(given) + in_table.count - np.count_nonzero(fault)
    groups: dict[str, str] = {}
    if rated.groups:
        groups = _groups([people[person[at]] for at in usable], [rated.groups[at] for at in usable], left_out)
    return RatingTable(
        texts=tuple(texts),
        groups=groups,
        ratings=_by_person(usable, person, text, rating, people),
        rows=int(rows),
        bad_rows=_joined(bad, in_table),
        left_out=left_out,
        spread=_spread(rating[usable]),
        notes=(*rated.notes, *_lone(rating[usable]), *_twins(people)),
    )


def _spread(rating: Floats) -> dict[str, Any]:
    """Least, quartiles and most, and the commonest values with their counts."""
    least, first, median, third, most = (float(v) for v in np.quantile(rating, (0, 0.25, 0.5, 0.75, 1)))
    values, counts = np.unique(rating, return_counts=True)
    common = sorted(zip(counts.tolist(), values.tolist(), strict=True), reverse=True)[:5]
    return {
        "least": least,
        "quartiles": [first, median, third],
        "most": most,
        "commonest": {f"{value:g}": int(count) for count, value in common},
    }


def _lone(rating: Floats) -> tuple[Note, ...]:
    """A value far from all others at one end, as codes for "not rated" are (99 beside -10 to 10)."""
    values = np.unique(rating)
    if len(values) < 4:
        return ()
    gaps = np.diff(values)
    notes = []
    for far, gap, rest in ((values[-1], gaps[-1], gaps[:-1]), (values[0], gaps[0], gaps[1:])):
        inner = float(rest.sum())
        usual = far in (-1, -99, -999, 0, 99, 999, -9, 9, 9999) and gap > 1.5 * float(rest.max())
        if gap > inner or usual:
            count = int(np.count_nonzero(rating == far))
            notes.append(
                Note(
                    f"{count} ratings are {far:g}, far from all others; if that means there is none, set "
                    f"data.taste.missing=[{far:g}]",
                    loud=True,
                )
            )
    return tuple(notes)


def _twins(people: Sequence[str]) -> tuple[Note, ...]:
    twins = case_twins(person for person in people if person)
    if not twins:
        return ()
    some = "; ".join(", ".join(map(repr, same)) for same in twins[:3])
    return (Note(f"{len(twins)} people have ids that differ only by case or form: {some}", loud=True),)


def _older(rows: Ints, person: Ints, item: Ints, times: Floats) -> Ints:
    """Those of `rows` whose person rated the item again later; rows without a time are the oldest."""
    if not len(rows):
        return rows
    when = np.nan_to_num(times[rows], nan=-np.inf)
    order = rows[np.lexsort((rows, when, item[rows], person[rows]))]
    same = (person[order[1:]] == person[order[:-1]]) & (item[order[1:]] == item[order[:-1]])
    later = ~np.isnan(times[order[1:]])
    return np.sort(order[:-1][same & later])


def _position(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else UNKNOWN


def _to_ratings(given: Sequence[str]) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Ratings (n,) and faults (n,): positions in `REASONS`, 0 = none."""
    fault = np.zeros(len(given), dtype=np.int8)
    try:
        rating = np.array([float(value) for value in given], dtype=np.float64)
    except ValueError:  # some are not numbers: slower, one by one
        rating = np.zeros(len(given))
        for at, value in enumerate(given):
            try:
                rating[at] = float(value)
            except ValueError:
                fault[at] = REASONS.index("rating is not a number" if value.strip() else "rating is missing")
    fault[np.isnan(rating)] = REASONS.index("rating is NaN")
    fault[np.isinf(rating)] = REASONS.index("rating is not finite")
    return rating, fault


def _repeats(rows: Ints, person: Ints, item: Ints) -> Ints:
    """Those of `rows` whose person and item an earlier one already has."""
    if not len(rows):
        return rows
    keys = person[rows] * (int(item.max()) + 1) + item[rows]
    _, first = np.unique(keys, return_index=True)
    return np.delete(rows, first)


def _groups(people: Sequence[str], found: Sequence[str], left_out: Counter[str]) -> dict[str, str]:
    """The first group of each person; people with another one are counted."""
    groups: dict[str, str] = {}
    several = {
        person
        for person, group in zip(people, found, strict=True)
        if group and groups.setdefault(person, group) != group
    }
    if several:
        left_out["groups after the first of people with several"] = len(several)
    return groups


def _by_person(
    rows: Ints, person: Ints, text: Ints, rating: Floats, names: Sequence[str]
) -> dict[str, tuple[Ints, Floats]]:
    rows = rows[np.lexsort((text[rows], person[rows]))]
    starts = np.flatnonzero(np.diff(person[rows], prepend=-1))
    return {names[person[part[0]]]: (text[part], rating[part]) for part in np.split(rows, starts[1:])}


def _joined(first: BadRows, second: BadRows) -> BadRows:
    both = BadRows(first.count + second.count, first.reasons + second.reasons)
    both.first = (first.first + second.first)[:SHOWN]
    return both
