from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commonground.data.check import check_path
from commonground.errors import DataError

Write = Callable[..., Path]
PAIRS = [{"prompt": f"p{n % 5}", "chosen": f"c{n}", "rejected": f"r{n}"} for n in range(10)]


def test_a_rating_table_is_counted_from_its_folder_or_its_file(
    write_ratings: Write, spread_ratings: Any
) -> None:
    folder = write_ratings([*spread_ratings(), ("u0", "i0", "nan")])
    found = check_path(folder)
    assert found == check_path(folder / "ratings.csv")
    assert (found["source"], found["rows"], found["usable"], found["people"], found["items"]) == (
        "ratings", 81, 80, 4, 20
    )  # fmt: skip
    assert found["ratings_per_person"] == {"least": 20, "median": 20.0, "most": 20}
    assert found["bad_rows"]["first"] == ["ratings.csv:82: rating is NaN (found 'nan')"]
    assert found["config"] == [f"data.taste.source=ratings data.taste.path={folder}"]


def test_a_pair_file_is_counted(write_jsonl: Write) -> None:
    path = write_jsonl([*PAIRS, {"chosen": "x", "rejected": "x"}], "folder/x.jsonl.gz")
    found = check_path(path)
    assert (found["source"], found["rows"], found["usable"], found["people"], found["prompts"]) == (
        "pairs", 11, 10, 0, 5
    )  # fmt: skip
    assert found["bad_rows"]["reasons"] == {"chosen and rejected are the same text": 1}
    assert check_path(path.parent)["source"] == "pairs"


def test_named_people_are_counted(write_jsonl: Write) -> None:
    rows = [row | {"person": f"u{n % 3}"} for n, row in enumerate(PAIRS)]
    assert check_path(write_jsonl(rows))["people"] == 3


def test_csv_and_prism_are_recognised(tmp_path: Path, write_jsonl: Write) -> None:
    csv = tmp_path / "x.csv"
    csv.write_text("prompt,chosen,rejected\n" + "".join(f"p{n},a{n},b{n}\n" for n in range(8)))
    assert check_path(csv)["source"] == "pairs"
    rows = [
        {"user_id": "u", "conversation_id": "c", "turn": 0, "user_prompt": "q", "model_response": f"a{n}",
         "score": n, "if_chosen": n == 1}
        for n in range(2)
    ]  # fmt: skip
    people = [{**row, "user_id": f"u{k}", "user_prompt": f"q{k}"} for k in range(6) for row in rows]
    found = check_path(write_jsonl(people, "prism/utterances.jsonl").parent)
    assert (found["source"], found["usable"], found["people"]) == ("pairs", 6, 6)
    assert "PRISM" in found["shape"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "a,b\n1,2\n", "two answers, 'a' and 'b', and no verdict that we know by name"),
        ("ratings.csv", "c,d\n1,2\n", "found: 'c', 'd'; recognised: chosen and rejected"),
        ("x.csv", "a,b\n", "is empty: it has no rows"),
        ("my.csv", "person,item,rating\nu,i,1\n", "no texts of its items"),
        ("x.jsonl", '{"chosen": 3}\n', "no column 'rejected'; found: 'chosen'"),
        ("x.jsonl", "", "is empty"),
        ("x.csv", "", "is no source we know|is empty"),
        ("x.jsonl", "nonsense\n", r"no usable row: not JSON \(1 rows\)"),
        ("x.jsonl", '{"chosen": "a", "rejected": 3}\n', "rejected is not a text"),
        ("x.bin", "x", r"no data file we know \(\.bin\); accepted: JSON lines"),
        ("folder/readme.txt", "x", "holds no data file"),
    ],
)
def test_what_is_no_source_is_one_line_with_exit_code_2(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        check_path(path if path.parent == tmp_path else path.parent)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


def test_a_path_that_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        check_path(tmp_path / ("x" * 300))


def test_a_missing_path_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        check_path(tmp_path / "nothing")
