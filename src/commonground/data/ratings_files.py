"""The files of a rating table: which they are, where their columns stand, and the texts of the items."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from commonground.data.columns import PEOPLE
from commonground.data.containers import Container, is_data_name, recognise, rows_of, text_of
from commonground.data.feedback import BadRows, Note
from commonground.data.reading import csv_rows, nothing_usable, readable, resolve_columns
from commonground.data.rows import check_text, when
from commonground.data.splits import normalise
from commonground.data.values import RowError, absent, as_name, number, plain_name
from commonground.errors import DataError

Ints = npt.NDArray[np.int64]

TABLES = ("ratings",)
ITEMS = ("items", "movies")
NEEDED = ("person", "item", "rating")
OPTIONAL = ("group", "time", "text")
UNKNOWN, UNUSABLE = -1, -2  # item indices of ids that no line defines, and of ids whose text is bad
# What columns are called elsewhere, compared without case and signs.
ALIASES: dict[str, tuple[str, ...]] = {
    "person": PEOPLE,
    "item": (
        *("item", "itemid", "movieid", "jokeid", "productid", "bookid", "isbn", "statementid", "commentid"),
        *("textid", "questionid"),
    ),
    "rating": ("rating", "score", "stars", "vote", "value", "points"),
    "group": ("group",),
    "time": ("time", "timestamp", "date"),
    "text": ("text", "title", "statement", "joke", "comment", "commentbody", "content", "body", "name"),
}
MOVIELENS = ("person", "item", "rating", "time")  # of ratings.dat, which has no header
SHARE = 0.5  # of a matrix's columns that must be items of the item file


@dataclass(frozen=True)
class Columns:
    """The columns of n rows: person and item as positions in `people` and `items`, the rest as found.

    Attributes:
        people: names in one Unicode form; '' where there is none.
        items: as `people`.
        lines: (n,) line of each row.
        person: (n,) positions in `people`.
        item: (n,) positions in `items`.
        given: (n,) ratings as texts.
        groups: (n,), or empty.
        times: (n,) seconds, NaN where a row has none; or empty.
        texts: item -> text, where the table itself has a column of texts.
        notes: what a reader has to be told.
    """

    people: list[str]
    items: list[str]
    lines: array[int]
    person: Ints
    item: Ints
    given: list[str]
    groups: list[str]
    times: list[float]
    texts: dict[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


def rating_files(path: Path) -> tuple[Path, Path | None]:
    """The table and the file of its items, which is None where the table must hold the texts itself.

    Raises:
        DataError: nothing there, or none or several of a kind.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist",
            hint="source=ratings needs a folder with ratings.csv and items.jsonl, or a table with a text",
        )
    if not path.is_dir():
        return path, _one_of(path.parent, ITEMS)
    table = _one_of(path, TABLES)
    if table is None:
        raise _not_one(path, TABLES)
    return table, _one_of(path, ITEMS)


def _one_of(folder: Path, stems: tuple[str, ...]) -> Path | None:
    """The one file of a folder with one of these names and an ending of data; None = there is none."""
    found = [
        entry
        for entry in sorted(folder.iterdir())
        if entry.is_file() and is_data_name(entry) and entry.name.lower().split(".")[0] in stems
    ]
    if len(found) > 1:
        raise _not_one(folder, stems)
    return found[0] if found else None


def _not_one(folder: Path, stems: tuple[str, ...]) -> DataError:
    accepted = " or ".join(f"{stem}.csv" if stem in TABLES else f"{stem}.jsonl" for stem in stems)
    listing = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    return DataError(f"{folder} needs one file, {accepted} (or of another form); found: {listing}")


def _named(columns: Mapping[str, str], header: Sequence[str]) -> dict[str, str]:
    """Our names -> the table's: the user's, our own, or one that it is called elsewhere."""
    plain = {plain_name(name): name for name in reversed(header)}
    names = {}
    for ours, others in ALIASES.items():
        if ours in columns:
            names[ours] = columns[ours]
        elif ours in header:
            names[ours] = ours
        elif other := next((plain[one] for one in others if one in plain), None):
            names[ours] = other
    return names


