import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from commonground.data.feedback import BadRows
from commonground.data.reading import csv_rows, json_rows, nearest
from commonground.errors import DataError


def test_json_rows_keep_line_numbers_and_count_what_is_no_object(write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl(["\ufeff" + '{"a": 1}', "", "{oops", "[1]", '{"a": 2}'])
    bad = BadRows()
    assert list(json_rows(path, bad)) == [("pairs.jsonl:1", {"a": 1}), ("pairs.jsonl:5", {"a": 2})]
    assert bad.first == [
        "pairs.jsonl:3: not JSON (found '{oops')",
        "pairs.jsonl:4: not a JSON object (found '[1]')",
    ]


def test_deep_nesting_and_bytes_that_are_no_text_are_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"[" * 200_000 + b"\n" + b'{"a": "\xff"}\n{"a": 1}\n')
    bad = BadRows()
    assert [row for _, row in json_rows(path, bad)] == [{"a": 1}]
    assert bad.reasons == {"not JSON": 1, "not UTF-8 text": 1}


def test_gzip_is_unpacked_and_half_a_file_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    good, half, plain = (tmp_path / f"{name}.jsonl.gz" for name in ("good", "half", "plain"))
    good.write_bytes(whole)
    half.write_bytes(whole[: len(whole) // 2])
    plain.write_bytes(b'{"a": 1}\n')
    assert len(list(json_rows(good, BadRows()))) == 1000
    assert len(list(json_rows(plain, BadRows()))) == 1  # its content is what counts, not its name
    with pytest.raises(DataError, match="not a whole gzip file"):
        list(json_rows(half, BadRows()))


def test_csv_rows_give_the_header_first_and_count_uneven_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,"two\nlines"\n1\n1,2,3\n\n5,6\n')
    bad = BadRows()
    assert list(csv_rows(path, bad)) == [(1, ["a", "b"]), (3, ["1", "two\nlines"]), (7, ["5", "6"])]
    assert bad.reasons == {"wrong number of columns (2 are needed)": 2}
    assert bad.first[0] == "x.csv:4: wrong number of columns (2 are needed) (found '1')"


def test_broken_quotes_are_counted_and_an_open_quote_does_not_swallow_the_end_silently(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n"x"y,1\n3,4\n5,"open\n6,7\n')
    bad = BadRows()
    assert [row for _, row in csv_rows(path, bad)] == [["a", "b"], ["3", "4"]]
    assert bad.count == 2


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_a_missing_file_is_one_line(tmp_path: Path, name: str) -> None:
    read = csv_rows if name.endswith("csv") else json_rows
    with pytest.raises(DataError, match="does not exist"):
        list(read(tmp_path / name, BadRows()))


def test_nearest_says_nothing_when_nothing_is_near() -> None:
    assert nearest("Chosn", ["chosen", "rejected"]) == " (nearest: 'chosen')"
    assert nearest("zzz", ["chosen"]) == ""
