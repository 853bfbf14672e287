import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commonground.comparisons import MAX_TEXT, Person
from commonground.data.feedback import TagFeedback
from commonground.data.ratings import far_apart
from commonground.data.ratings_table import read_ratings
from commonground.data.sources import SourceSpec, load_tag
from commonground.errors import DataError

Write = Callable[..., Path]


def load(path: Path, **change: Any) -> TagFeedback:
    gap = change.pop("min_gap", 4.0)
    ask: dict[str, Any] = {
        "people": 4, "pairs_per_person": 10, "test_pairs": 5, "split": "warm", "seed": 1, **change
    }  # fmt: skip
    return load_tag(SourceSpec("ratings", str(path), min_gap=gap), "taste", **ask)


def test_far_apart_by_hand() -> None:
    higher, lower = far_apart(np.array([1.0, 5.0, 4.17, 0.17]), 4.0)
    # 5-1, 5-0.17 and 4.17-0.17 = 4 although floating point says 3.9999999999999996
    assert set(zip(higher.tolist(), lower.tolist(), strict=True)) == {(1, 0), (1, 3), (2, 3)}


@given(st.lists(st.integers(-10, 10), max_size=12), st.floats(0.5, 8))
def test_far_apart_gives_every_unordered_pair_once(ratings: list[int], gap: float) -> None:
    higher, lower = far_apart(np.array(ratings, dtype=float), gap)
    pairs = {frozenset(pair) for pair in zip(higher.tolist(), lower.tolist(), strict=True)}
    n = len(ratings)
    assert len(pairs) == len(higher)
    assert len(pairs) == sum(abs(ratings[a] - ratings[b]) >= gap for a in range(n) for b in range(a))


def test_the_higher_rated_item_is_chosen_and_caps_hold(write_ratings: Write, spread_ratings: Any) -> None:
    rows = spread_ratings()
    given_ = {(person, f"joke {item}"): rating for person, item, rating in rows}
    feedback = load(write_ratings(rows))
    assert len(feedback.people) == 4
    assert Counter(pair.person for pair in feedback.train) == dict.fromkeys(("u0", "u1", "u2", "u3"), 10)
    assert max(Counter(pair.person for pair in feedback.test).values()) == 5
    for pair in (*feedback.train, *feedback.test):
        assert given_[pair.person, pair.chosen] - given_[pair.person, pair.rejected] >= 4
        assert (pair.prompt, pair.tag) == ("", "taste")
    assert len(feedback.catalogue) == 20
    assert feedback.unit.startswith("one pair of items a person rated at least 4 points apart; one rating")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(data=st.data(), split=st.sampled_from(["warm", "cold", "unseen_people"]), seed=st.integers(0, 3))