def _titled(path: Path, bad: BadRows) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table with a header before them, which MovieLens' .dat files lack."""
    rows = csv_rows(path, bad)
    first = next(rows, None)
    if first is None:
        return
    bare = len(first[1]) in (3, 4) and all(number(field) is not None for field in first[1])
    if bare:
        yield 0, list(MOVIELENS[: len(first[1])])
    yield from chain([first], rows)


def read_columns(path: Path, items: Path | None, columns: Mapping[str, str], bad: BadRows) -> Columns:
    """Every row of the table that has the right number of fields.

    Args:
        path: the table.
        items: the file of the items, from which a matrix is recognised.
        columns: the user's map.
        bad: counts the rows that cannot be read.

    Raises:
        DataError: it has no row, or not the columns.
    """
    with readable(path):
        numbered = _titled(path, bad)
        header = [name.strip() for name in next(numbered, (0, []))[1]]
        if not header:
            raise nothing_usable(str(path), bad)
        names = _named(columns, header)
        notes: tuple[Note, ...] = ()
        if "item" not in columns and not ("item" in names and "rating" in names) and items is not None:
            wide = _matrix(header, items, names.get("person"))
            if wide is not None:
                at_person, places = wide
                notes = (Note(f"a matrix: {len(places)} columns are items, one row is one person"),)
                names = {"person": "person", "item": "item", "rating": "rating"}
                numbered = _long(numbered, at_person, places)
                header = list(NEEDED)
        here = {ours: name for ours, name in names.items() if ours in columns or name in header}
        names = resolve_columns(here, header, needed=NEEDED, optional=OPTIONAL, place=str(path))
        renamed = {ours: name for ours, name in names.items() if ours != name and ours not in columns}
        if renamed:
            words = ", ".join(f"{ours} = {name}" for ours, name in renamed.items())
            notes = (*notes, Note(f"columns recognised by their names: {words}"))
        unused = [name for name in header if name not in names.values()]
        if unused:
            notes = (*notes, Note(f"columns that are not read: {', '.join(unused[:12])}"))
        return _collected(numbered, {ours: header.index(name) for ours, name in names.items()}, notes)


def _collected(
    rows: Iterable[tuple[int, list[str]]], at: Mapping[str, int], notes: tuple[Note, ...]
) -> Columns:
    """The columns of numbered rows, given where each of ours stands."""
    people: dict[str, int] = {}
    items: dict[str, int] = {}
    # arrays, and no row kept: hundreds of thousands of small lists would keep the garbage collector busy
    lines, person, item = array("q"), array("q"), array("q")
    given: list[str] = []
    groups: list[str] = []
    times: list[float] = []
    texts: dict[str, str] = {}
    at_person, at_item, at_rating = (at[name] for name in NEEDED)
    at_group, at_time, at_text = at.get("group"), at.get("time"), at.get("text")
    for line, row in rows:
        lines.append(line)
        person.append(people.setdefault(row[at_person], len(people)))
        item.append(items.setdefault(row[at_item], len(items)))
        given.append(row[at_rating])
        if at_group is not None:
            groups.append(row[at_group].strip())
        if at_time is not None:
            seconds = when(row[at_time])
            times.append(math.nan if seconds is None else seconds)
        if at_text is not None and row[at_item] not in texts:
            texts[row[at_item]] = row[at_text]
    named, person_at = _names("person", people, person)
    known, item_at = _names("item", items, item)
    return Columns(
        named, known, lines, person_at, item_at, given, groups, times,
        {_name("item", raw): text for raw, text in texts.items()}, notes,
    )  # fmt: skip


def _name(kind: str, raw: str) -> str:
    try:
        return as_name(kind, raw) or ""
    except RowError:
        return ""


def _names(kind: str, raw: Mapping[str, int], places: array[int]) -> tuple[list[str], Ints]:
    """Names in one form, each once, and the places of the rows in them."""
    known: dict[str, int] = {}
    to = [known.setdefault(_name(kind, text), len(known)) for text in raw]
    return list(known), np.array(to, dtype=np.int64)[np.frombuffer(places, dtype=np.int64)]


