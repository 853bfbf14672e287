"""`commonground data check PATH`: what a path is, what is in it, and which rows are bad."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from commonground.data import prism
from commonground.data.feedback import BadRows
from commonground.data.hub import read_hub
from commonground.data.huggingface import SUFFIXES
from commonground.data.pairs import SUFFIXES as PAIR_SUFFIXES
from commonground.data.ratings_table import TABLES, read_ratings
from commonground.data.reading import csv_rows, readable
from commonground.data.request import SourceSpec
from commonground.data.rows import NEEDED, PairRow
from commonground.data.splits import normalise
from commonground.data.tables import data_files, local_rows
from commonground.errors import DataError

FORMS = (
    "ratings: a folder with ratings.csv (person, item, rating) and items.jsonl (item, text); "
    "pairs: a .jsonl or .jsonl.gz file with chosen and rejected; "
    "hub: parquet, jsonl or csv with chosen and rejected, or PRISM's utterances"
)


def check_path(path: Path) -> dict[str, Any]:
    """Read a path as the source that it is, and count.

    Args:
        path: a file or folder.

    Returns:
        source, preset, path, rows, usable, people (0 = the file names nobody), bad_rows, left_out, config
        (the lines that use it), and for rating tables items and ratings_per_person.

    Raises:
        DataError: it does not exist, is no source we know, or has no usable row.
    """
    with readable(path):
        return _check(path)


def _check(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path} does not exist", hint=f"known sources are {FORMS}")
    if path.is_file() and path.name in TABLES:
        header = _columns(path)
        if "person" in header or "rating" in header:
            path = path.parent
    if path.is_dir() and any((path / name).is_file() for name in TABLES):
        return _check_ratings(path)
    if path.is_file() and not path.name.endswith(SUFFIXES):
        raise DataError(f"{path} is no source we know: {path.suffix or 'no ending'}", hint=FORMS)
    columns = _columns(path)
    if {"user_id", "if_chosen"} <= set(columns):
        return _check_pairs(path, "hub", "prism")
    if any(name in columns for name in NEEDED):
        files = data_files(path) if path.is_dir() else [path]
        alone = len(files) == 1 and files[0].parent in (path, path.parent)
        jsonl = files[0].name.endswith(PAIR_SUFFIXES)
        return _check_pairs(path, "pairs" if alone and jsonl else "hub", "")
    if {"person", "item", "rating"} <= set(columns):
        raise DataError(f"{path} is a rating table; it must be called {' or '.join(TABLES)}", hint=FORMS)
    raise DataError(
        f"{path} is no source we know; columns found: {', '.join(map(repr, columns)) or 'none'}; needed: "
        f"person, item, rating (ratings), chosen, rejected (pairs, hub) or "
        f"{', '.join(prism.NEEDED)} (hub, prism)",
        hint="where the names differ, set data.<tag>.columns in a run's config",
    )


def _columns(path: Path) -> list[str]:
    """The columns of the first usable row of a file, or of the PRISM table of a folder."""
    bad = BadRows()
    first = next(iter(local_rows(path, bad, "utterances")), None)
    if first is None and path.is_file() and path.name.endswith((".csv", ".csv.gz")):
        return next(csv_rows(path, bad), (0, []))[1]  # a header without rows still says what it is
    if first is None:
        if bad.count:
            raise DataError(f"{path} has no usable row: {bad.first[0]}", hint=FORMS)
        raise DataError(f"{path} is empty: it has no rows", hint=FORMS)
    return list(first[1])


def _check_ratings(path: Path) -> dict[str, Any]:
    spec = SourceSpec(source="ratings", path=str(path))
    table = read_ratings(path, {})
    sizes = [len(ratings) for _, ratings in table.ratings.values()]
    usable = sum(bool(np.ptp(ratings) >= spec.min_gap) for _, ratings in table.ratings.values())
    return {
        "source": "ratings",
        "preset": "",
        "path": str(path),
        "rows": table.rows,
        "usable": sum(sizes),
        "people": len(sizes),
        "people_with_pairs": usable,
        "min_gap": spec.min_gap,
        "items": len(table.texts),
        "ratings_per_person": {
            "least": min(sizes),
            "median": float(np.median(sizes)),
            "most": max(sizes),
        },
        "bad_rows": table.bad_rows.to_dict(),
        "left_out": dict(table.left_out),
        "config": [f"data.taste.source=ratings data.taste.path={shlex.quote(str(path))}"],
    }


def _check_pairs(path: Path, source: str, preset: str) -> dict[str, Any]:
    spec = SourceSpec(source=source, path=str(path), preset=preset)
    rows: Sequence[PairRow]
    rows, bad, left_out = read_hub(spec, "safety")
    people = Counter(row.person for row in rows if row.person is not None)
    return {
        "source": source,
        "preset": preset,
        "path": str(path),
        "rows": len(rows) + bad.count + sum(left_out.values()),
        "usable": len(rows),
        "people": len(people),
        "prompts": len({normalise(row.prompt) for row in rows}),
        "bad_rows": bad.to_dict(),
        "left_out": dict(left_out),
        "config": [
            f"data.{tag}.source={source} data.{tag}.path={shlex.quote(str(path))}"
            + (f" data.{tag}.preset={preset}" if preset else "")
            for tag in ("safety", "taste")
        ],
    }
