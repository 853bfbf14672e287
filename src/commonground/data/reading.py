"""Files into rows with a place (file:line) for every row, and what is said of a file that cannot be read."""

from __future__ import annotations

import difflib
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commonground.data.containers import csv_lines, recognise, rows_of
from commonground.data.feedback import BadRows
from commonground.data.values import absent
from commonground.errors import DataError


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (nearest: 'x')`` for a likely typo, else ''."""
    folded = {name.casefold(): name for name in known}
    match = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.7)
    return f" (nearest: {folded[match[0]]!r})" if match else ""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn every way in which a file cannot be read into one `DataError` that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {error.encoding.upper()} text ({error.reason} at byte {error.start})",
            hint="convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW",
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        kind = {lzma.LZMAError: "xz", zipfile.BadZipFile: "zip"}.get(type(error), "gzip")
        raise DataError(f"{path} is not a whole {kind} file: {error}", hint="fetch it again") from error
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist", hint="give the path of a file or folder that exists"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def json_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Objects of a file of any form, each with its place.

    Args:
        path: the file.
        bad: counts what is no object.

    Raises:
        DataError: the file cannot be read at all.
    """
    with readable(path):
        yield from rows_of(path, bad)


def csv_rows(path: Path, bad: BadRows) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table of any form as lists of texts: first the header, then every row with as many fields.

    Args:
        path: the file.
        bad: counts rows with another number of fields or with broken quotes.

    Raises:
        DataError: the file cannot be read at all.
    """
    with readable(path):
        container = recognise(path)
        if container.form == "csv":
            yield from csv_lines(path, bad, container)
            return
        header: list[str] = []
        for number, (_, row) in enumerate(rows_of(path, bad, container), start=1):
            if not header:
                header = list(row)
                yield 0, header
            yield number, ["" if absent(row.get(name)) else str(row[name]) for name in header]


def resolve_columns(
    columns: Mapping[str, str],
    found: Sequence[str],
    *,
    needed: Sequence[str],
    optional: Sequence[str],
    place: str,
) -> dict[str, str]:
    """Our names -> the file's, for the columns that the file has.

    Args:
        columns: the user's map of our names to the file's; a name not in it keeps its own name.
        found: the file's columns.
        needed: our names that must be there.
        optional: our names that may be missing, unless the user mapped them.
        place: the file, for messages.

    Raises:
        DataError: a name that is not ours, or a column that is missing; says which were found.
    """
    check_map(columns, [*needed, *optional], place)
    names = {ours: columns.get(ours, ours) for ours in [*needed, *optional]}
    missing = [names[o] for o in names if names[o] not in found and (o in needed or o in columns)]
    if missing:
        wanted = ", ".join(f"{name!r}{nearest(name, found)}" for name in missing)
        raise DataError(
            f"{place} has no column {wanted}; found: {', '.join(map(repr, found)) or 'none'}; "
            f"needed: {', '.join(needed)}; optional: {', '.join(optional)}",
            hint="map names with data.<tag>.columns, e.g. columns={chosen: preferred_answer}",
        )
    return {ours: name for ours, name in names.items() if name in found}


def check_map(columns: Mapping[str, str], ours: Sequence[str], place: str) -> None:
    """Refuse a column map with a left side that is not one of our names.

    Raises:
        DataError: names it, the accepted names and the nearest one.
    """
    for name in columns:
        if name not in ours:
            accepted = ", ".join(ours)
            raise DataError(
                f"{place}: columns maps {name!r}, which this source does not use; accepted: {accepted}"
                f"{nearest(name, ours)}"
            )


def nothing_usable(place: str, bad: BadRows) -> DataError:
    """The error for a file in which no row can be used: empty, or the reasons and the first places."""
    if not bad.count:
        return DataError(f"{place} is empty: it has no rows")
    reasons = "; ".join(f"{reason} ({count} rows)" for reason, count in bad.reasons.most_common(3))
    return DataError(f"{place} has no usable row: {reasons}", hint=f"first: {'; '.join(bad.first[:3])}")
