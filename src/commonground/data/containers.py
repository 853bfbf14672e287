"""What a file is, told by its content: its packing, its encoding and its form. Never by its ending alone.

Rows come out one by one, each with its place; a file of a million rows is not held in memory, except a JSON
object whose rows stand under one key or column by column.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from commonground.data.feedback import BadRows
from commonground.errors import DataError

Placed = tuple[str, Mapping[str, Any]]

PACKINGS = {"gzip": ".gz", "bz2": ".bz2", "xz": ".xz", "zstd": ".zst", "zip": ".zip"}
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".dat", ".parquet", ".arrow", ".feather", ".txt")
FORMS = "JSON lines, a JSON array or object, CSV (comma, semicolon, tab, |, ::), parquet or arrow"
ROW_KEYS = ("data", "rows", "examples", "records", "instances", "items", "train", "results", "annotations")
LONGEST_LINE = 1 << 26  # bytes; a longer line is one bad row, not a process that grows
HEAD = 1 << 16  # bytes from which a form is told
CHUNK = 1 << 20
DELIMITERS = (",", ";", "\t", "|")

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
)
_MARKS = (  # the longer marks first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Container:
    """How a file holds its rows.

    Attributes:
        form: `lines` (JSON, one a line), `values` (JSON texts one after the other), `array`, `object`, `csv`,
            `parquet`, `arrow`.
        packing: '' or one of `PACKINGS`.
        encoding: of the text, '' where it is none.
        delimiter: between the fields of `csv`.
    """

    form: str
    packing: str = ""
    encoding: str = "utf-8"
    delimiter: str = ""

    def words(self) -> str:
        """In words, for a reader of `data check`."""
        between = {"\t": "tabs", "::": "'::'"}.get(self.delimiter, repr(self.delimiter))
        form = {
            "lines": "JSON lines",
            "values": "JSON objects over several lines",
            "array": "a JSON array",
            "object": "a JSON object that holds the rows",
            "csv": f"CSV with {between} between fields",
        }.get(self.form, self.form)
        packed = f", packed with {self.packing}" if self.packing else ""
        coded = f", {self.encoding.upper()}" if self.encoding not in ("", "utf-8") else ""
        return form + coded + packed


def stem_ending(path: Path) -> str:
    """The ending under the packing's own, in small letters: ``.jsonl`` of ``a.JSONL.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKINGS.values():
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_data_name(path: Path) -> bool:
    """Whether a file in a folder may hold rows, by its name; a file that is named itself is always tried."""
    return stem_ending(path) in ENDINGS or path.suffix.lower() in PACKINGS.values()


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """The content of a file as bytes, and the packing that its first bytes name ('' = none).

    Raises:
        DataError: a zip with several files, none, or with a password.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        head = raw.read(8)
        raw.seek(0)
        packing = next((name for magic, name in _MAGIC if head.startswith(magic)), "")
        file: Any = raw
        if packing == "gzip":
            file = stack.enter_context(gzip.GzipFile(fileobj=raw))
        elif packing == "bz2":
            file = stack.enter_context(bz2.BZ2File(raw))
        elif packing == "xz":
            file = stack.enter_context(lzma.LZMAFile(raw))
        elif packing == "zstd":
            import pyarrow

            stream = stack.enter_context(pyarrow.CompressedInputStream(raw, "zstd"))
            file = io.BufferedReader(cast(io.RawIOBase, _Raw(stream)))
        elif packing == "zip":
            archive = stack.enter_context(_zip(path, raw))
            file = stack.enter_context(_member(path, archive))
        yield cast(IO[bytes], file), packing


class _Raw(io.RawIOBase):
    """Arrow's stream as Python's: its own gives no lines."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except ValueError as error:
            raise OSError(f"not a whole zstd file: {error}") from error
        buffer[: len(data)] = data
        return len(data)


