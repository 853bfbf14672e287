"""The same rows in every form, packing and encoding give the same comparisons; what is broken says so."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commonground.data.containers import recognise, rows_of
from commonground.data.feedback import BadRows
from commonground.data.hub import read_source
from commonground.data.reading import readable
from commonground.data.request import SourceSpec
from commonground.errors import DataError

ROWS = [
    {"person": f"p{n % 3}", "prompt": f"Wäs {n}?", "chosen": f'gut, "{n}"; ja', "rejected": f"schlecht\n{n}"}
    for n in range(7)
]


def table(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def arrow(rows: list[dict[str, Any]], stream: bool) -> bytes:
    sink = io.BytesIO()
    found = pyarrow.Table.from_pylist(rows)
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(sink, found.schema) as writer:
        writer.write_table(found)
    return sink.getvalue()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def by_column(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {str(n): row[name] for n, row in enumerate(rows)} for name in rows[0]}


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "lines": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "lines without an end": lambda rows: "\n\n".join(json.dumps(row) for row in rows).encode(),
    "array": lambda rows: json.dumps(rows).encode(),
    "array over lines": lambda rows: json.dumps(rows, indent=2).encode(),
    "objects over lines": lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows).encode(),
    "data": lambda rows: json.dumps({"data": rows}).encode(),
    "data over lines": lambda rows: json.dumps({"version": 1, "examples": rows}, indent=1).encode(),
    "pandas' columns": lambda rows: json.dumps(by_column(rows)).encode(),
    "pandas' split": lambda rows: json.dumps(
        {"columns": list(rows[0]), "index": [0], "data": [list(row.values()) for row in rows]}
    ).encode(),
    "comma": lambda rows: table(rows, ","),
    "semicolon": lambda rows: table(rows, ";"),
    "tab": lambda rows: table(rows, "\t"),
    "bar": lambda rows: table(rows, "|"),
    "excel": lambda rows: b"sep=;\r\n" + table(rows, ";"),
    "parquet": parquet,
    "arrow": lambda rows: arrow(rows, False),
    "arrow stream": lambda rows: arrow(rows, True),
}


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/rows", data)
        archive.writestr("__MACOSX/folder/._rows", "x")
    return out.getvalue()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "zstd": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def comparisons(path: Path) -> list[tuple[str, str, str, str | None]]:
    read, bad, _ = read_source(SourceSpec("pairs", str(path)), "taste")
    assert bad.count == 0, bad.first
    return [(row.prompt, row.chosen, row.rejected, row.person) for row in read.rows]


WANTED = [(row["prompt"], row["chosen"], row["rejected"], row["person"]) for row in ROWS]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_what_its_content_says(tmp_path: Path, form: str, packing: str) -> None:
    path = tmp_path / "file.jsonl"  # the name says something else of most
    path.write_bytes(PACKINGS[packing](FORMS[form](ROWS)))
    assert comparisons(path) == WANTED
    assert recognise(path).words()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "form", ["lines", "array", "objects over lines", "data", "comma", "tab", "pandas' columns"]
)
def test_an_encoding_is_told_by_its_mark_or_its_zeros(tmp_path: Path, form: str, encoding: str) -> None:
    path = tmp_path / "file"
    text = FORMS[form](ROWS).decode()
    path.write_bytes(text.encode(encoding))
    assert comparisons(path) == WANTED


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.gz", gzip.compress(b"[1]" * 999)[:30], "not a whole gzip file"),
        ("x.xz", lzma.compress(b"[1]" * 999)[:40], "not a whole"),
        ("x.bz2", bz2.compress(b"[1]" * 999)[:30], "not a whole|cannot be read"),
        ("x.zst", pyarrow.compress(b"[1]" * 999, codec="zstd", asbytes=True)[:12], "zstd|Truncated"),
        ("x.zip", zipped(b"x")[:40], "not a whole zip file"),
        ("x.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", "cannot be read as parquet"),
        ("x.arrow", b"ARROW1\0\0" + b"\1" * 60, "cannot be read as arrow"),
        ("x.json", b'[{"chosen": "a"', "is not JSON"),
        ("x.json", b'[{"a": 1}] [{"a": 2}]', "goes on after the end of its array"),
        ("x.json", b'{\n "data": [', "no usable row|is not JSON"),
        ("x.csv", b"chosen,chosen,rejected\n1,2,3\n", "two columns of one name: 'chosen'"),
        ("x.csv", "chosen,rejected\nä,b\n".encode("latin-1"), "iconv"),
        ("x.bin", b"\x00\x01\x02 nothing", "no data file we know"),
    ],
    ids=map(str, range(13)),  # packed bytes hold the time, and every worker must give the same names
)
def test_what_is_broken_is_one_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught, readable(path):
        comparisons(path)
    assert re.search(message, f"{caught.value.message} {caught.value.hint}"), caught.value.message
    assert "\n" not in caught.value.message


def test_a_zip_of_two_files_names_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.jsonl", "{}")
        archive.writestr("b.jsonl", "{}")
    with pytest.raises(DataError, match=r"a zip with 2 files \(a.jsonl, b.jsonl\); one is needed"):
        recognise(tmp_path / "x.zip")


def test_a_long_row_and_a_broken_line_do_not_change_the_form(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"a": "x" * 200_000}) + "\n{\n" + json.dumps({"a": "y"}) + "\n")
    bad = BadRows()
    assert [row["a"][0] for _, row in rows_of(path, bad)] == ["x", "y"]
    assert bad.first == ["x.jsonl:2: not JSON (found '{')"]


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip)
people = st.sampled_from(["a", "b", 3, 4.0, None, float("nan")])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(texts, texts, texts, people), min_size=1, max_size=8),
    st.sampled_from(["lines", "array", "data", "parquet"]),
    st.sampled_from([None, "outer", "deep.er"]),
    st.permutations(["prompt", "chosen", "rejected", "person"]),
    st.lists(st.sampled_from(["x", "y z", "%", "$oc"]), min_size=4, max_size=4),
)
def test_random_tables_give_the_same_comparisons(
    tmp_path: Path,
    rows: list[tuple[Any, ...]],
    form: str,
    nested: str | None,
    order: list[str],
    marks: list[str],
) -> None:
    """Columns renamed, nested, put in another order, with NaN; the map says where they are."""
    names = {ours: f"{mark}{place}" for place, (ours, mark) in enumerate(zip(order, marks, strict=True))}
    made: list[dict[str, Any]] = []
    for at, (prompt, chosen, rejected, person) in enumerate(rows):
        value = {"prompt": prompt, "chosen": f"c{at}{chosen}", "rejected": f"r{at}{rejected}",
                 "person": float("nan") if person is None and form == "parquet" else person}  # fmt: skip
        if form == "parquet":  # one type a column
            value["person"] = float(person) if isinstance(person, int | float) else float("nan")
        row: dict[str, Any] = {names[ours]: value[ours] for ours in order}
        for part in reversed(nested.split(".")) if nested else ():
            row = {part: row}
        made.append(row | {"other": at})
    path = tmp_path / "file"
    path.write_bytes(FORMS[form](made))
    columns = {ours: f"{nested}.{name}" if nested else name for ours, name in names.items()}
    if any(mark in name for name in columns.values() for mark in "|+>"):
        return
    read, bad, _ = read_source(SourceSpec("pairs", str(path), columns), "safety")
    assert bad.count == 0, bad.first
    assert [(row.chosen, row.rejected) for row in read.rows] == [
        (f"c{at}{chosen}", f"r{at}{rejected}") for at, (_, chosen, rejected, _) in enumerate(rows)
    ]
    named = [row.person for row in read.rows]
    for found, (_, _, _, person) in zip(named, rows, strict=True):
        if isinstance(person, str):
            assert found == (None if form == "parquet" else person)
        else:
            assert found == (None if person is None or person != person else str(int(person)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["prompt", "chosen", "rejected", "person"]),
    st.sampled_from([1.5, True, {"a": 1}, [1, 2], ["x", "y"]]),
)
def test_a_column_typed_wrongly_is_named(tmp_path: Path, name: str, value: Any) -> None:
    rows = [
        {"prompt": f"q{n}", "chosen": f"c{n}", "rejected": f"r{n}", "person": "p", name: value}
        for n in range(5)
    ]
    path = tmp_path / "file.jsonl"
    path.write_bytes(FORMS["lines"](rows))
    with pytest.raises(DataError) as caught:
        read_source(SourceSpec("pairs", str(path)), "taste")
    assert name in f"{caught.value.message} {caught.value.hint}"
