"""Rows of a preference file into pairs, whatever their shape, and what a reader has to be told about them.

Accepted are the shapes of `shapes`: preference rows as in Hugging Face TRL ("Dataset formats and types":
standard and conversational, with an explicit prompt, or conversations with the prompt as their common
beginning), hh-rlhf dialogues, two answers and a verdict, ranked answers, annotators' exports and more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from typing import Any

from commonground.comparisons import MAX_TEXT, TAGS, Tag
from commonground.data.columns import A, B, find, opened, outcome, turns_of
from commonground.data.containers import Placed
from commonground.data.dialogue import Turn, render, split_dialogues
from commonground.data.feedback import BadRows, Note
from commonground.data.folding import UNDECIDED_WORDS, Folding
from commonground.data.reading import nothing_usable
from commonground.data.shapes import Reading, Shape, read_as, says_tie
from commonground.data.values import RowError, absent, as_name, case_twins, number, plain_name
from commonground.errors import DataError

NEEDED = ("chosen", "rejected")
SILENT = "dialogues in which one of the two last replies is empty"
SAMPLE = 200  # rows from which the shape is told
LOOKED_AT = 2000  # rows from which the values of unused columns are told
ONE_SIDE = "pairs in which one answer only is written as a list or as messages"
AS_TEXT = "pairs whose answers are JSON or Python of messages, read as these"
NO_GROUP = "groups that are no text or whole number (the comparison is kept)"
CONTROL = "texts that hold the marks of a chat template"
_CONTROL = ("<|", "|>", "[INST]", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>", "<<SYS>>")
# Words in the name of a column that may say who judged.
_WHO = (
    *(
        "id",
        "user",
        "person",
        "who",
        "annot",
        "worker",
        "rater",
        "judge",
        "label",
        "member",
        "voter",
        "student",
    ),
    *("client", "customer", "account", "player", "respond", "email", "author", "participant"),
)


@dataclass(frozen=True, slots=True)
class PairRow:
    """A usable row; `person`, `group` and `time` (seconds) are None where the file does not say."""

    prompt: str
    chosen: str
    rejected: str
    person: str | None = None
    group: str | None = None
    time: float | None = None


@dataclass(frozen=True)
class Read:
    """What a source gave.

    Attributes:
        rows: the usable pairs in file order.
        left_out: reasons why readable rows were not used.
        notes: what a reader has to be told.
        reading: how the rows were read; None for PRISM's own fold.
        unused: columns that nothing read, each with what stands in it.
        seen: rows read.
    """

    rows: list[PairRow]
    left_out: Counter[str]
    notes: tuple[Note, ...] = ()
    reading: Reading | None = None
    unused: Mapping[str, str] = field(default_factory=dict)
    seen: int = 0


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


def _structured(chosen: object, rejected: object, odd: Counter[str] | None) -> tuple[object, object]:
    """Both answers with texts that are JSON or Python of messages opened, where both are."""
    sides = opened(chosen), opened(rejected)
    changed = [now is not before for now, before in zip(sides, (chosen, rejected), strict=True)]
    if not any(changed):
        return chosen, rejected
    if all(isinstance(side, list) for side in sides):
        if odd is not None:
            odd[AS_TEXT] += 1
        lists = [side for side in sides if isinstance(side, list)]
        if all(isinstance(one, Mapping) for side in lists for one in side):
            return sides
        if all(len(side) == 1 and isinstance(side[0], str) for side in lists):
            return lists[0][0], lists[1][0]
        return chosen, rejected
    if odd is not None:
        odd[ONE_SIDE] += 1
    return chosen, rejected


def of_the_tag(tag: Tag) -> str:
    """The reason why rows of the other tag are left out."""
    return f"rows of the tag {tag}"


def when(value: object) -> float | None:
    """A time in seconds: a number, or a date as ISO writes it; None = neither."""
    if isinstance(value, datetime):
        return value.timestamp()
    if (seconds := number(value)) is not None:
        return seconds
    try:
        return datetime.fromisoformat(str(value).strip().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def to_pair(row: Mapping[str, Any], names: Mapping[str, str], odd: Counter[str] | None = None) -> PairRow:
    """One row with chosen and rejected as a pair.

    Args:
        row: the row as read.
        names: our names -> paths in the row.
        odd: counts what is kept and yet worth a word.

    Raises:
        RowError: with the reason for the count.
    """
    prompt, chosen, rejected = (find(row, names[n]) if n in names else None for n in ("prompt", *NEEDED))
    if absent(prompt):
        prompt = None
    chosen, rejected = _structured(chosen, rejected, odd)
    prompt = _opened_prompt(prompt)
    left, right = turns_of("chosen", chosen), turns_of("rejected", rejected)
    split_reply = False
    if left is not None and right is not None:
        shared = 0
        while shared < min(len(left), len(right)) - 1 and left[shared] == right[shared]:
            shared += 1
        before = left[:shared]
        asked = turns_of("prompt", prompt)
        if asked is not None:
            before = asked if before == asked else asked + before
            prompt = render(before)
        elif prompt is None or (before and prompt == render(before)):
            prompt = render(before)
        elif isinstance(prompt, str) and before:
            prompt = render([("user", prompt), *before])
        chosen, rejected = _reply(left[shared:]), _reply(right[shared:])
    elif prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        parts = split_dialogues(chosen, rejected)
        if parts is not None:
            prompt, chosen, rejected = parts
            split_reply = True
    elif (asked := turns_of("prompt", prompt)) is not None:
        prompt = render(asked)
    if split_reply and not (chosen and rejected):
        raise RowError(SILENT, left_out=True)
    prompt = _with_system(row, names, prompt)
    group = None
    if "group" in names:
        try:
            group = as_name("group", find(row, names["group"]))
        except RowError:
            if odd is not None:
                odd[NO_GROUP] += 1
    pair = PairRow(
        prompt=check_text("prompt", "" if prompt is None else prompt, empty=True),
        chosen=check_text("chosen", chosen),
        rejected=check_text("rejected", rejected),
        person=_person(find(row, names["person"])) if "person" in names else None,
        group=group,
        time=when(find(row, names["time"])) if "time" in names else None,
    )
    if pair.chosen.strip() == pair.rejected.strip():
        raise RowError("chosen and rejected are the same text", pair.chosen)
    if odd is not None and any(
        mark in text for text in (pair.prompt, pair.chosen, pair.rejected) for mark in _CONTROL
    ):
        odd[CONTROL] += 1
    return pair


def _opened_prompt(prompt: object) -> object:
    """A prompt whose text is JSON or Python of messages, or of one text, as that."""
    value = opened(prompt)
    if value is prompt or not isinstance(value, list):
        return prompt
    if all(isinstance(one, Mapping) for one in value):
        return value
    return value[0] if len(value) == 1 else prompt


def _with_system(row: Mapping[str, Any], names: Mapping[str, str], prompt: object) -> object:
    """The prompt with the row's system text before it."""
    said = find(row, names["system"]) if "system" in names else None
    if not isinstance(said, str) or not said.strip():
        return prompt
    if prompt is not None and not isinstance(prompt, str):
        return prompt
    text = prompt or ""
    if text.startswith(("System:", "Human:", "Assistant:")):
        return text if text.startswith("System:") else f"System: {said.strip()}\n\n{text}"
    return render([("system", said), ("user", text)]) if text else render([("system", said)])