def _zip(path: Path, raw: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(raw)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(f"{path} is not a whole zip file: {error}", hint="fetch it again") from error


def _member(path: Path, archive: zipfile.ZipFile) -> IO[bytes]:
    """The one file of a zip; what a Mac packs beside it does not count."""
    names = [
        name
        for name in archive.namelist()
        if not name.endswith("/") and not name.startswith("__MACOSX/") and not name.endswith(".DS_Store")
    ]
    if len(names) != 1:
        raise DataError(
            f"{path} is a zip with {len(names)} files ({', '.join(names[:6])}); one is needed",
            hint="unpack it into a folder and give the folder or the file",
        )
    try:
        return archive.open(names[0])
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be unpacked: {error}", hint="unpack it and give the file") from error


def _encoding(head: bytes) -> str:
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    some = head[:512]
    if len(some) >= 4 and some.count(0) > len(some) // 4:  # ASCII in UTF-16 is every other byte
        return "utf-16-le" if some[1::2].count(0) > some[::2].count(0) else "utf-16-be"
    return "utf-8"


def recognise(path: Path) -> Container:
    """What a file is.

    Raises:
        DataError: it is none of `FORMS`.
        OSError, EOFError, UnicodeDecodeError: as it is read; see `reading.readable`.
    """
    with unpacked(path) as (file, packing):
        head = file.read(HEAD)
        if head.lstrip()[:1] == b"{" and b"\n" not in head:  # the first row of JSON lines may be long
            head += file.readline(LONGEST_LINE) + file.read(HEAD)
    if head.startswith(b"PAR1"):
        return Container("parquet", packing, "")
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return Container("arrow", packing, "")
    encoding = _encoding(head)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head).lstrip("\ufeff")
    form, delimiter = _form(text, stem_ending(path))
    if not form:
        named = path.suffix or "no ending"
        raise DataError(f"{path} is no data file we know ({named}); accepted: {FORMS}")
    return Container(form, packing, encoding, delimiter)


def _form(text: str, ending: str) -> tuple[str, str]:
    """(form, delimiter) of a text by its head; two empty texts where it is nothing we know."""
    start = text.lstrip()
    lines = ending in (".jsonl", ".ndjson")
    if start.startswith("[") and (not lines or start[1:].lstrip()[:1] in ("{", "]")):
        return "array", ""
    if start.startswith("{"):
        return _object_form(start), ""
    first = next((line for line in text.splitlines() if line.strip()), "")
    counts = {mark: re.sub(r'"[^"]*"', "", first).count(mark) for mark in DELIMITERS}
    best = max(DELIMITERS, key=counts.__getitem__)
    if ending in (".json", ".jsonl", ".ndjson") and not counts[best] and not first.startswith("sep="):
        return "lines", ""
    if first.lower().startswith("sep=") and len(first.rstrip()) == 5:  # Excel's own word for it
        return "csv", first.rstrip()[-1]
    if first.count("::") >= 2:
        return "csv", "::"
    if counts[best] or ending in (".csv", ".tsv", ".dat"):
        return ("csv", best) if counts[best] else ("csv", "\t" if ending == ".tsv" else ",")
    return "", ""


def _object_form(start: str) -> str:
    """Whether objects come one a line, over several lines, or one object holds all rows."""
    line, _, rest = start.partition("\n")
    decode = json.JSONDecoder().raw_decode
    try:
        first, end = decode(line.strip())
        several_lines = False
    except (ValueError, RecursionError):
        try:
            first, end = decode(start)
            several_lines = True
        except (ValueError, RecursionError):
            # a line that is broken, or the head of a long object, which opens over several lines
            return "lines" if _looks_like_lines(start) or len(line.strip()) > 1 else "object"
    if rest.strip() if not several_lines else start[end:].strip():
        return "values" if several_lines else "lines"
    return "object" if rows_inside(first) is not None else ("values" if several_lines else "lines")


def _looks_like_lines(start: str) -> bool:
    lines = start.splitlines()[1:-1]
    return any(line.startswith("{") and line.rstrip().endswith("}") for line in lines)


def rows_inside(value: Any) -> list[Any] | None:
    """The rows that an object holds: a list under a usual key, or columns; None = it is a row itself."""
    if not isinstance(value, dict):
        return None
    for key in ROW_KEYS:
        inside = value.get(key)
        if isinstance(inside, list) and inside and all(isinstance(one, dict) for one in inside):
            if key in ("annotations", "items", "results") and len(value) > 1:
                continue  # a row with a list of its own, as Label Studio's task has
            return inside
    columns = list(value.values())
    if len(columns) < 2:
        return None
    if all(isinstance(one, dict) for one in columns):  # pandas: column -> index -> value
        keys = list(columns[0])
        if keys and all(list(one) == keys for one in columns) and all(key.isdigit() for key in keys):
            return [{name: value[name][key] for name in value} for key in keys]
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):  # pandas "split"
        names = [str(name) for name in value["columns"]]
        rows = value["data"]
        if all(isinstance(row, list) and len(row) == len(names) for row in rows):
            return [dict(zip(names, row, strict=True)) for row in rows]
    return None


