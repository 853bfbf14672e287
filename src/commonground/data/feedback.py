"""What a source of comparisons hands over, and how its bad rows are counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commonground.comparisons import Comparison, Person

# Reasons of `left_out` that are no loss: a run asked for more people than there are.
FEWER = "people asked for that the source does not have"
IDLE = "people asked for who get no train pair"
SHOWN = 20  # bad rows kept with their place; the rest is only counted


@dataclass
class BadRows:
    """Rows that could not be used: all counted, the first `SHOWN` with place and reason."""

    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def add(self, place: str, reason: str, value: str = "") -> None:
        """Count one bad row.

        Args:
            place: file name and line, e.g. ``ratings.csv.gz:17``.
            reason: what is wrong, the same words for the same fault.
            value: the value found, shortened for display.
        """
        self.count += 1
        self.reasons[reason] += 1
        if len(self.first) < SHOWN:
            self.first.append(f"{place}: {reason}" + (f" (found {value[:60]!r})" if value else ""))

    def in_order(self) -> None:
        """Put the places in the order of the file: what is no row is found before what is no pair."""
        self.first.sort(key=_place)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for result.json."""
        return {"count": self.count, "reasons": dict(self.reasons), "first": list(self.first)}


def _place(line: str) -> tuple[str, int]:
    """(file, number) of a bad row as `BadRows.add` writes it."""
    found = re.match(r"(.*?)[:\[](\d+)\]?: ", line)
    return (found[1], int(found[2])) if found else (line, 0)


@dataclass(frozen=True)
class Note:
    """What a reader of a result has to be told of its source.

    Attributes:
        text: one line.
        loud: it is said before the run, and above its numbers.
        about: what it is about, where a program asks: `columns` that nothing read.
    """

    text: str
    loud: bool = False
    about: str = ""


def loud_notes(notes: Mapping[str, Sequence[Note]]) -> list[str]:
    """The loud notes of every tag, each with its tag."""
    return [f"data.{tag}: {note.text}" for tag, some in notes.items() for note in some if note.loud]


@dataclass(frozen=True)
class TagFeedback:
    """Comparisons of one tag, already split so that nothing leaks from train to test.

    Attributes:
        people: everybody who has at least one comparison here, in a seeded order.
        train: comparisons to learn from; at most the public cap a person.
        test: held-out comparisons.
        catalogue: public texts of the source (an item catalogue), or empty; bases may be built from it.
        bad_rows: rows that could not be read.
        left_out: reason -> how many people or rows were left out for it.
        unit: in words, what one comparison is made of, for the privacy statement.
        notes: what a reader of the result has to be told.
    """

    people: tuple[Person, ...]
    train: tuple[Comparison, ...]
    test: tuple[Comparison, ...]
    catalogue: tuple[str, ...]
    bad_rows: BadRows
    left_out: dict[str, int]
    unit: str
    notes: tuple[Note, ...] = ()