def test_nothing_leaks(data: st.DataObject, split: str, seed: int, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("table")
    # ids i and i+10 have one text in different dress: a duplicate must not leak either
    items = "".join(
        f'{{"item": "i{n}", "text": "{"Joke" if n < 10 else " joke"} {n % 10}"}}\n' for n in range(20)
    )
    (folder / "items.jsonl").write_text(items)
    lines = ["person,item,rating"]
    for person in range(4):
        lines += [f"u{person},i{item},{data.draw(st.integers(-10, 10))}" for item in range(20)]
    (folder / "ratings.csv").write_text("\n".join(lines))
    try:
        feedback = load(folder, split=split, seed=seed, pairs_per_person=1000, test_pairs=1000)
    except DataError:  # by chance fewer than two people have two items far apart
        return
    trained: set[tuple[str, str]] = set()
    seen: set[frozenset[str]] = set()
    for pair in feedback.train:
        trained |= {(pair.person, pair.chosen.strip().lower()), (pair.person, pair.rejected.strip().lower())}
    for pair in feedback.test:
        for text in (pair.chosen.strip().lower(), pair.rejected.strip().lower()):
            assert (pair.person, text) not in trained
            assert split != "cold" or text not in {other for _, other in trained}
    for pair in (*feedback.train, *feedback.test):
        key = frozenset((pair.person, pair.chosen, pair.rejected))
        assert key not in seen
        seen.add(key)


def test_cold_items_are_a_quarter(write_ratings: Write, spread_ratings: Any) -> None:
    feedback = load(
        write_ratings(spread_ratings(items=40)), split="cold", pairs_per_person=999, test_pairs=999
    )
    tested = {text for pair in feedback.test for text in (pair.chosen, pair.rejected)}
    assert len(tested) == 10


def test_unseen_people_are_marked_and_have_pairs_of_their_own(
    write_ratings: Write, spread_ratings: Any
) -> None:
    feedback = load(write_ratings(spread_ratings(people=8)), people=8, split="unseen_people")
    unseen = {person.id for person in feedback.people if person.split == "unseen"}
    assert len(unseen) == 2
    assert unseen <= {pair.person for pair in feedback.train}


def test_the_draw_is_seeded_and_file_order_does_not_matter(write_ratings: Write, spread_ratings: Any) -> None:
    rows = spread_ratings(people=9)
    one = load(write_ratings(rows), people=5)
    two = load(write_ratings(rows[::-1], folder="other"), people=5)
    assert one.people == two.people
    assert one.left_out["usable people beyond the number asked for"] == 4
    assert [(p.person, p.chosen, p.rejected) for p in one.train] == [
        (p.person, p.chosen, p.rejected) for p in load(write_ratings(rows, folder="again"), people=5).train
    ]
    assert one.people != load(write_ratings(rows, folder="third"), people=5, seed=2).people


def test_fewer_people_than_asked_for_is_said(write_ratings: Write, spread_ratings: Any) -> None:
    feedback = load(write_ratings(spread_ratings()), people=10)
    assert len(feedback.people) == 4
    assert feedback.left_out == {"people asked for that the source does not have": 6}


def test_people_without_usable_pairs_are_left_out_and_counted(
    write_ratings: Write, spread_ratings: Any
) -> None:
    flat = [("flat", f"i{n}", 3.0) for n in range(20)]
    close = [("close", f"i{n}", n / 10) for n in range(20)]
    feedback = load(write_ratings([*spread_ratings(), *flat, *close]), people=4)
    assert feedback.left_out == {
        "people whose ratings are all equal": 1,
        "people without two train items rated 4 apart": 1,
    }
    assert not {"flat", "close"} & {person.id for person in feedback.people}


def test_every_kind_of_bad_row_is_counted_with_its_line(write_ratings: Write, spread_ratings: Any) -> None:
    bad: list[list[object]] = [
        ["u0", "i0", 9.0], ["u0", "i1", "nan"], ["u0", "i1", "inf"], ["u0", "i1", "many"], ["u0", "i1", ""],
        ["u0", "nowhere", 1.0], ["", "i1", 1.0], ["u0", "", 1.0], ["u0", "i1"], ["u0", "i1", 1.0, 2.0],
        ["u9", "long", 1.0],
    ]  # fmt: skip
    rows = spread_ratings()
    texts = {f"i{n}": f"joke {n}" for n in range(20)} | {"long": "x" * (MAX_TEXT + 1)}
    folder = write_ratings([*rows, *bad], texts)
    table = read_ratings(folder, {})
    assert table.bad_rows.reasons == {
        "text has more than 20,000 characters": 1,
        "person rated the item a second time": 1,
        "rating is NaN": 1,
        "rating is not finite": 1,
        "rating is not a number": 1,
        "rating is missing": 1,
        "item is not in the item file": 1,
        "person is missing": 1,
        "item is missing": 1,
        "wrong number of columns (3 are needed)": 2,
        "item has no usable text": 1,
    }
    assert table.rows == len(rows) + len(bad)
    assert "ratings.csv:82: person rated the item a second time (found 'u0, i0')" in table.bad_rows.first
    assert "ratings.csv:83: rating is NaN (found 'nan')" in table.bad_rows.first
    assert len(load(folder).people) == 4


def test_bad_item_lines_are_counted(write_ratings: Write, spread_ratings: Any) -> None:
    folder = write_ratings(spread_ratings())
    with (folder / "items.jsonl").open("a") as file:
        file.write(
            '{"item": "i0", "text": "again"}\n{"text": "no id"}\n{"item": "i99", "text": 3}\nnot json\n'
        )
    reasons = read_ratings(folder, {}).bad_rows.reasons
    assert reasons == {
        "item appears a second time": 1, "item is missing": 1, "text is not a text": 1, "not JSON": 1
    }  # fmt: skip


def test_ratings_on_another_scale_are_fine(write_ratings: Write, spread_ratings: Any) -> None:
    rows = [(person, item, rating * 1000) for person, item, rating in spread_ratings()]
    assert load(write_ratings(rows), min_gap=4000.0).bad_rows.count == 0


def test_groups_are_kept_and_a_second_group_is_counted(write_ratings: Write, spread_ratings: Any) -> None:
    rows = [(*row, "north" if row[0] != "u1" else "") for row in spread_ratings()]
    rows[5] = (*rows[5][:3], "south")
    folder = write_ratings(rows, header=("person", "item", "rating", "group"))
    feedback = load(folder)
    assert {person.id: person.group for person in feedback.people} == {
        "u0": "north", "u1": None, "u2": "north", "u3": "north"
    }  # fmt: skip
    assert feedback.left_out == {"groups after the first of people with several": 1}


def test_columns_can_be_mapped_and_gzip_is_read(write_ratings: Write, spread_ratings: Any) -> None:
    folder = write_ratings(spread_ratings(), header=("userId", "item", "rating"))
    plain = folder / "ratings.csv"
    (folder / "ratings.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert "person = userId" in " ".join(note.text for note in load(folder).notes)
    with pytest.raises(DataError, match=r"no column 'usrId' \(nearest: 'userId'\); found: 'userId', 'item'"):
        read_ratings(folder, {"person": "usrId"})
    assert len(read_ratings(folder, {"person": "userId"}).ratings) == 4


def test_owners_are_matched_by_id(write_ratings: Write, spread_ratings: Any) -> None:
    owners = [Person("u2", "north"), Person("u1", split="unseen"), Person("stranger")]
    feedback = load(write_ratings(spread_ratings()), owners=owners)
    assert feedback.people == (owners[0], owners[1])
    assert feedback.left_out == {"people who are not in this run": 2}


def test_a_person_with_very_many_items_does_not_fill_the_memory(
    write_ratings: Write, spread_ratings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commonground.data.ratings.MOST_ITEMS", 5)
    feedback = load(write_ratings(spread_ratings()), pairs_per_person=999)
    texts = {text for pair in feedback.train if pair.person == "u0" for text in (pair.chosen, pair.rejected)}
    assert 2 <= len(texts) <= 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "needs one file, ratings.csv .*; found: nothing"),
        ({"ratings.csv": "person,item,rating\n"}, "is empty|no texts of its items"),
        ({"ratings.csv": "", "items.jsonl": '{"item": "a", "text": "A"}'}, "ratings.csv is empty"),
        ({"ratings.csv": "person,item,rating\n", "items.jsonl": '{"item": "a", "text": "A"}'}, "is empty"),
        ({"ratings.csv": "person,item,rating\nu,a,1", "items.jsonl": ""}, "items.jsonl is empty"),
        ({"ratings.csv": "a,b\n1,2", "items.jsonl": '{"item": "a", "text": "A"}'}, "found: 'a', 'b'; needed"),
        (
            {"ratings.csv": "person,item,rating\nu,a,nan", "items.jsonl": '{"item": "a", "text": "A"}'},
            r"no usable row: rating is NaN \(1 rows\)",
        ),
        (
            {"ratings.csv": "person,item,rating\nu,a,1", "items.jsonl": '{"item": "a", "text": "A"}'},
            "leaves 0 people with comparisons; at least 2",
        ),
        (
            {"ratings.csv": b"person,item,rating\n\xff\xfe,a,1", "items.jsonl": '{"item": "a", "text": "A"}'},
            "UTF-8",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(
    tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("gap", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gap_that_is_not_above_zero_is_refused(
    write_ratings: Write, spread_ratings: Any, gap: float
) -> None:
    with pytest.raises(DataError, match="min_gap"):
        load(write_ratings(spread_ratings()), min_gap=gap)
