"""A local copy of a data set into rows: a file, or a folder of them.

JSON lines and CSV are read here, so that a bad row has a line number; parquet and folders written by
`save_to_disk` go through `datasets`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from commonground.data.feedback import BadRows
from commonground.data.huggingface import SUFFIXES, Placed, parquet_rows, saved_rows
from commonground.data.reading import csv_rows, json_rows, open_bytes, readable
from commonground.errors import DataError

_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


def data_files(folder: Path, word: str = "") -> list[Path]:
    """The data files under a folder, sorted; only those of a split `train` where one is named.

    Args:
        folder: a local copy of a data set.
        word: when some paths contain it (a configuration or subfolder), only those are taken.

    Raises:
        DataError: there is none.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name.endswith(SUFFIXES)
        and path.name not in _NOT_DATA
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    for wanted in (word, "train"):
        some = [path for path in files if wanted in str(path.relative_to(folder))]
        files = some or files
    if not files:
        raise DataError(f"{folder} holds no data file; accepted: {', '.join(SUFFIXES)}")
    return files


def local_rows(path: Path, bad: BadRows, word: str = "") -> Iterator[Placed]:
    """Rows of a local file or folder, each with its place.

    Raises:
        DataError: nothing there that can be read.
    """
    if path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        yield from saved_rows(path)
        return
    for file in data_files(path, word) if path.is_dir() else [path]:
        if file.name.endswith(".parquet"):
            yield from parquet_rows(file)
        elif file.name.endswith((".csv", ".csv.gz")):
            yield from _csv_objects(file, bad)
        elif file.name.endswith((".json", ".json.gz")) and _is_array(file):
            yield from _array_rows(file, bad)
        elif file.name.endswith(SUFFIXES):
            yield from json_rows(file, bad)
        else:
            raise DataError(f"{file} is not a data file we know; accepted: {', '.join(SUFFIXES)}")


def _csv_objects(path: Path, bad: BadRows) -> Iterator[Placed]:
    rows = csv_rows(path, bad)
    _, header = next(rows, (0, []))
    header = [name.strip() for name in header]
    for line, row in rows:
        # an empty field is an absent value
        yield f"{path.name}:{line}", {name: value or None for name, value in zip(header, row, strict=True)}


def _is_array(path: Path) -> bool:
    with readable(path), open_bytes(path) as file:
        return file.read(64).decode("utf-8-sig", "replace").lstrip().startswith("[")


def _array_rows(path: Path, bad: BadRows) -> Iterator[Placed]:
    try:
        with readable(path), open_bytes(path) as file:
            rows = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield f"{path.name}[{number}]", row
        else:
            bad.add(f"{path.name}[{number}]", "not a JSON object", str(row))
