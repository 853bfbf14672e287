"""What a participant brings along: her old votes from a file of hers, looked at before anything is kept."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonground.client.feedback import UNDECIDED
from commonground.comparisons import TAGS, Tag
from commonground.data.feedback import BadRows
from commonground.data.hub import read_source
from commonground.data.reading import readable
from commonground.data.request import SourceSpec
from commonground.errors import DataError, InputError

if TYPE_CHECKING:
    from commonground.client.owner import OwnerClient

EXPORT = ("comparisons.jsonl", "undecided.jsonl")  # of `device export`
MOST = 1 << 28  # bytes of one file of an export, unpacked
SHOWN = 3
PAGE = 200
EVERY = 100  # comparisons between two words of progress


@dataclass(frozen=True)
class Vote:
    """One thing that she said: `verdict` is `first` (better), `tie` or `both bad`."""

    prompt: str
    first: str
    second: str
    tag: Tag
    verdict: str = "first"
    why: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it the same as one that the device has."""
        return self.prompt, self.first, self.second, self.verdict


@dataclass(frozen=True)
class Brought:
    """What a file holds for her.

    Attributes:
        votes: in the file's order, each once.
        people: whom the file names, with their numbers of comparisons.
        words: how it was read, and what is worth a word.
        left_out: reasons why readable rows are not here.
        bad: rows that cannot be read.
    """

    votes: list[Vote]
    people: Counter[str] = field(default_factory=Counter)
    words: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    bad: BadRows = field(default_factory=BadRows)


def look(
    path: Path,
    *,
    tag: Tag = "taste",
    person: str = "",
    columns: Mapping[str, str] | None = None,
    verdicts: Mapping[str, str] | None = None,
    preset: str = "",
) -> Brought:
    """Read a file of comparisons of hers; nothing is kept.

    Args:
        path: `device export`'s own zip, or any file that a run reads (docs/data.md).
        tag: what the comparisons are about where the file does not say.
        person: who she is in a file that names several people.
        columns: where our values stand, as in a run's `data.<tag>`.
        verdicts: what a verdict says, likewise.
        preset: the shape, likewise.

    Raises:
        DataError: it cannot be read, or holds nothing.
        InputError: the file names several people and none was said, or one that it does not name.
    """
    with readable(path):
        found = _own_export(path)
        if found is None:
            found = _any_file(path, tag, person, columns or {}, verdicts or {}, preset)
    if not found.votes:
        raise DataError(f"{path} holds no comparison of yours")
    return found