def _person(value: object) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    name = as_name("person", value)
    if name is None and not absent(value):
        raise RowError("person is empty", field="person")
    return None if name is None else check_text("person", name)


def _decided(row: Mapping[str, Any], reading: Reading) -> Mapping[str, Any]:
    """Two answers and a verdict as a row with chosen and rejected, under our names.

    Raises:
        RowError: the verdict says neither, or nothing that is known.
    """
    names = reading.names
    sides = {A: names["a"], B: names["b"]}
    said = outcome(find(row, names["verdict"]), reading.verdicts, row, sides)
    if said in UNDECIDED_WORDS:
        raise RowError(UNDECIDED_WORDS[said], left_out=True)
    answers = {side: find(row, path) for side, path in sides.items()}
    chosen, rejected = (A, B) if said == A else (B, A)
    context = {ours: find(row, names[ours]) for ours in _CONTEXT if ours in names}
    return {**context, "chosen": answers[chosen], "rejected": answers[rejected]}


_CONTEXT = ("prompt", "system", "person", "group", "tag", "time")
_IDENTITY = {ours: ours for ours in (*_CONTEXT, *NEEDED)}


def to_pairs(
    rows: Iterable[Placed],
    columns: Mapping[str, str],
    bad: BadRows,
    place: str,
    *,
    verdicts: Mapping[str, str] | None = None,
    tag: Tag = "taste",
    preset: str = "",
) -> Read:
    """Rows as pairs; what cannot be used is counted.

    Args:
        rows: (place, row).
        columns: our names -> paths in the file's rows, as the user says.
        bad: counts the rows that cannot be read.
        place: the file or data set, for messages.
        verdicts: the user's words of a verdict -> outcome.
        tag: safety | taste; rows that a column `tag` gives the other one are left out.
        preset: a shape by name; '' = recognise.

    Raises:
        DataError: the rows have no shape we know, a column is missing, or no row is usable.
    """
    waiting = iter(rows)
    sample = list(islice(waiting, SAMPLE))
    if not sample:
        read_as([], columns, {}, tag, place, "trl") if columns else None  # a wrong map is said first
        raise nothing_usable(place, bad)
    reading = read_as([row for _, row in sample], columns, verdicts or {}, tag, place, preset)
    look = _Look(reading)
    left_out: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    pairs: list[PairRow] = []
    every = look.watch(chain(sample, waiting))
    shape = reading.shape
    folded = shape.fold is not None
    if shape.fold is not None:
        every = shape.fold(every, Folding(reading.names, reading.verdicts, bad, left_out, tag))
    verdict = "verdict" in reading.names and not folded
    names = _IDENTITY if folded or verdict else reading.names
    for at, found in every:
        try:
            if not folded and not verdict and (reason := says_tie(found, look.told)):
                raise RowError(reason, left_out=True)
            row = _decided(found, reading) if verdict else found
            if "tag" in names and (other := find(row, names["tag"])) in TAGS and other != tag:
                raise RowError(of_the_tag(other), left_out=True)
            pairs.append(to_pair(row, names, odd))
        except RowError as error:
            if error.left_out:
                left_out[error.reason] += 1
            else:
                bad.add(at, error.reason, error.value)
                fields[error.field] += 1
    bad.in_order()
    _enough(pairs, left_out, bad, place, reading, fields)
    return Read(pairs, left_out, look.notes(pairs, odd, tag), reading, look.unused(), look.rows)