def rows_of(path: Path, bad: BadRows, container: Container | None = None) -> Iterator[Placed]:
    """The rows of a file, each with its place.

    Args:
        path: a file.
        bad: counts what is no row, with its place.
        container: what `recognise` found; None = look.

    Raises:
        DataError: the file is no form we know, or its form is broken.
    """
    container = container or recognise(path)
    if container.form == "csv":
        yield from csv_objects(path, bad, container)
    elif container.form in ("parquet", "arrow"):
        yield from _arrow_rows(path, container)
    elif container.form == "lines":
        yield from json_lines(path, bad, container)
    elif container.form == "object":
        yield from _object_rows(path, bad, container)
    else:
        yield from _json_values(path, bad, container)


@contextmanager
def text_of(path: Path, container: Container, newline: str | None = "\n") -> Iterator[io.TextIOWrapper]:
    """The content as text, unpacked and decoded."""
    encoding = "utf-8-sig" if container.encoding == "utf-8" else container.encoding
    with unpacked(path) as (file, _):
        yield io.TextIOWrapper(cast(Any, file), encoding=encoding, newline=newline)


def json_lines(path: Path, bad: BadRows, container: Container) -> Iterator[Placed]:
    """JSON objects, one a line; blank lines are no rows, and a broken line is counted."""
    with ExitStack() as stack:
        lines: IO[Any]
        if container.encoding.startswith("utf-8"):
            lines, _ = stack.enter_context(unpacked(path))
        else:
            lines = stack.enter_context(text_of(path, container))
        number = 0
        while line := lines.readline(LONGEST_LINE):
            number += 1
            place = f"{path.name}:{number}"
            if len(line) == LONGEST_LINE:
                bad.add(place, f"a line of more than {LONGEST_LINE >> 20} MB")
                while (more := lines.readline(LONGEST_LINE)) and len(more) == LONGEST_LINE:
                    pass
                continue
            if not (words := line.strip()):
                continue
            try:
                if isinstance(words, bytes):
                    # utf-8-sig: a byte order mark may open the first line
                    words = words.decode("utf-8-sig" if number == 1 else "utf-8")
                value = json.loads(words)
            except UnicodeDecodeError:
                bad.add(place, "not UTF-8 text")
            except (ValueError, RecursionError):
                bad.add(place, "not JSON", shown_line(words))
            else:
                if isinstance(value, dict):
                    yield place, value
                else:
                    bad.add(place, "not a JSON object", str(value)[:60])


def shown_line(words: str | bytes) -> str:
    """The head of a line, for the list of bad rows."""
    return (words.decode("utf-8", "replace") if isinstance(words, bytes) else words)[:60]


def _json_values(path: Path, bad: BadRows, container: Container) -> Iterator[Placed]:
    """The elements of a top-level array, or objects one after the other, read piece by piece."""
    decode = json.JSONDecoder().raw_decode
    with text_of(path, container) as file:
        buffer, at, number, ended = "", 0, 0, False
        inside = container.form == "array"
        opened = False
        while True:
            at = _skip(buffer, at, ", \t\r\n" if opened else " \t\r\n")
            if at < len(buffer) and inside and not opened:
                at, opened = at + 1, True  # the bracket
                continue
            if at < len(buffer) and inside and buffer[at] == "]":
                if (buffer[at + 1 :] + file.read(CHUNK)).strip():
                    raise DataError(f"{path} goes on after the end of its array; one array is accepted")
                return
            if at >= len(buffer) and ended:
                if inside:
                    raise DataError(f"{path} is not JSON: the array is not closed", hint="fetch it again")
                return
            try:
                if at >= len(buffer):
                    raise ValueError("more is needed")
                value, end = decode(buffer, at)
                if end == len(buffer) and not ended:  # a number may go on
                    raise ValueError("more is needed")
            except (ValueError, RecursionError) as error:
                if not ended and len(buffer) - at < LONGEST_LINE and not isinstance(error, RecursionError):
                    more = file.read(max(CHUNK, len(buffer) - at))
                    ended = not more
                    buffer, at = buffer[at:] + more, 0
                    continue
                raise DataError(
                    f"{path} is not JSON after its element {number}: {str(error)[:80]}"
                ) from error
            at, number, opened = end, number + 1, True
            place = f"{path.name}[{number}]"
            if isinstance(value, dict):
                yield place, value
            else:
                bad.add(place, "not a JSON object", str(value)[:60])