def _matrix(
    header: Sequence[str], items: Path, person: str | None
) -> tuple[int | None, dict[int, str]] | None:
    """Where a matrix has its person, and the columns that are items; None = it is no matrix."""
    ids = {item for item, _ in _item_texts(items, BadRows())}
    places = {at: name for at, name in enumerate(header) if name in ids}
    if len(places) < 2 or len(places) < SHARE * len(ids):
        return None
    rest = [at for at in range(len(header)) if at not in places]
    at_person = header.index(person) if person in header else rest[0] if len(rest) == 1 else None
    return at_person, places


def _long(
    rows: Iterable[tuple[int, list[str]]], at_person: int | None, places: Mapping[int, str]
) -> Iterator[tuple[int, list[str]]]:
    """A matrix as rows of person, item, rating; empty cells are none. Without ids, a row is a person."""
    for count, (line, row) in enumerate(rows, start=1):
        person = row[at_person] if at_person is not None else f"row{count:06d}"
        for at, item in places.items():
            if row[at].strip() and row[at].strip().lower() not in ("nan", "na", "null"):
                yield line, [person, item, row[at]]


def _item_texts(path: Path, bad: BadRows) -> Iterator[tuple[str, tuple[str, object]]]:
    """(id, (place, text)) of a file of items."""
    with readable(path):
        for place, row in _item_rows(path, bad):
            plain = {plain_name(name): name for name in reversed(list(row))}
            at = {
                ours: next((plain[one] for one in (ours, *ALIASES[ours]) if one in plain), None)
                for ours in ("item", "text")
            }
            at["item"] = at["item"] or plain.get("id")
            try:
                item = as_name("item", row.get(at["item"] or ""))
                if item is None:
                    raise RowError("item is missing")
            except RowError as error:
                bad.add(place, error.reason, error.value)
            else:
                yield item, (place, row.get(at["text"] or ""))


def _item_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Mapping[str, object]]]:
    container = recognise(path)
    if container.delimiter != "::":
        yield from rows_of(path, bad, container)
        return
    # movies.dat of MovieLens: no header, and Latin-1 in the older ones
    for place, fields in _dat_lines(path, container):
        if len(fields) >= 2:
            yield place, {"item": fields[0], "text": fields[1]}
        else:
            bad.add(place, "wrong number of columns (2 are needed)", "::".join(fields))


def _dat_lines(path: Path, container: Container) -> Iterator[tuple[str, list[str]]]:
    for encoding in (container.encoding, "latin-1"):
        try:
            with text_of(path, replace(container, encoding=encoding)) as file:
                lines = file.read().splitlines()
        except UnicodeDecodeError:
            continue
        for at, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path.name}:{at}", line.split("::")
        return


def read_items(path: Path | None, table: Columns, bad: BadRows) -> tuple[dict[str, int], list[str]]:
    """The texts of the items.

    Args:
        path: the file of the items; None = the table's own column of texts.
        table: the table.
        bad: counts items without a text.

    Returns:
        (item id -> index of its text, or `UNUSABLE`; texts, each once).

    Raises:
        DataError: there are none.
    """
    index: dict[str, int] = {}
    texts: list[str] = []
    seen: dict[str, int] = {}
    found: Iterable[tuple[str, tuple[str, object]]]
    if path is None:
        found = [(item, ("the table", text)) for item, text in table.texts.items() if item]
        if not found:
            raise DataError(
                "the rating table has no texts of its items; items.jsonl or a column text is needed",
                hint='items.jsonl: {"item": id, "text": ...} a line; MovieLens: movies.csv or movies.dat',
            )
    else:
        found = _item_texts(path, bad)
    for item, (place, text) in found:
        try:
            if index.get(item, UNUSABLE) != UNUSABLE:
                raise RowError("item appears a second time", item)
            index[item] = UNUSABLE
            checked = check_text("text", None if absent(text) else text)
        except RowError as error:
            bad.add(place, error.reason, error.value)
            continue
        index[item] = seen.setdefault(normalise(checked), len(texts))
        if index[item] == len(texts):
            texts.append(checked)
    if not texts:
        raise nothing_usable(str(path or "the table"), bad)
    return index, texts
