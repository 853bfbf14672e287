"""Files into rows: plain or gzip, JSON lines or CSV, with a place (file:line) for every row."""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

from commonground.data.feedback import BadRows
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
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}", hint="fetch it again") from error
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist", hint="give the path of a file or folder that exists"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def open_bytes(path: Path) -> IO[bytes]:
    """The content of a file as bytes, unpacked when its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def json_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """JSON objects, one a line, each with its place; blank lines are no rows.

    Args:
        path: a .jsonl or .jsonl.gz file.
        bad: counts the lines that are not UTF-8, not JSON or not an object.

    Raises:
        DataError: the file cannot be read at all.
    """
    with readable(path), open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
            line = raw.strip()
            if not line:
                continue
            place = f"{path.name}:{number}"
            try:
                # utf-8-sig: a byte order mark may open the first line
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                bad.add(place, "not UTF-8 text")
            except (ValueError, RecursionError):
                bad.add(place, "not JSON", line[:60].decode("utf-8", "replace"))
            else:
                if isinstance(value, dict):
                    yield place, value
                else:
                    bad.add(place, "not a JSON object", str(value))


def csv_rows(path: Path, bad: BadRows) -> Iterator[tuple[int, list[str]]]:
    """Lines of a CSV file: first the header, then every row with as many fields as it, each with its line.

    Args:
        path: a .csv or .csv.gz file.
        bad: counts rows with another number of fields or with broken quotes.

    Raises:
        DataError: the file cannot be read at all.
    """
    with readable(path), open_bytes(path) as file:
        reader = csv.reader(TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        width = 0
        while True:
            try:
                for row in reader:
                    if not row:
                        continue
                    width = width or len(row)
                    if len(row) == width:
                        yield reader.line_num, row
                    else:
                        bad.add(
                            f"{path.name}:{reader.line_num}",
                            f"wrong number of columns ({width} are needed)",
                            ",".join(row),
                        )
                return
            except csv.Error as error:  # the reader can go on with the next row
                bad.add(f"{path.name}:{reader.line_num}", f"not CSV: {error}")


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
