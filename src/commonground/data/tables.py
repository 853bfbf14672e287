"""A local copy of a data set into rows: a file, or a folder of them; and which files of a folder are read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from commonground.comparisons import Tag
from commonground.data.containers import ENDINGS, Placed, is_data_name, rows_of
from commonground.data.feedback import BadRows, Note
from commonground.data.huggingface import saved_rows
from commonground.data.shapes import read_as
from commonground.errors import DataError

_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
_SPLITS = ("train", "validation", "valid", "dev", "test", "eval")
PEEK = 20  # rows of each file of a folder, to see whether it holds comparisons


def data_files(folder: Path, word: str = "") -> list[Path]:
    """The data files under a folder, sorted; only those of a split `train` where the files name splits.

    Args:
        folder: a local copy of a data set.
        word: when some paths have it as a whole word (a configuration or subfolder), only those are taken.

    Raises:
        DataError: there is none.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and is_data_name(path)
        and path.name not in _NOT_DATA
        and not path.name.lower().startswith(("readme", "license"))
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if word:
        files = [
            path for path in files if word in path.relative_to(folder).parts or word in _words(path, folder)
        ] or files
    if any(set(_SPLITS) & _words(path, folder) for path in files):
        files = [path for path in files if "train" in _words(path, folder)] or files
    if not files:
        raise DataError(f"{folder} holds no data file; accepted: {', '.join(ENDINGS)} (also packed)")
    return files


def _words(path: Path, folder: Path) -> set[str]:
    """The whole words of a path under its folder: `train` of ``train-00000-of-00002.parquet``."""
    return {word for word in re.split(r"[^0-9A-Za-z]+", str(path.relative_to(folder)).lower()) if word}


def comparison_files(
    path: Path, word: str, columns: Mapping[str, str], tag: Tag
) -> tuple[list[Path], tuple[Note, ...]]:
    """The files to read, and a note that names those of the folder that hold no comparisons.

    Args:
        path: a file, or a folder.
        word: see `data_files`.
        columns: the user's map.
        tag: safety | taste.

    Raises:
        DataError: no data file, or files that hold comparisons in different shapes.
    """
    if not path.is_dir():
        return [path], ()
    files = data_files(path, word)
    everything = [one for one in sorted(path.rglob("*")) if one.is_file() and is_data_name(one)]
    shapes: dict[Path, str] = {}
    if len(files) > 1:
        for file in files:
            try:
                rows = [row for _, row in islice(rows_of(file, BadRows()), PEEK)]
                shapes[file] = read_as(rows, columns, {}, tag, str(file)).shape.name if rows else ""
            except (DataError, UnicodeDecodeError, EOFError):
                shapes[file] = ""
        if len(names := {name for name in shapes.values() if name}) > 1:
            found = "; ".join(f"{file.name}: {name}" for file, name in shapes.items() if name)
            raise DataError(
                f"{path} holds files of different shapes ({found})", hint="give the path of one of them"
            )
        if names:
            files = [file for file in files if shapes[file]]
    others = [one for one in everything if one not in files and one.name not in _NOT_DATA]
    if not others and len(files) == 1:
        return files, ()
    names_ = ", ".join(str(one.relative_to(path)) for one in others[:8]) + (" ..." if len(others) > 8 else "")
    read = ", ".join(str(one.relative_to(path)) for one in files[:8]) + (" ..." if len(files) > 8 else "")
    return files, (Note(f"of the folder were read: {read}; not read: {names_ or 'nothing'}"),)


def local_rows(path: Path, bad: BadRows, files: list[Path]) -> Iterator[Placed]:
    """Rows of a local file or folder, each with its place.

    Args:
        path: the file or folder; one written by `save_to_disk` is read as such.
        bad: counts what is no row.
        files: of the folder, as `comparison_files` gave them.

    Raises:
        DataError: nothing there that can be read.
    """
    if is_saved(path):
        yield from saved_rows(path)
        return
    for file in files:
        yield from rows_of(file, bad)


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
