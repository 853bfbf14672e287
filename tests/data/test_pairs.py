from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commonground.comparisons import Person
from commonground.data.feedback import TagFeedback
from commonground.data.sources import SourceSpec, load_tag
from commonground.errors import DataError

Write = Callable[..., Path]


def load(path: Path, tag: Any = "safety", **change: Any) -> TagFeedback:
    columns = change.pop("columns", {})
    ask: dict[str, Any] = {
        "people": 5, "pairs_per_person": 10, "test_pairs": 10, "split": "warm", "seed": 1, **change
    }  # fmt: skip
    return load_tag(SourceSpec("pairs", str(path), columns), tag, **ask)


def rows(count: int = 40, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"p{n}", "chosen": f"c{n}", "rejected": f"r{n}", **more} for n in range(count)]


def test_pairs_without_a_person_are_dealt_out_disjointly_and_evenly(write_jsonl: Write) -> None:
    feedback = load(write_jsonl(rows()))
    assert sorted(person.id for person in feedback.people) == [f"p0000{n}" for n in range(1, 6)]
    assert sorted(Counter(pair.person for pair in feedback.train).values()) == [6] * 5
    assert sorted(Counter(pair.person for pair in feedback.test).values()) == [2] * 5
    dealt = Counter(pair.chosen for pair in (*feedback.train, *feedback.test))
    assert dealt == dict.fromkeys((f"c{n}" for n in range(40)), 1)
    assert feedback.left_out == {}
    assert feedback.catalogue == ()


def test_the_deal_is_seeded(write_jsonl: Write) -> None:
    path = write_jsonl(rows())
    assert load(path) == load(path)
    assert load(path).train != load(path, seed=2).train


def test_what_is_beyond_the_caps_is_counted(write_jsonl: Write) -> None:
    feedback = load(write_jsonl(rows()), pairs_per_person=2, test_pairs=1)
    assert (len(feedback.train), len(feedback.test)) == (10, 5)
    assert feedback.left_out == {
        "train pairs beyond the cap of 2 a person": 20,
        "test pairs beyond the cap of 1 a person": 5,
    }


def test_owners_get_the_pairs_and_keep_their_split(write_jsonl: Write) -> None:
    owners = [Person("a"), Person("b", "north", "unseen"), Person("c")]
    feedback = load(write_jsonl(rows()), owners=owners)
    assert feedback.people == tuple(owners)
    # only people in shared training can use safety pairs to train on; tests go to everybody
    assert Counter(pair.person for pair in feedback.train) == {"a": 10, "c": 10}
    assert set(Counter(pair.person for pair in feedback.test)) == {"a", "b", "c"}
    taste = load(write_jsonl(rows()), tag="taste", owners=owners)
    assert {pair.person for pair in taste.train} == {"a", "b", "c"}


def test_more_owners_than_pairs_leaves_some_without(write_jsonl: Write) -> None:
    owners = [Person(f"o{n}") for n in range(100)]
    feedback = load(write_jsonl(rows(8)), owners=owners)
    assert (len(feedback.train), len(feedback.test)) == (6, 2)
    assert {pair.person for pair in (*feedback.train, *feedback.test)} == {one.id for one in feedback.people}


def test_more_invented_people_than_pairs_is_counted(write_jsonl: Write) -> None:
    feedback = load(write_jsonl(rows(8)), people=10)
    assert len(feedback.people) == 6
    assert feedback.left_out["people asked for who get no train pair"] == 4
    assert {pair.person for pair in feedback.test} <= {one.id for one in feedback.people}


def test_named_people_keep_their_pairs_group_and_caps(write_jsonl: Write) -> None:
    named = [row | {"person": f"u{n % 4}", "group": f"g{n % 2}"} for n, row in enumerate(rows(80))]
    feedback = load(write_jsonl(named, "pairs.jsonl.gz"), tag="taste", people=3, pairs_per_person=8)
    assert len(feedback.people) == 3
    owner = {row["chosen"]: row["person"] for row in named}
    assert all(owner[pair.chosen] == pair.person for pair in (*feedback.train, *feedback.test))
    assert all(person.group == f"g{int(person.id[1]) % 2}" for person in feedback.people)
    assert max(Counter(pair.person for pair in feedback.train).values()) <= 8
    assert feedback.left_out["usable people beyond the number asked for"] == 1


