"""`commonground data check PATH`: what a path is, and what a run makes of it, by the run's own loader."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from commonground.comparisons import TAGS, Comparison, Tag
from commonground.config import Config
from commonground.data.containers import FORMS, recognise, rows_of
from commonground.data.feedback import FEWER, IDLE, BadRows, TagFeedback
from commonground.data.hub import read_source
from commonground.data.ratings_files import ITEMS, TABLES, rating_files, read_columns
from commonground.data.ratings_table import read_ratings
from commonground.data.reading import readable
from commonground.data.request import SourceSpec
from commonground.data.shapes import read_as
from commonground.data.sources import load_tag
from commonground.data.splits import normalise
from commonground.embeddings import MAX_TOKENS, Encoder
from commonground.errors import DataError
from commonground.evaluation.format_probe import format_probe
from commonground.randomness import generator

SOURCES = (
    "ratings: a folder with ratings.csv (person, item, rating) and items.jsonl (item, text), or one table "
    "with a text; pairs: a file or folder with chosen and rejected, two answers and a verdict, or ranked "
    "answers; "
    f"in any of {FORMS}"
)


@dataclass(frozen=True)
class Given:
    """What the user says of a source: as `data.<tag>.*` of a run's configuration."""

    columns: Mapping[str, str] = field(default_factory=dict)
    verdicts: Mapping[str, str] = field(default_factory=dict)
    preset: str = ""
    min_gap: float | None = None
    missing: Sequence[float] = ()

    def spec(self, source: str, path: Path) -> SourceSpec:
        """The source that a run would be given."""
        gap = Config().data.taste.min_gap if self.min_gap is None else self.min_gap
        return SourceSpec(source, str(path), self.columns, self.preset, gap, self.verdicts, self.missing)

    def lines(self, source: str, path: Path, tags: Sequence[Tag], more: Mapping[str, str]) -> list[str]:
        """The words of a run's command line, quoted for a shell, a line for each tag."""
        found = []
        for tag in tags:
            words = {"source": source, "path": str(path)}
            words |= {"preset": self.preset} if self.preset else {}
            words |= {f"columns.{ours}": theirs for ours, theirs in {**more, **self.columns}.items()}
            if self.verdicts:
                words["verdicts"] = "{" + ", ".join(f"'{a}': {b}" for a, b in self.verdicts.items()) + "}"
            if self.min_gap is not None and source == "ratings":
                words["min_gap"] = f"{self.min_gap:g}"
            if self.missing:
                words["missing"] = "[" + ", ".join(f"{value:g}" for value in self.missing) + "]"
            found.append(" ".join(shlex.quote(f"data.{tag}.{key}={value}") for key, value in words.items()))
        return found


def check_path(path: Path, given: Given | None = None) -> dict[str, Any]:
    """Read a path as the source that it is, as a run would, and count.

    Args:
        path: a file or folder.
        given: what the user says of it.

    Returns:
        source, path, form (of the container), shape, used (our names -> the file's), unused (columns, with
        what stands in them), rows, usable, people (named ones; 0 = the file names nobody), run (what one with
        the default numbers keeps), bad_rows, left_out, notes, config (lines to paste), and for rating tables
        items, ratings_per_person and spread, for pairs prompts, lengths and format_probe.

    Raises:
        DataError: it does not exist, is no source we know, has no usable row, or a run would refuse it.
    """
    with readable(path):
        return _check(path, given or Given())


def _check(path: Path, given: Given) -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path} does not exist", hint=f"known sources are {SOURCES}")
    if (table := _rating_table(path, given)) is not None:
        return _check_ratings(table, given)
    return _check_pairs(path, given)


def _rating_table(path: Path, given: Given) -> Path | None:
    """The folder or table of ratings that a path is; None = it is none."""
    if given.preset or {"chosen", "rejected", "a", "b"} & set(given.columns):
        return None
    stems = {entry.name.lower().split(".")[0] for entry in path.iterdir()} if path.is_dir() else set()
    if path.is_dir():
        return path if stems & set(TABLES) and (stems & set(ITEMS) or not stems - set(TABLES)) else None
    if path.name.lower().split(".")[0] in (*TABLES, *ITEMS):
        beside = {entry.name.lower().split(".")[0] for entry in path.parent.iterdir()}
        if beside & set(TABLES) and beside & set(ITEMS):
            return path.parent
    try:
        table, items = rating_files(path)
        read_columns(table, items, given.columns, BadRows())
    except DataError:
        return None
    try:
        rows = [row for _, row in islice(rows_of(path, BadRows()), 20)]
        read_as(rows, given.columns, {}, "taste", str(path))
    except DataError:
        return path
    return None  # comparisons that somebody also rated