def _skip(text: str, at: int, marks: str) -> int:
    while at < len(text) and text[at] in marks:
        at += 1
    return at


def _object_rows(path: Path, bad: BadRows, container: Container) -> Iterator[Placed]:
    try:
        with text_of(path, container) as file:
            value = json.load(file)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise DataError(f"{path} is not JSON: {str(error)[:120]}") from error
    rows = rows_inside(value)
    for number, row in enumerate([value] if rows is None else rows, start=1):
        if isinstance(row, dict):
            yield f"{path.name}[{number}]", row
        else:
            bad.add(f"{path.name}[{number}]", "not a JSON object", str(row)[:60])


def csv_lines(path: Path, bad: BadRows, container: Container) -> Iterator[tuple[int, list[str]]]:
    """Lines of a CSV file: first the header, then every row with as many fields as it, each with its line."""
    with text_of(path, container, newline="") as file:
        if container.delimiter == "::":
            lines: Iterator[tuple[int, list[str]]] = (
                (number, line.rstrip("\r\n").split("::"))
                for number, line in enumerate(file, start=1)
                if line.strip()
            )
            yield from _even(path, lines, bad)
            return
        reader = csv.reader(file, strict=True, delimiter=container.delimiter or ",")
        yield from _even(path, _careful(path, reader, bad), bad)


def _careful(path: Path, reader: Any, bad: BadRows) -> Iterator[tuple[int, list[str]]]:
    while True:
        try:
            for row in reader:
                if row and not (reader.line_num == 1 and row[0].lower().startswith("sep=")):
                    yield reader.line_num, row
            return
        except csv.Error as error:  # the reader can go on with the next row
            bad.add(f"{path.name}:{reader.line_num}", f"not CSV: {error}")


def _even(
    path: Path, lines: Iterator[tuple[int, list[str]]], bad: BadRows
) -> Iterator[tuple[int, list[str]]]:
    width = 0
    for line, row in lines:
        width = width or len(row)
        if len(row) == width:
            yield line, row
        else:
            reason = f"wrong number of columns ({width} are needed)"
            bad.add(f"{path.name}:{line}", reason, ",".join(row))


def csv_objects(path: Path, bad: BadRows, container: Container) -> Iterator[Placed]:
    """CSV rows under the names of the header; an empty field is an absent value.

    Raises:
        DataError: two columns have one name.
    """
    rows = csv_lines(path, bad, container)
    _, header = next(rows, (0, []))
    header = [name.strip() for name in header]
    twice = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns of one name: {', '.join(map(repr, twice))}")
    for line, row in rows:
        yield f"{path.name}:{line}", {name: value or None for name, value in zip(header, row, strict=True)}


def _arrow_rows(path: Path, container: Container) -> Iterator[Placed]:
    """Rows of a parquet or arrow file, batch by batch; a broken one is an error, not a crash."""
    import pyarrow

    with unpacked(path) as (file, _):
        try:
            source: Any = pyarrow.BufferReader(file.read()) if container.packing else str(path)
            number = 0
            for batch in _batches(source, container.form):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name}[{number}]", row
        except (pyarrow.ArrowException, OSError, ValueError, TypeError, NotImplementedError) as error:
            said = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            raise DataError(f"{path} cannot be read as {container.form}: {said}") from error


def _batches(source: Any, form: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    if form == "parquet":
        with pyarrow.parquet.ParquetFile(source) as table:
            yield from table.iter_batches(batch_size=4096)
        return
    opened = pyarrow.memory_map(source) if isinstance(source, str) else source
    try:
        reader = pyarrow.ipc.open_file(opened)
        yield from (reader.get_batch(at) for at in range(reader.num_record_batches))
    except pyarrow.ArrowInvalid:
        opened.seek(0)
        yield from pyarrow.ipc.open_stream(opened)
