"""Comparisons that are in memory already: a DataFrame, or a list of rows, read as a file is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from commonground.comparisons import Comparison, Tag
from commonground.data.columns import check_verdicts
from commonground.data.containers import Placed
from commonground.data.feedback import BadRows
from commonground.data.rows import Read, to_pairs
from commonground.errors import DataError
from commonground.files import write_atomically


def placed(data: Any) -> Iterator[Placed]:
    """Rows of a pandas or polars DataFrame, a pyarrow table, a data set of `datasets`, or a list.

    Args:
        data: one of these; entries of a list are mappings or `Comparison`.

    Raises:
        DataError: it is none of them.
    """
    for number, row in enumerate(_rows(data), start=1):
        if isinstance(row, Comparison):
            yield f"[{number}]", asdict(row)
        elif isinstance(row, Mapping):
            yield f"[{number}]", {str(name): value for name, value in row.items()}
        else:
            raise DataError(
                f"row {number} is {type(row).__name__}; accepted: a mapping, or a Comparison",
                hint="a list of dicts, a DataFrame, a pyarrow table, or comparisons",
            )


def _rows(data: Any) -> Iterable[Any]:
    if hasattr(data, "iter_rows"):  # polars
        return data.iter_rows(named=True)  # type: ignore[no-any-return]
    if hasattr(data, "to_pylist"):  # pyarrow
        return data.to_pylist()  # type: ignore[no-any-return]
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        return data.to_dict(orient="records")  # type: ignore[no-any-return]
    if isinstance(data, Mapping | str | bytes) or not isinstance(data, Iterable):
        raise DataError(f"{type(data).__name__} holds no rows; accepted: a DataFrame, a table, or a list")
    return data


def read_rows(
    data: Any,
    tag: Tag = "taste",
    *,
    columns: Mapping[str, str] | None = None,
    verdicts: Mapping[str, str] | None = None,
    preset: str = "",
) -> tuple[Read, BadRows]:
    """Comparisons of rows in memory, recognised and mapped as those of a file (docs/data.md).

    Args:
        data: see `placed`.
        tag: safety | taste.
        columns: our names -> paths in a row.
        verdicts: values of a verdict -> a, b, tie, both bad or skip.
        preset: a shape by name; '' = recognise.

    Returns:
        What was read, and the rows that cannot be.

    Raises:
        DataError: no shape we know, a column is missing, or no row is usable.
    """
    bad = BadRows()
    said = check_verdicts(verdicts or {}, f"data.{tag}")
    return to_pairs(placed(data), columns or {}, bad, "the rows", verdicts=said, tag=tag, preset=preset), bad


def write_pairs(data: Any, path: Path, tag: Tag = "taste", **read: Any) -> int:
    """Write rows in memory as a file that a run reads (`source=pairs`), whole or not at all.

    Args:
        data: see `placed`.
        path: the new file, JSON lines.
        tag: safety | taste.
        read: `columns`, `verdicts` and `preset` of `read_rows`.

    Returns:
        How many comparisons were written.

    Raises:
        DataError: as in `read_rows`.
        StorageError: the disk refused.
    """
    found, _ = read_rows(data, tag, **read)
    lines = []
    for row in found.rows:
        values: dict[str, Any] = {"person": row.person, "group": row.group, "prompt": row.prompt}
        values |= {"chosen": row.chosen}
        values |= {"rejected": row.rejected, "tag": tag, "time": row.time}
        lines.append(json.dumps({name: value for name, value in values.items() if value is not None}) + "\n")
    write_atomically(path, "".join(lines).encode())
    return len(lines)
