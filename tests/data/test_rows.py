from typing import Any

import pytest

from commonground.comparisons import MAX_TEXT
from commonground.data.feedback import BadRows
from commonground.data.rows import SILENT, to_pair, to_pairs
from commonground.data.values import RowError
from commonground.errors import DataError

NAMES = {name: name for name in ("prompt", "chosen", "rejected", "person", "group")}


def say(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


ASK, GOOD, POOR = say("user", "Q"), say("assistant", "good"), say("assistant", "poor")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "good", "rejected": "poor"},
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [POOR]},  # conversational, explicit prompt
        {"chosen": [ASK, GOOD], "rejected": [ASK, POOR]},  # conversational, implicit prompt
        {"prompt": "Q", "chosen": [ASK, GOOD], "rejected": [ASK, POOR]},  # both, saying the same
        {"prompt": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK, POOR]},
        {"prompt": "Q", "chosen": [GOOD], "rejected": [POOR]},
        {"prompt": [ASK], "chosen": "good", "rejected": "poor"},
        {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: poor"},
    ],
)
def test_every_form_gives_the_same_pair(row: dict[str, Any]) -> None:
    pair = to_pair(row, NAMES)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("Q", "good", "poor")


def test_a_longer_context_and_a_system_message_stay_in_the_prompt() -> None:
    before = [say("system", "Be kind."), ASK, GOOD, say("user", "More?")]
    pair = to_pair({"chosen": [*before, GOOD], "rejected": [*before, POOR]}, NAMES)
    assert pair.prompt == "System: Be kind.\n\nHuman: Q\n\nAssistant: good\n\nHuman: More?"
    assert (pair.chosen, pair.rejected) == ("good", "poor")


def test_plain_texts_without_a_prompt_stay_whole() -> None:
    pair = to_pair({"chosen": "The sky is blue", "rejected": "The sky is green"}, NAMES)
    assert (pair.prompt, pair.chosen) == ("", "The sky is blue")


def test_a_given_prompt_is_kept_although_the_answers_look_like_dialogues() -> None:
    row = {
        "prompt": "P",
        "chosen": "\n\nHuman: Q\n\nAssistant: a",
        "rejected": "\n\nHuman: Q\n\nAssistant: b",
    }
    assert to_pair(row, NAMES).prompt == "P"


def test_person_and_group_may_be_numbers_or_absent() -> None:
    row = {"chosen": "a", "rejected": "b", "person": 7, "group": "north"}
    assert (to_pair(row, NAMES).person, to_pair(row, NAMES).group) == ("7", "north")
    assert to_pair({"chosen": "a", "rejected": "b", "person": None, "group": ""}, NAMES).person is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": 3, "rejected": "b"}, "chosen is not a text"),
        ({"chosen": "a"}, "rejected is missing"),
        ({"chosen": "a", "rejected": " \n"}, "rejected is empty"),
        ({"chosen": "a", "rejected": " a "}, "chosen and rejected are the same text"),
        ({"chosen": "a", "rejected": "b" * (MAX_TEXT + 1)}, "rejected has more than 20,000 characters"),
        ({"chosen": "a\ud800", "rejected": "b"}, "chosen is not valid Unicode"),
        ({"chosen": "a", "rejected": "b", "prompt": 3}, "prompt is not a text"),
        ({"chosen": "a", "rejected": "b", "person": True}, "person is not a text or a whole number"),
        ({"chosen": "a", "rejected": "b", "person": 1.5}, "person is not a text or a whole number"),
        ({"chosen": [GOOD], "rejected": "b"}, "chosen is not a text"),
        ({"chosen": ["x"], "rejected": [POOR]}, "chosen is a list, but not of {role, content} messages"),
        (
            {"chosen": [say("assistant", None)], "rejected": [POOR]},
            "chosen has a message whose content is not a text",
        ),
        ({"chosen": [], "rejected": []}, "chosen is empty"),
    ],
)
def test_what_a_row_lacks_is_said(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        to_pair(row, NAMES)
    assert caught.value.reason == reason


def test_bad_rows_are_counted_with_place_and_an_empty_reply_is_left_out() -> None:
    bad = BadRows()
    rows: list[tuple[str, dict[str, Any]]] = [
        ("f:1", {"chosen": "a", "rejected": "b"}),
        ("f:2", {"chosen": 3, "rejected": "b"}),
        ("f:3", {"chosen": "\n\nHuman: Q\n\nAssistant: ", "rejected": "\n\nHuman: Q\n\nAssistant: Ok"}),
    ]
    read = to_pairs(rows, {}, bad, "f")
    assert len(read.rows) == 1
    assert bad.first == ["f:2: chosen is not a text (found '3')"]
    assert read.left_out == {SILENT: 1}


def test_a_column_that_no_row_has_is_one_error_with_the_nearest_name() -> None:
    with pytest.raises(
        DataError, match=r"no column 'rejected' \(nearest: 'rejcted'\); found: 'chosen', 'rejcted'"
    ):
        to_pairs([("f:1", {"chosen": "a", "rejcted": "b"})], {}, BadRows(), "f")


def test_columns_map_our_names_to_the_files() -> None:
    rows = [("f:1", {"winner": "a", "loser": "b", "user": "u"})]
    pairs = to_pairs(rows, {"chosen": "winner", "rejected": "loser", "person": "user"}, BadRows(), "f").rows
    assert (pairs[0].chosen, pairs[0].rejected, pairs[0].person) == ("a", "b", "u")


def test_a_map_of_a_name_that_is_not_ours_is_refused() -> None:
    with pytest.raises(DataError, match=r"columns maps 'chosne'.*nearest: 'chosen'"):
        to_pairs([], {"chosne": "x"}, BadRows(), "f")


def test_a_mapped_optional_column_must_exist() -> None:
    with pytest.raises(DataError, match="no column 'who'"):
        to_pairs([("f:1", {"chosen": "a", "rejected": "b"})], {"person": "who"}, BadRows(), "f")
