"""Rating tables, read and checked.

A folder with ``ratings.csv`` or ``ratings.csv.gz`` (columns person, item, rating, optional group) and
``items.jsonl`` (``{"item": id, "text": ...}``). Ratings may be on any scale. Rows are checked column by
column, because tables have hundreds of thousands of them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from commonground.data.feedback import SHOWN, BadRows
from commonground.data.reading import csv_rows, json_rows, nothing_usable, resolve_columns
from commonground.data.rows import RowError, check_label, check_text
from commonground.data.splits import normalise
from commonground.errors import DataError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TABLES = ("ratings.csv", "ratings.csv.gz")
ITEMS = ("items.jsonl", "items.jsonl.gz")
NEEDED = ("person", "item", "rating")
UNKNOWN, UNUSABLE = -1, -2  # item indices of ids that no line defines, and of ids whose text is bad
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
    """

    texts: tuple[str, ...]
    groups: dict[str, str]
    ratings: dict[str, tuple[Ints, Floats]]
    rows: int
    bad_rows: BadRows
    left_out: Counter[str]


def read_ratings(folder: Path, columns: Mapping[str, str]) -> RatingTable:
    """Read both files of a folder.

    Args:
        folder: holds ratings.csv or ratings.csv.gz, and items.jsonl.
        columns: our column names -> those of the rating table.

    Raises:
        DataError: a file is missing, empty, without the needed columns, or without a usable row.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist",
            hint="source=ratings needs a folder with ratings.csv (or .csv.gz) and items.jsonl",
        )
    path = _one_of(folder, TABLES)
    bad = BadRows()
    index, texts = _read_items(_one_of(folder, ITEMS), bad)
    in_table = BadRows()
    rated = _read_columns(path, columns, in_table)
    people, items, given = rated.people, rated.items, rated.given
    person, item = rated.person, rated.item
    text = np.array([index.get(one, UNKNOWN) for one in items], dtype=np.int64)[item]
    rating, fault = _to_ratings(given)
    fault[(fault == 0) & (text == UNKNOWN)] = REASONS.index("item is not in the item file")
    fault[(fault == 0) & (text == UNUSABLE)] = REASONS.index("item has no usable text")
    fault[item == _position(items, "")] = REASONS.index("item is missing")
    fault[person == _position(people, "")] = REASONS.index("person is missing")
    usable = np.flatnonzero(fault == 0)
    fault[_repeats(usable, person, item)] = REASONS.index("person rated the item a second time")
    for at in np.flatnonzero(fault):
        value = {"rating": given[at], "item": items[item[at]]}
        reason = REASONS[fault[at]]
        both = f"{people[person[at]]}, {items[item[at]]}"
        in_table.add(f"{path.name}:{rated.lines[at]}", reason, value.get(reason.split()[0], both))

    left_out: Counter[str] = Counter()
    usable = np.flatnonzero(fault == 0)
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
    )


@dataclass(frozen=True)
class _Columns:
    """The columns of n rows: person and item as positions in `people` and `items`, the rest as found."""

    people: list[str]
    items: list[str]
    lines: array[int]
    person: Ints
    item: Ints
    given: list[str]
    groups: list[str]


def _read_columns(path: Path, columns: Mapping[str, str], bad: BadRows) -> _Columns:
    """Every row of the table that has the right number of fields."""
    numbered = csv_rows(path, bad)
    header = [name.strip() for name in next(numbered, (0, []))[1]]
    if not header:
        raise nothing_usable(str(path), bad)
    names = resolve_columns(columns, header, needed=NEEDED, optional=("group",), place=str(path))
    at_person, at_item, at_rating = (header.index(names[name]) for name in NEEDED)
    at_group = header.index(names["group"]) if "group" in names else None
    people: dict[str, int] = {}
    items: dict[str, int] = {}
    # arrays, and no row kept: hundreds of thousands of small lists would keep the garbage collector busy
    lines, person, item = array("q"), array("q"), array("q")
    given: list[str] = []
    groups: list[str] = []
    for line, row in numbered:
        lines.append(line)
        person.append(people.setdefault(row[at_person].strip(), len(people)))
        item.append(items.setdefault(row[at_item].strip(), len(items)))
        given.append(row[at_rating])
        if at_group is not None:
            groups.append(row[at_group].strip())
    return _Columns(
        list(people),
        list(items),
        lines,
        np.array(person, dtype=np.int64),
        np.array(item, dtype=np.int64),
        given,
        groups,
    )


def _position(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else UNKNOWN


def _one_of(folder: Path, names: tuple[str, ...]) -> Path:
    """The one file of `names` in a folder; none or both is a `DataError`."""
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    listing = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    raise DataError(f"{folder} needs one file, {' or '.join(names)}; found: {listing}")


def _read_items(path: Path, bad: BadRows) -> tuple[dict[str, int], list[str]]:
    """(item id -> index of its text, or `UNUSABLE`; texts)."""
    index: dict[str, int] = {}
    texts: list[str] = []
    seen: dict[str, int] = {}
    for place, row in json_rows(path, bad):
        try:
            item = check_label("item", row.get("item"))
            if item is None:
                raise RowError("item is missing")
            if index.get(item, UNUSABLE) != UNUSABLE:
                raise RowError("item appears a second time", item)
            index[item] = UNUSABLE
            text = check_text("text", row.get("text"))
        except RowError as error:
            bad.add(place, error.reason, error.value)
            continue
        index[item] = seen.setdefault(normalise(text), len(texts))
        if index[item] == len(texts):
            texts.append(text)
    if not texts:
        raise nothing_usable(str(path), bad)
    return index, texts


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