def test_named_people_are_matched_with_owners_by_id(write_jsonl: Write) -> None:
    named = [row | {"person": f"u{n % 4}"} for n, row in enumerate(rows(40))]
    owners = [Person("u1", "north"), Person("u3"), Person("nobody")]
    feedback = load(write_jsonl(named), owners=owners)
    assert feedback.people == (owners[0], owners[1])
    assert feedback.left_out == {"pairs of people who are not in this run": 20}


def test_some_rows_without_a_person_are_counted(write_jsonl: Write) -> None:
    named = [row | {"person": f"u{n % 2}"} for n, row in enumerate(rows(30))]
    feedback = load(write_jsonl([*named, {"prompt": "x", "chosen": "y", "rejected": "z"}]), people=2)
    assert feedback.left_out["rows without a person in a file that names people"] == 1


def test_a_comparison_given_twice_is_used_once(write_jsonl: Write) -> None:
    twice = [*rows(20), *({**row, "prompt": row["prompt"].upper()} for row in rows(5))]
    feedback = load(write_jsonl(twice))
    assert feedback.left_out == {"repeats of a comparison": 5}
    assert len(feedback.train) + len(feedback.test) == 20


@pytest.mark.parametrize("split", ["warm", "cold", "unseen_people"])
@pytest.mark.parametrize("named", [True, False])
def test_no_prompt_is_trained_and_tested(write_jsonl: Write, split: str, named: bool) -> None:
    many = [
        {"prompt": f"p{n % 23}", "chosen": f"c{n}", "rejected": f"r{n}"}
        | ({"person": f"u{n % 6}"} if named else {})
        for n in range(120)
    ]
    feedback = load(write_jsonl(many), tag="taste", split=split, people=6, pairs_per_person=99, test_pairs=99)
    assert not {pair.prompt for pair in feedback.train} & {pair.prompt for pair in feedback.test}
    assert sum(one.split == "unseen" for one in feedback.people) == (2 if split == "unseen_people" else 0)


def test_unseen_people_without_owners_are_tested_on_safety(write_jsonl: Write) -> None:
    feedback = load(write_jsonl(rows(80)), people=8, split="unseen_people")
    unseen = {one.id for one in feedback.people if one.split == "unseen"}
    assert len(unseen) == 2
    assert not unseen & {pair.person for pair in feedback.train}
    assert unseen <= {pair.person for pair in feedback.test}


def test_bad_rows_are_reported_with_their_lines(write_jsonl: Write) -> None:
    path = write_jsonl(
        [*rows(20), {"chosen": 3, "rejected": "x"}, "{", {"chosen": "a" * 100_000, "rejected": "b"}]
    )
    feedback = load(path)
    assert feedback.bad_rows.first == [
        "pairs.jsonl:21: chosen is not a text (found '3')",
        "pairs.jsonl:22: not JSON (found '{')",
        "pairs.jsonl:23: chosen has more than 20,000 characters (found '100,000 characters')",
    ]
    assert len(feedback.train) + len(feedback.test) == 20


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        ([{"chosen": 3}], "no column 'rejected'; found: 'chosen'; needed: chosen, rejected"),
        ([{"chosen": 3, "rejected": 4}], r"no usable row: chosen is not a text \(1 rows\)"),
        ([{"chosen": "a" * 100_000, "rejected": "b"}] * 3, r"more than 20,000 characters \(3 rows\)"),
        ([{"c": 1, "d": 2}], "no column 'chosen', 'rejected'; found: 'c', 'd'"),
        (["not json"], r"not JSON \(1 rows\)"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "leaves 1 people"),
        ([{**row, "person": "u1"} for row in rows(20)], "leaves 1 people"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(write_jsonl: Write, lines: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(write_jsonl(lines))
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


def test_the_files_of_a_folder_are_read_together(write_jsonl: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no data file"):
        load(tmp_path)
    folder = write_jsonl(rows(20), "one/pairs.jsonl").parent
    assert len(load(folder).people) == 5
    write_jsonl(rows(20), "one/more.jsonl.gz")
    both = load(folder)
    assert both.left_out["repeats of a comparison"] == 20
    assert any("were read: more.jsonl.gz, pairs.jsonl" in note.text for note in both.notes)
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nothing.jsonl")
    csv = tmp_path / "x.csv"
    csv.write_text("a")
    with pytest.raises(DataError, match="is empty"):
        load(csv)
