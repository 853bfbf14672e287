from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commonground.data.feedback import TagFeedback
from commonground.data.sources import SourceSpec, load_tag
from commonground.errors import DataError

Write = Callable[..., Path]


def answer(user: int, talk: int, turn: int, number: int, score: int | None, chosen: bool) -> dict[str, Any]:
    """One row of the table `utterances`, with the columns that matter and some that do not."""
    return {
        "utterance_id": f"ut{user}{talk}{turn}{number}",
        "interaction_id": f"int{user}{talk}{turn}",
        "conversation_id": f"c{user}-{talk}",
        "user_id": f"user{user}",
        "turn": turn,
        "within_turn_id": number,
        "user_prompt": f"question {user} {talk} {turn}",
        "model_response": f"answer {user} {talk} {turn} {number}",
        "model_name": "m",
        "score": score,
        "if_chosen": chosen,
    }


def conversation(user: int, talk: int) -> list[dict[str, Any]]:
    first = [answer(user, talk, 0, n, score, n == 1) for n, score in enumerate([20, 90, 50, 10])]
    return [*first, answer(user, talk, 1, 0, 70, True), answer(user, talk, 1, 1, 30, False)]


def load(path: Path, **columns: str) -> TagFeedback:
    spec = SourceSpec("hub", str(path), columns, "prism")
    return load_tag(
        spec, "taste", people=10, pairs_per_person=99, test_pairs=99, split="warm", seed=1, owners=None
    )


def table(users: int = 3, talks: int = 5) -> list[dict[str, Any]]:
    return [row for user in range(users) for talk in range(talks) for row in conversation(user, talk)]


def test_a_turn_gives_the_chosen_answer_against_each_other_one(write_jsonl: Write) -> None:
    # a copy of the whole repository: only the table utterances has the answers
    folder = write_jsonl(table(), "prism/utterances.jsonl").parent
    write_jsonl([{"user_id": "user0", "age": "18-24"}], "prism/survey.jsonl")
    feedback = load(folder)
    pairs = [pair for pair in (*feedback.train, *feedback.test) if pair.person == "user1"]
    assert len(pairs) == 5 * (3 + 1)
    assert {pair.chosen[-1] for pair in pairs if "\n" not in pair.prompt} == {"1"}
    later = next(pair for pair in pairs if "Human: question 1 2 1" in pair.prompt)
    assert later.prompt == "Human: question 1 2 0\n\nAssistant: answer 1 2 0 1\n\nHuman: question 1 2 1"
    assert (later.chosen, later.rejected) == ("answer 1 2 1 0", "answer 1 2 1 1")
    assert feedback.unit.startswith("one chosen answer against one other answer of the same turn")


def test_no_turn_of_a_conversation_quotes_a_test_answer(write_jsonl: Write) -> None:
    feedback = load(write_jsonl(table()))
    read = "\n".join(pair.prompt for pair in feedback.train)
    assert feedback.test
    assert not [pair for pair in feedback.test if pair.chosen in read]


def test_equal_scores_are_left_out_and_missing_scores_trust_the_mark(write_jsonl: Write) -> None:
    rows = table()
    rows[0]["score"] = 90  # as high as the chosen one of its turn
    rows[2]["score"] = None
    feedback = load(write_jsonl(rows))
    assert feedback.left_out["answers scored as high as the chosen one"] == 1
    assert len(feedback.train) + len(feedback.test) == 3 * 5 * 4 - 1


def test_a_turn_without_one_chosen_answer_ends_the_conversation(write_jsonl: Write) -> None:
    rows = table()
    rows[1]["if_chosen"] = False  # the first turn of the first conversation: its second turn has no context
    feedback = load(write_jsonl(rows))
    assert feedback.left_out["turns without exactly one chosen answer, and the turns after them"] == 2
    assert len(feedback.train) + len(feedback.test) == 3 * 5 * 4 - 4


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("user_id", None, "user_id is missing"),
        ("turn", "first", "turn is not a whole number"),
        ("if_chosen", "perhaps", "if_chosen is not true or false"),
        ("model_response", 3, "model_response is not a text"),
        ("user_prompt", "", "user_prompt is missing"),
    ],
)
def test_bad_rows_have_their_line(write_jsonl: Write, name: str, value: object, reason: str) -> None:
    rows = table()
    rows[3][name] = value
    feedback = load(write_jsonl(rows))
    assert feedback.bad_rows.count == 1
    assert feedback.bad_rows.first[0].startswith(f"pairs.jsonl:4: {reason}")


def test_columns_may_have_other_names(write_jsonl: Write) -> None:
    rows = [{**row, "who": row["user_id"]} for row in table()]
    for row in rows:
        del row["user_id"]
    path = write_jsonl(rows)
    with pytest.raises(DataError, match="no column 'user_id'"):
        load(path)
    assert len(load(path, user_id="who").people) == 3


def test_a_table_without_comparisons_is_one_line(write_jsonl: Write) -> None:
    rows = [row | {"if_chosen": False} for row in table()]
    with pytest.raises(DataError, match="gives no comparison: turns without exactly one chosen answer"):
        load(write_jsonl(rows))
    with pytest.raises(DataError, match="is empty"):
        load(write_jsonl([], "none.jsonl"))