def _own_export(path: Path) -> Brought | None:
    """What `device export` wrote; None where the file is no such zip."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if EXPORT[0] not in archive.namelist():
            return None
        bad = BadRows()
        votes = [vote for name in EXPORT if name in archive.namelist() for vote in _lines(archive, name, bad)]
    return Brought(list(dict.fromkeys(votes)), words=("an export of a device",), bad=bad)


def _lines(archive: zipfile.ZipFile, name: str, bad: BadRows) -> Iterator[Vote]:
    if archive.getinfo(name).file_size > MOST:
        raise DataError(f"{name} in the export is larger than {MOST >> 20} MB")
    try:
        text = archive.read(name).decode()
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{name} in the export cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        vote = _vote(row) if isinstance(row, dict) else None
        if vote is None:
            bad.add(f"{name}:{number}", "not a comparison as `device export` writes it", line)
        else:
            yield vote


def _vote(row: Mapping[str, Any]) -> Vote | None:
    first, second = row.get("chosen", row.get("first")), row.get("rejected", row.get("second"))
    verdict, tag = row.get("verdict", "first"), row.get("tag") or "taste"
    texts = (row.get("prompt"), first, second, row.get("why", ""))
    if not all(isinstance(text, str) for text in texts) or tag not in TAGS:
        return None
    if verdict not in ("first", *UNDECIDED):
        return None
    prompt, first, second, why = (str(text) for text in texts)
    return Vote(prompt, first, second, tag, str(verdict), why)


def _any_file(
    path: Path, tag: Tag, person: str, columns: Mapping[str, str], verdicts: Mapping[str, str], preset: str
) -> Brought:
    if not path.exists():
        raise DataError(f"{path} does not exist")
    spec = SourceSpec("pairs", str(path), columns, preset, verdicts=verdicts)
    read, bad, _ = read_source(spec, tag)
    parts: list[tuple[Tag, Any]] = [(tag, read.rows)]
    left_out = Counter(read.left_out)
    other: Tag = "safety" if tag == "taste" else "taste"
    if (
        read.reading is not None
        and "tag" in read.reading.names
        and left_out.pop(f"rows of the tag {other}", 0)
    ):
        mine = set(read.rows)  # rows without a tag are in both
        parts.append((other, [row for row in read_source(spec, other)[0].rows if row not in mine]))
    people = Counter(row.person for _, rows in parts for row in rows if row.person is not None)
    if person and person not in people:
        raise InputError(f"{path} names no {person!r}; it names {_some(people)}")
    if len(people) > 1 and not person:
        raise InputError(
            f"{path} holds comparisons of {len(people)} people: {_some(people)}",
            hint="say who you are in it: --person NAME",
        )
    votes = [
        Vote(row.prompt, row.chosen, row.rejected, about)
        for about, rows in parts
        for row in rows
        if not person or row.person == person
    ]
    if person:
        left_out["comparisons of other people"] = people.total() - people[person]
    shape = read.reading.shape.says if read.reading else "PRISM's utterances"
    notes = tuple(note.text for note in read.notes if note.about != "people")
    return Brought(list(dict.fromkeys(votes)), people, (shape, *notes), +left_out, bad)


def _some(people: Counter[str]) -> str:
    some = ", ".join(f"{name} ({count})" for name, count in people.most_common(5))
    return some + (" ..." if len(people) > 5 else "") if people else "nobody"


def new_votes(owner: OwnerClient, found: Brought) -> list[Vote]:
    """Those that the device does not have yet."""
    known: set[tuple[str, str, str, str]] = set()
    offset = 0
    while True:
        page = owner.comparisons(offset, PAGE)
        for item in page["items"]:
            verdict = "first" if item["verdict"] == "better" else item["verdict"]
            known.add((item["prompt"], item["chosen"], item["rejected"], verdict))
        offset += len(page["items"])
        if not page["items"] or offset >= page["total"]:
            return [vote for vote in found.votes if vote.key not in known]


def in_words(
    found: Brought, new: list[Vote], status: Mapping[str, Any], ledger: Mapping[str, Any]
) -> list[str]:
    """What she is shown before she decides."""
    tags = Counter(vote.tag if vote.verdict == "first" else "undecided" for vote in new)
    counts, cap = status["comparisons"], status["comparisons"]["cap"]
    lines = [f"read as: {found.words[0]}" if found.words else "", *found.words[1:]]
    lines += [f"left out: {reason}: {count}" for reason, count in found.left_out.items()]
    if found.bad.count:
        lines.append(f"not readable: {found.bad.count}, the first: {found.bad.first[0]}")
    if len(new) < len(found.votes):
        lines.append(f"already here: {len(found.votes) - len(new)}")
    lines.append(f"new: {', '.join(f'{count} {tag}' for tag, count in sorted(tags.items())) or 'nothing'}")
    for vote in new[:SHOWN]:
        lines.append(
            f"  {_short(vote.prompt) or '(no prompt)'}: {_short(vote.first)} | {_short(vote.second)}"
        )
    private = ledger.get("private") or {}
    lines.append(
        f"You have {counts['safety']} about safety and {counts['taste']} about taste; of each at most {cap} "
        "count in what this device learns and sends. Importing sends nothing and costs no privacy by itself: "
        "what is learned from them is charged as always, within your caps"
        + (f" (private adapter: epsilon {private['cap']:g})." if private.get("cap") is not None else ".")
    )
    return [line for line in lines if line]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def keep(owner: OwnerClient, votes: list[Vote], say: Callable[[str], None]) -> int:
    """Keep them, one after the other; what an interruption left out is found and kept by the next import.

    Returns:
        How many were kept.
    """
    for number, vote in enumerate(votes, start=1):
        if vote.verdict == "first":
            owner.add(vote.prompt, vote.first, vote.second, vote.tag, vote.why)
        else:
            owner.tie(vote.prompt, vote.first, vote.second, vote.verdict)
        if number % EVERY == 0:
            say(f"{number} of {len(votes)} kept")
    return len(votes)