def _enough(
    pairs: Sequence[PairRow],
    left_out: Counter[str],
    bad: BadRows,
    place: str,
    reading: Reading,
    fields: Counter[str],
) -> None:
    """Refuse what gives no pair, and what names people in a form that is none for most rows."""
    if fields["person"] > len(pairs):
        count = fields["person"]
        raise DataError(
            f"{place}: in {count} rows the person cannot be read; a text or a whole number is needed",
            hint=f"first: {'; '.join(bad.first[:2])}",
        )
    if pairs:
        return
    if left_out and not bad.count:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in left_out.most_common(3))
        raise DataError(f"{place} gives no comparison: {reasons}", hint=reading.shape.beware or None)
    error = nothing_usable(place, bad)
    if fields["verdict"]:
        column, first = reading.names.get("verdict", "the verdict"), "; ".join(bad.first[:2])
        error.hint = (
            f"say what the values of {column!r} mean: verdicts={{'1': a, '2': b, '0': tie}} or "
            f"{{'<0': a, '>0': b}}; first: {first}"
        )
    raise error


class _Look:
    """Watches the rows go by: how many, which columns nothing reads, and what stands in them."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.rows = 0
        self.told: list[str] = []
        self._columns: dict[str, None] = {}
        self._values: dict[str, Counter[str]] = {}
        self._texts: dict[str, int] = {}

    def watch(self, rows: Iterable[Placed]) -> Iterator[Placed]:
        for at, row in rows:
            self.rows += 1
            if any(name not in self._columns for name in row):
                self._columns.update(dict.fromkeys(row))
                used = self._reading.used(self._columns, dict.fromkeys(self._columns))
                self.told = [name for name in self._columns if name not in used]
            if self.rows <= LOOKED_AT:
                for name in self.told:
                    if not absent(value := row.get(name)):
                        self._values.setdefault(name, Counter())[str(value)[:40]] += 1
            yield at, row

    def unused(self) -> dict[str, str]:
        """Columns that nothing read, each with how many values it has and the commonest."""
        found = {}
        for name in self.told:
            values = self._values.get(name, Counter())
            some = ", ".join(repr(value) for value, _ in values.most_common(3))
            found[name] = f"{len(values)} values, e.g. {some}" if values else "empty"
        return found

    def notes(self, pairs: Sequence[PairRow], odd: Counter[str], tag: Tag) -> tuple[Note, ...]:
        """What a reader has to be told."""
        reading = self._reading
        notes: list[Note] = []
        if reading.shape.beware:
            notes.append(Note(f"read as {reading.shape.says}: {reading.shape.beware}"))
        person = reading.names.get("person")
        found = {row.person for row in pairs if row.person is not None}
        if reading.person_by_name and found:
            words = f"people are taken from the column {person!r}, by its name (columns.person={person})"
            alone = len(found) == 1  # a model that judged, perhaps
            if alone:
                words += f"; it names {found.pop()!r} alone: columns.person= says that it names nobody"
            notes.append(Note(words, loud=alone))
        if not any(row.person is not None for row in pairs):
            guess = self._suspects()
            ask = f"; is it columns.person={guess[0]}?" if guess else ""
            where = "people are invented: no row names a person, so nothing here is personal"
            notes.append(Note(where + ask, loud=tag == "taste" or bool(guess), about="people"))
        people = dict.fromkeys(row.person for row in pairs if row.person is not None)
        if twins := case_twins(people):
            some = "; ".join(", ".join(map(repr, same)) for same in twins[:3])
            notes.append(
                Note(
                    f"{len(twins)} people whose ids differ only by case or form are several: {some}",
                    loud=True,
                )
            )
        notes += [Note(f"{what}: {count}") for what, count in odd.items() if count]
        return tuple(notes)

    def _suspects(self) -> list[str]:
        """Unused columns that repeat as ids of people do, most values first."""
        found = {}
        for name, values in self._values.items():
            count = values.total()
            if 2 <= len(values) <= count / 2 and any(word in plain_name(name) for word in _WHO):
                found[name] = len(values)
        return sorted(found, key=found.__getitem__, reverse=True)


def shape_words(shape: Shape) -> str:
    """A shape in words, with its name."""
    return f"{shape.says} ({shape.name})"
