"""One row of a preference file into one pair: the column forms of TRL, and hh-rlhf dialogues.

Accepted (Hugging Face TRL, "Dataset formats and types"): standard and conversational preference rows,
each with an explicit prompt or with the prompt as the common beginning of `chosen` and `rejected`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from commonground.comparisons import MAX_TEXT
from commonground.data.dialogue import Turn, render, split_dialogues
from commonground.data.feedback import BadRows
from commonground.data.reading import check_map, nothing_usable, resolve_columns

NEEDED = ("chosen", "rejected")
OPTIONAL = ("prompt", "person", "group")
SILENT = "dialogues in which one of the two last replies is empty"


@dataclass(frozen=True, slots=True)
class PairRow:
    """A usable row; `person` and `group` are None where the file does not say."""

    prompt: str
    chosen: str
    rejected: str
    person: str | None = None
    group: str | None = None


class RowError(ValueError):
    """Why a row cannot be used; always caught and counted. `silent`: readable, but a reply is empty."""

    def __init__(self, reason: str, value: object = "", *, silent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = str(value)
        self.silent = silent


def _messages(name: str, value: list[Any]) -> list[Turn]:
    said: list[Turn] = []
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RowError(f"{name} is a list, but not of {{role, content}} messages", message)
        if not isinstance(message.get("content"), str):
            raise RowError(f"{name} has a message whose content is not a text", message.get("content"))
        said.append((message["role"], message["content"]))
    return said


def _reply(dialogue: list[Turn]) -> str:
    """The text of an answer: its words alone when it is one turn of the assistant."""
    if len(dialogue) == 1 and dialogue[0][0] == "assistant":
        return dialogue[0][1]
    return render(dialogue)


def check_text(name: str, value: object, *, empty: bool = False) -> str:
    """A checked text; the reasons are worded without the value so that equal faults count together."""
    if value is None:
        raise RowError(f"{name} is missing")
    if not isinstance(value, str):
        raise RowError(f"{name} is not a text", value)
    if len(value) > MAX_TEXT:
        raise RowError(f"{name} has more than {MAX_TEXT:,} characters", f"{len(value):,} characters")
    if not empty and not value.strip():
        raise RowError(f"{name} is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError(f"{name} is not valid Unicode", repr(value[error.start])) from error
    return value


def check_label(name: str, value: object) -> str | None:
    """A person id or group: a text or a whole number; nothing where it is absent."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError(f"{name} is not a text or a whole number", value)
    return check_text(name, str(value)).strip()


def to_pair(row: Mapping[str, Any], names: Mapping[str, str]) -> PairRow:
    """One row as a pair.

    Args:
        row: the row as read.
        names: our column names -> the row's.

    Raises:
        RowError: with the reason for the count.
    """
    prompt, chosen, rejected = (row.get(names[n]) if n in names else None for n in ("prompt", *NEEDED))
    split_reply = False
    if isinstance(chosen, list) and isinstance(rejected, list):
        left, right = _messages("chosen", chosen), _messages("rejected", rejected)
        shared = 0
        while shared < min(len(left), len(right)) - 1 and left[shared] == right[shared]:
            shared += 1
        before = left[:shared]
        if isinstance(prompt, list):
            asked = _messages("prompt", prompt)
            before = asked if before == asked else asked + before
            prompt = render(before)
        elif prompt is None or prompt == "" or (before and prompt == render(before)):
            prompt = render(before)
        elif isinstance(prompt, str) and before:
            prompt = render([("user", prompt), *before])
        chosen, rejected = _reply(left[shared:]), _reply(right[shared:])
    elif prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        parts = split_dialogues(chosen, rejected)
        if parts is not None:
            prompt, chosen, rejected = parts
            split_reply = True
    elif isinstance(prompt, list):
        prompt = render(_messages("prompt", prompt))
    if split_reply and not (chosen and rejected):
        raise RowError(SILENT, silent=True)
    pair = PairRow(
        prompt=check_text("prompt", "" if prompt is None else prompt, empty=True),
        chosen=check_text("chosen", chosen),
        rejected=check_text("rejected", rejected),
        person=check_label("person", row.get(names["person"]) if "person" in names else None),
        group=check_label("group", row.get(names["group"]) if "group" in names else None),
    )
    if pair.chosen.strip() == pair.rejected.strip():
        raise RowError("chosen and rejected are the same text", pair.chosen)
    return pair


def to_pairs(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    columns: Mapping[str, str],
    bad: BadRows,
    place: str,
) -> tuple[list[PairRow], Counter[str]]:
    """Rows as pairs; what cannot be used is counted.

    Args:
        rows: (place, row).
        columns: our column names -> the file's.
        bad: counts the rows that cannot be read.
        place: the file or data set, for messages.

    Returns:
        The pairs in file order, and the reasons why readable rows were left out.

    Raises:
        DataError: a needed column is in no row, or no row is usable.
    """
    check_map(columns, [*NEEDED, *OPTIONAL], place)
    names = {ours: columns.get(ours, ours) for ours in (*NEEDED, *OPTIONAL)}
    pairs: list[PairRow] = []
    left_out: Counter[str] = Counter()
    found: dict[str, None] = {}
    for at, row in rows:
        found.update(dict.fromkeys(row))
        try:
            pair = to_pair(row, names)
        except RowError as error:
            if error.silent:
                left_out[error.reason] += 1
            else:
                bad.add(at, error.reason, error.value)
        else:
            pairs.append(pair)
    if found:  # a column that no row has is one fault of the file, not one a row
        resolve_columns(columns, list(found), needed=NEEDED, optional=OPTIONAL, place=place)
    if not pairs:
        raise nothing_usable(place, bad)
    return pairs, left_out
