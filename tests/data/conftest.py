"""Small sources written on the spot, and the folder of real data where there is one."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

SAID = pytest.StashKey[bool]()
Rating = tuple[str, str, object]


@pytest.fixture
def real_data(
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> Path | None:
    """The folder COMMONGROUND_DATA, or None after one line that says what is left out."""
    folder = os.environ.get("COMMONGROUND_DATA")
    if folder:
        return Path(folder)
    record_property("left_out", "COMMONGROUND_DATA is unset")
    if not request.config.stash.get(SAID, False):
        request.config.stash[SAID] = True
        with capsys.disabled():
            print("\nleft out: COMMONGROUND_DATA is unset, so the real data was not read")
    return None


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (objects, or texts taken as they are) as JSON lines; gzip by name."""

    def write(rows: Iterable[Any], name: str = "pairs.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


@pytest.fixture
def write_ratings(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder with a rating table and its items."""

    def write(
        ratings: Sequence[Sequence[object]],
        texts: dict[str, str] | None = None,
        header: Sequence[str] = ("person", "item", "rating"),
        folder: str = "table",
    ) -> Path:
        path = tmp_path / folder
        path.mkdir()
        with (path / "ratings.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *ratings])
        items = dict.fromkeys(str(row[1]) for row in ratings if len(row) > 1)
        texts = texts if texts is not None else {item: f"joke {item}" for item in items}
        (path / "items.jsonl").write_text(
            "".join(json.dumps({"item": item, "text": text}) + "\n" for item, text in texts.items())
        )
        return path

    return write


def spread(people: int = 4, items: int = 20) -> list[Rating]:
    """Ratings from 0 to `items` - 1, each person in another order: every gap is known."""
    return [
        (f"u{person}", f"i{item}", float((item * 7 + person * 3) % items))
        for person in range(people)
        for item in range(items)
    ]


@pytest.fixture
def spread_ratings() -> Callable[..., list[Rating]]:
    return spread