def _check_ratings(path: Path, given: Given) -> dict[str, Any]:
    spec = given.spec("ratings", path)
    table = read_ratings(path, given.columns, given.missing)
    feedback = _loaded(spec, "taste")
    sizes = [len(ratings) for _, ratings in table.ratings.values()]
    gaps = [np.ptp(ratings) >= spec.min_gap for _, ratings in table.ratings.values()]
    file, _ = rating_files(path)
    return {
        "source": "ratings",
        "path": str(path),
        "form": f"{file.name}: {recognise(file).words()}",
        "rows": table.rows,
        "usable": sum(sizes),
        "people": len(sizes),
        "people_with_pairs": int(sum(gaps)),
        "min_gap": spec.min_gap,
        "items": len(table.texts),
        "ratings_per_person": {
            "least": min(sizes),
            "median": float(np.median(sizes)),
            "most": max(sizes),
        },
        "spread": table.spread,
        "run": _kept(feedback),
        "bad_rows": table.bad_rows.to_dict(),
        "left_out": _left_out(feedback),
        "notes": [note.text for note in feedback.notes],
        "config": given.lines("ratings", path, ["taste"], {}),
    }


def _loaded(spec: SourceSpec, tag: Tag) -> TagFeedback:
    """What a run with the default numbers gets."""
    default = Config()
    return load_tag(
        spec,
        tag,
        people=default.people,
        pairs_per_person=default.data.pairs_per_person,
        test_pairs=default.data.test_pairs,
        split=default.data.split,
        seed=default.seed,
    )


def _left_out(feedback: TagFeedback) -> dict[str, int]:
    """What is left out of the source; that a run asks for more people than there are is no loss."""
    return {why: count for why, count in feedback.left_out.items() if why not in (FEWER, IDLE)}


def _kept(feedback: TagFeedback) -> dict[str, Any]:
    """How much of it a run keeps: people and comparisons of both sides."""
    return {
        "people": len(feedback.people),
        "train": len(feedback.train),
        "test": len(feedback.test),
        "people_with_a_test": len({pair.person for pair in feedback.test}),
    }


def _check_pairs(path: Path, given: Given) -> dict[str, Any]:
    spec = given.spec("pairs", path)
    read, bad, unit = read_source(spec, "taste")
    feedback = _loaded(spec, "taste")
    people = Counter(row.person for row in read.rows if row.person is not None)
    reading = read.reading
    plain = dict(reading.names) if reading else {}
    found = {"person": plain["person"]} if reading and reading.person_by_name else {}
    notes = [note.text for note in feedback.notes if note.about != "columns"]
    return {
        "source": "pairs",
        "path": str(path),
        "form": "a folder" if path.is_dir() else recognise(path).words(),
        "shape": reading.shape.says if reading else "PRISM's utterances",
        "unit": unit,
        "used": plain,
        "unused": dict(read.unused),
        "rows": read.seen + (bad.count if not read.seen else 0),
        "usable": len(read.rows),
        "people": len(people),
        "prompts": len({normalise(row.prompt) for row in read.rows}),
        "lengths": _lengths(feedback.train),
        "only_the_prompt_decides": _contradicted(feedback.train + feedback.test),
        "cut_by_a_reward": _cut(feedback.train + feedback.test),
        "format_probe": _probe(feedback),
        "run": _kept(feedback),
        "bad_rows": bad.to_dict(),
        "left_out": _left_out(feedback),
        "notes": notes,
        "config": given.lines("pairs", path, TAGS, found),
    }


def _lengths(pairs: Sequence[Comparison]) -> dict[str, Any]:
    """Characters of prompts and answers: median, 99th percentile and most."""
    found = {}
    for name, texts in (
        ("prompt", [pair.prompt for pair in pairs]),
        ("answer", [text for pair in pairs for text in (pair.chosen, pair.rejected)]),
    ):
        sizes = np.array([len(text) for text in texts] or [0])
        median, high = np.quantile(sizes, (0.5, 0.99))
        found[name] = {"median": int(median), "99%": int(high), "most": int(sizes.max())}
    return found


def _cut(pairs: Sequence[Comparison]) -> dict[str, int]:
    """What the packaged encoder of a reward does not read: comparisons with a cut answer, and equal then."""
    encoder = Encoder("")
    read = {text: encoder.kept_ids(text) for text in {t for p in pairs for t in (p.chosen, p.rejected)}}
    return {
        "tokens": MAX_TOKENS,
        "comparisons": len(pairs),
        "cut": sum(read[p.chosen][1] or read[p.rejected][1] for p in pairs),
        "equal_then": sum(read[p.chosen][0] == read[p.rejected][0] for p in pairs),
    }


def _probe(feedback: TagFeedback) -> dict[str, Any]:
    """How often format alone is right on what a run holds out: what a model has to beat."""
    found = format_probe(feedback.train, feedback.test, resamples=200, rng=generator(1, "check", "probe"))
    taste = found.get("taste") or {}
    return {
        name: taste[name] for name in ("accuracy", "low", "high", "longer") if taste.get(name) is not None
    }


def _contradicted(pairs: Sequence[Comparison]) -> int:
    """Comparisons whose two answers one person also preferred the other way round, after another prompt."""
    said: dict[tuple[str, str, str], int] = {}
    for pair in pairs:
        key = (pair.person, normalise(pair.chosen), normalise(pair.rejected))
        said[key] = said.get(key, 0) + 1
    return sum(count for (person, one, other), count in said.items() if (person, other, one) in said)
