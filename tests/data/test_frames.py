"""Rows in memory are read as those of a file: DataFrames, tables, lists of rows and of comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest

from commonground.comparisons import Comparison
from commonground.data.frames import read_rows, write_pairs
from commonground.data.hub import read_source
from commonground.data.request import SourceSpec
from commonground.errors import DataError

ROWS: list[dict[str, Any]] = [
    {
        "user_id": n % 3,
        "question": f"q{n}",
        "a": f"a{n}",
        "b": f"b{n}",
        "winner": ("model_b", "tie")[n % 4 == 3],
    }
    for n in range(8)
]
COLUMNS = {"prompt": "question", "a": "a", "b": "b", "verdict": "winner"}
WANTED = [(f"q{n}", f"b{n}", f"a{n}", str(n % 3)) for n in range(8) if n % 4 != 3]


def frame(rows: list[dict[str, Any]]) -> Any:
    """As pandas has it after a merge: ids are floats, and one is missing."""
    found = pandas.DataFrame(rows)
    found["user_id"] = found["user_id"].astype(float)
    return found


@pytest.mark.parametrize(
    "made", [list, frame, pyarrow.Table.from_pylist, iter], ids=["list", "pandas", "pyarrow", "iterator"]
)
def test_rows_in_memory_are_those_of_a_file(made: Any, tmp_path: Path) -> None:
    read, bad = read_rows(made(ROWS), columns=COLUMNS)
    assert [(row.prompt, row.chosen, row.rejected, row.person) for row in read.rows] == WANTED
    assert (read.left_out["ties"], bad.count) == (2, 0)
    path = tmp_path / "pairs.jsonl"
    assert write_pairs(made(ROWS), path, columns=COLUMNS) == len(WANTED)
    again = read_source(SourceSpec("pairs", str(path)), "taste")[0]
    assert [(row.prompt, row.chosen, row.rejected, row.person) for row in again.rows] == WANTED
    assert set(json.loads(path.read_text().splitlines()[0])) == {
        "person",
        "prompt",
        "chosen",
        "rejected",
        "tag",
    }


def test_comparisons_go_as_they_are(tmp_path: Path) -> None:
    own = [Comparison("q", f"good {n}", "poor", "safety", f"p{n}") for n in range(3)]
    read, _ = read_rows(own, "safety")
    assert [(row.prompt, row.chosen, row.rejected, row.person) for row in read.rows] == [
        (one.prompt, one.chosen, one.rejected, one.person) for one in own
    ]


@pytest.mark.parametrize("data", [3, "text", {"a": 1}, [1], [["x"]]])
def test_what_holds_no_rows_is_said(data: Any) -> None:
    with pytest.raises(DataError, match="accepted"):
        read_rows(data)
