"""Each shape of preference files, as a small file of our own words: read as meant, or truly refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commonground.comparisons import Tag
from commonground.data.hub import read_source
from commonground.data.request import SourceSpec
from commonground.data.rows import PairRow, Read
from commonground.data.shapes import SHAPES
from commonground.errors import DataError

Write = Callable[..., Path]


def say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def talk(answer: str, question: str = "Q") -> list[dict[str, Any]]:
    return [say("user", question), say("assistant", answer)]


def from_(who: str, value: str) -> dict[str, str]:
    return {"from": who, "value": value}


def read(path: Path, tag: Tag = "taste", **spec: Any) -> Read:
    return read_source(SourceSpec("pairs", str(path), **spec), tag)[0]


def bare(rows: list[PairRow]) -> list[tuple[str, str, str]]:
    return [(row.prompt, row.chosen, row.rejected) for row in rows]


ONE = [("Q", "good", "poor")]
THREE = [("Q", "good", "fair"), ("Q", "good", "poor"), ("Q", "fair", "poor")]
TREE = {
    "message_tree_id": "t",
    "prompt": {
        "text": "Q",
        "role": "prompter",
        "replies": [
            {"text": "good", "role": "assistant", "rank": 0, "replies": []},
            {"text": "poor", "role": "assistant", "rank": 1, "replies": []},
        ],
    },
}
COMMUNITY = {
    "annotator_id": "w1",
    "annotator_country": "br",
    "first_turn_prompt": "Q",
    "first_turn_preferred_response": "response_b",
    "first_turn_response_a": "poor",
    "first_turn_response_b": "good",
    "first_turn_response_c": "fair",
    "first_turn_response_d": None,
}
COLLECTIVE = {
    "prompt": {"messages": [say("user", "Q")]},
    "responses": [
        {"response_index": letter, "messages": [say("assistant", text)]}
        for letter, text in (("A", "good"), ("B", "fair"), ("C", "poor"))
    ],
    "metadata": {
        "assessments": [
            {"annotator_id": "w1", "ranking_blocks": {"world": [{"ranking": "C>A=B"}],
                                                      "personal": [{"ranking": "A>B>C"}]}}
        ]
    },
}  # fmt: skip
PRISM_TALK = {
    "user_id": "w1",
    "conversation_history": [
        {"turn": 0, "role": "user", "content": "Q"},
        {"turn": 0, "role": "model", "content": "good", "score": 80, "if_chosen": True},
        {"turn": 0, "role": "model", "content": "poor", "score": 20, "if_chosen": False},
    ],
}
STUDIO = {
    "id": 1,
    "data": {"prompt": "Q", "answer1": "good", "answer2": "poor"},
    "annotations": [
        {"completed_by": {"id": 7}, "result": [{"type": "pairwise", "value": {"selected": "left"}}]},
        {"completed_by": 8, "was_cancelled": True, "result": []},
    ],
}
ARGILLA = {
    "fields": {"prompt": "Q", "response1": "good", "response2": "poor"},
    "responses": {"preference": [{"value": "response1", "user_id": "w1", "status": "submitted"}]},
}
ARGILLA_1 = {
    "fields": {"prompt": "Q", "response-1": "good", "response-2": "poor"},
    "responses": [
        {"user_id": "w1", "status": "submitted",
         "values": {"rank": {"value": [{"value": "response-2", "rank": 2},
                                       {"value": "response-1", "rank": 1}]}}},
        {"user_id": "w2", "status": "draft", "values": {}},
    ],
}  # fmt: skip
OASST: list[dict[str, Any]] = [
    {"message_id": "1", "parent_id": None, "text": "Q", "role": "prompter", "user_id": "u"},
    {"message_id": "2", "parent_id": "1", "text": "good", "role": "assistant", "rank": 0, "user_id": "u"},
    {"message_id": "3", "parent_id": "1", "text": "poor", "role": "assistant", "rank": 1.0, "user_id": "v"},
]
UTTERANCES = [
    {"user_id": "w1", "conversation_id": "c", "turn": 0, "user_prompt": "Q", "model_response": text,
     "score": score, "if_chosen": score > 50}
    for text, score in (("good", 80), ("poor", 20))
]  # fmt: skip

# name -> rows, what they say, and the person of the first pair
CASES: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str, str]], str | None]] = {
    "trl": ([{"prompt": "Q", "chosen": "good", "rejected": "poor", "person": "w1"}], ONE, "w1"),
    "trl-conversational": ([{"chosen": talk("good"), "rejected": talk("poor")}], ONE, None),
    "trl-tools": (
        [{"prompt": [say("user", "Q")], "chosen": [say("assistant", "good")],
          "rejected": [say("assistant", "poor")], "tools": "[]"}], ONE, None,
    ),
    "parts": (
        [{"prompt": [say("user", [{"type": "text", "text": "Q"}])], "chosen": say("assistant", "good"),
          "rejected": say("assistant", "poor")}], ONE, None,
    ),
    "hh-rlhf": (
        [{"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: poor"}],
        ONE, None,
    ),
    "messages as text": (
        [{"chosen": json.dumps(talk("good")), "rejected": repr(talk("poor")), "user": {"id": 3}}], ONE, "3",
    ),
    "openai-dpo": (
        [{"input": {"messages": [say("user", "Q")], "tools": []},
          "preferred_output": [say("assistant", "good")],
          "non_preferred_output": [say("assistant", "poor")]}], ONE, None,
    ),
    "sharegpt": (
        [{"conversations": [from_("human", "Q")], "chosen": from_("gpt", "good"),
          "rejected": from_("gpt", "poor")}],
        ONE, None,
    ),
    "orca": (
        [{"system": "Be kind.", "question": "Q", "chosen": "good", "rejected": "poor"}],
        [("System: Be kind.\n\nHuman: Q", "good", "poor")], None,
    ),
    "arena": (
        [{"model_a": "x", "model_b": "y", "winner": "model_b", "judge": "w1", "conversation_a": talk("poor"),
          "conversation_b": talk("good")},
         {"model_a": "x", "model_b": "y", "winner": "tie (bothbad)", "judge": "w1",
          "conversation_a": talk("poor"), "conversation_b": talk("good")}], ONE, "w1",
    ),
    "arena-kaggle": (
        [{"prompt": '["Q"]', "response_a": '["poor"]', "response_b": '["good"]', "winner_model_a": 0,
          "winner_model_b": 1, "winner_tie": 0}], ONE, None,
    ),
    "helpsteer3": (
        [{"context": [say("user", "Q")], "response1": "good", "response2": "poor", "overall_preference": -2},
         {"context": [say("user", "Q")], "response1": "good", "response2": "poor", "overall_preference": 0}],
        ONE, None,
    ),
    "helpsteer2-preference": (
        [{"prompt": "Q", "response_1": "poor", "response_2": "good", "preference_strength": 3}], ONE, None,
    ),
    "helpsteer2": (
        [{"prompt": "Q", "response": "poor", "helpfulness": 1, "verbosity": 4},
         {"prompt": "Q", "response": "good", "helpfulness": 4, "verbosity": 1}], ONE, None,
    ),
    "shp": (
        [{"history": "Q", "human_ref_A": "good", "human_ref_B": "poor", "labels": 1, "score_A": 9,
          "score_B": 2}],
        ONE, None,
    ),
    "pku-saferlhf": (
        [{"prompt": "Q", "response_0": "good", "response_1": "poor", "better_response_id": 0,
          "safer_response_id": 1}], ONE, None,
    ),
    "alpacafarm": (
        [{"instruction": "Q", "input": "", "output_1": "poor", "output_2": "good", "preference": 2}],
        ONE, None,
    ),
    "summarize": (
        [{"info": {"post": "Q", "article": None}, "summaries": [{"text": "poor"}, {"text": "good"}],
          "choice": 1, "worker": "w1"}], ONE, "w1",
    ),
    "community-alignment": ([COMMUNITY], [("Q", "good", "poor"), ("Q", "good", "fair")], "w1"),
    "collective-alignment": ([COLLECTIVE], THREE, "w1"),
    "prism": (UTTERANCES, ONE, "w1"),
    "prism-conversations": ([PRISM_TALK], ONE, "w1"),
    "label-studio": ([STUDIO], ONE, "7"),
    "label-studio-min": (
        [{"prompt": "Q", "answer1": "good", "answer2": "poor", "comparison": "left", "annotator": 7}],
        ONE, "7",
    ),
    "argilla": ([ARGILLA], ONE, "w1"),
    "argilla-1": ([ARGILLA_1], ONE, "w1"),
    "oasst": (OASST, ONE, None),
    "oasst-trees": ([TREE], ONE, None),
    "nectar": (
        [{"prompt": "Q", "answers": [{"answer": "fair", "rank": 2.0}, {"answer": "good", "rank": 1.0},
                                     {"answer": "poor", "rank": 3.0}]}],
        [("Q", "good", "fair"), ("Q", "fair", "poor"), ("Q", "good", "poor")], None,
    ),
    "ultrafeedback": (
        [{"instruction": "Q", "completions": [
            {"response": "good", "overall_score": 1.0, "fine-grained_score": 4.5},
            {"response": "poor", "overall_score": 10.0, "fine-grained_score": 1.0}]}], ONE, None,
    ),
    "ultrafeedback-binarized": (
        [{"prompt": "Q", "chosen": talk("good"), "rejected": talk("poor"), "score_chosen": 8.0,
          "score_rejected": 5.0},
         {"prompt": "R", "chosen": talk("good", "R"), "rejected": talk("poor", "R"), "score_chosen": 5.0,
          "score_rejected": 5.0}], ONE, None,
    ),
    "stack exchange": (
        [{"question": "Q", "answers": [{"text": "good", "pm_score": 5}, {"text": "poor", "pm_score": 0}]}],
        ONE, None,
    ),
    "ranked by order": ([{"instruction": "Q", "input": "", "output": ["good", "fair", "poor"]}], THREE, None),
    "ranks beside": (
        [{"prompt": "Q", "responses": ["poor", "good"], "ranks": [2, 1], "worker_id": 9}], ONE, "9",
    ),
    "webgpt": (
        [{"question": "Q", "answer_0": "good", "answer_1": "poor", "score_0": 1, "score_1": -1}], ONE, None,
    ),
    "form export": (
        [{"Timestamp": "1", "Email Address": "a@b", "Prompt": "Q", "Response A": "poor", "Response B": "good",
          "Which is better?": "Response B"}], ONE, "a@b",
    ),
    "judge's words": ([{"prompt": "Q", "a": "good", "b": "poor", "verdict": "[[A>>B]]"}], ONE, None),
    "the winner's name": (
        [{"prompt": "Q", "response_a": "poor", "response_b": "good", "model_a": "m1", "model_b": "m2",
          "winner": "m2"}], ONE, None,
    ),
    "kto": (
        [{"prompt": "Q", "completion": "good", "label": True, "user_id": "w1"},
         {"prompt": "Q", "completion": "poor", "label": False, "user_id": "w1"},
         {"prompt": "Q", "completion": "poor", "label": True, "user_id": "w2"}], ONE, "w1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_shape_is_recognised_and_read_as_it_was_meant(write_jsonl: Write, name: str) -> None:
    rows, wanted, person = CASES[name]
    found = read(write_jsonl(rows))
    assert bare(found.rows) == wanted
    assert found.rows[0].person == person


def test_every_shape_has_a_case_and_its_name_is_a_preset(write_jsonl: Write) -> None:
    names = {shape.name for shape in SHAPES}
    assert names <= set(CASES)
    for name in names - {"prism"}:  # PRISM's preset has a map of its own
        rows, wanted, _ = CASES[name]
        assert bare(read(write_jsonl(rows), preset=name).rows) == wanted


def test_each_shape_stands_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/data.md").read_text()
    assert [shape.name for shape in SHAPES if f"`{shape.name}`" not in text] == []


def test_safety_has_a_verdict_of_its_own(write_jsonl: Write) -> None:
    rows, _, _ = CASES["pku-saferlhf"]
    assert bare(read(write_jsonl(rows), "safety").rows) == [("Q", "poor", "good")]
    world = bare(read(write_jsonl([COLLECTIVE]), "safety").rows)
    assert world == [("Q", "poor", "good"), ("Q", "poor", "fair")]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"winner": "tie"}, "ties (column 'winner')"),
        ({"preference": "Both bad"}, "pairs of which both answers are bad (column 'preference')"),
        ({"margin": 0}, "ties (column 'margin' is not above 0)"),
        ({"chosen_score": 3, "rejected_score": "3.0"}, "ties (chosen_score is not above rejected_score)"),
        ({"score_chosen": 1, "score_rejected": 2}, "ties (score_chosen is not above score_rejected)"),
    ],
)
def test_a_tie_in_another_column_is_no_preference(
    write_jsonl: Write, more: dict[str, Any], reason: str
) -> None:
    rows = [
        {"prompt": "Q", "chosen": "good", "rejected": "poor"},
        {"prompt": "R", "chosen": "c", "rejected": "d"} | more,
    ]
    found = read(write_jsonl(rows))
    assert bare(found.rows) == ONE
    assert dict(found.left_out) == {reason: 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "Q", "completion": "a", "label": True}] * 2, "gives no comparison: answers ranked"),
        ([{"prompt": f"Q{n}", "completion": "a", "label": True} for n in range(3)], "no other answer to the"),
        ([{"prompt": "Q", "answer1": "a", "answer2": "b"}], "'answer1' and 'answer2', and no verdict"),
        ([{"prompt": "Q", "response_1": "a", "response_2": "b", "response_3": "c", "best": 1}], "no column"),
        ([{"prompt": "Q", "response_a": "a", "response_b": "b", "winner": 1}], "verdict is none that"),
        ([{"text": "a b c"}], "no column 'chosen', 'rejected'; found: 'text'; recognised"),
        ([{"chosen": [say("assistant", [{"type": "image"}])], "rejected": talk("x")}], "no text"),
        ([{"chosen": "a", "rejected": "b", "person": 1.5}, {"chosen": "c", "rejected": "d", "person": 2.5}],
         "in 2 rows the person cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(write_jsonl: Write, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(write_jsonl(rows))
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


def test_numbers_of_a_verdict_are_asked_for_and_then_read(write_jsonl: Write) -> None:
    rows = [{"q": "Q", "response_a": "good", "response_b": "poor", "winner": 0},
            {"q": "Q", "response_a": "good", "response_b": "fair", "winner": 2}]  # fmt: skip
    path = write_jsonl(rows)
    with pytest.raises(DataError) as caught:
        read(path)
    assert "verdicts={" in (caught.value.hint or "")
    found = read(path, verdicts={"0": "a", "1": "b", "2": "tie"}, columns={"prompt": "q"})
    assert bare(found.rows) == ONE
    assert found.left_out["ties"] == 1
    with pytest.raises(DataError, match="verdicts maps '0' to 'left'; accepted: a, b, tie, both bad, skip"):
        read(path, verdicts={"0": "left"})


def test_the_users_own_map_wins(write_jsonl: Write) -> None:
    rows, _, _ = CASES["arena"]
    found = read(write_jsonl([{**row, "voter": "v"} for row in rows]), columns={"person": "voter"})
    assert found.rows[0].person == "v"
    found = read(write_jsonl(rows), columns={"person": ""})
    assert found.rows[0].person is None
    flipped = {"chosen": "conversation_a", "rejected": "conversation_b"}
    assert bare(read(write_jsonl(rows[:1]), columns=flipped).rows) == [("Q", "poor", "good")]
    with pytest.raises(DataError, match=r"no column 'votr' \(nearest: 'voter'\)"):
        read(write_jsonl([{**row, "voter": "v"} for row in rows]), columns={"person": "votr"})
    with pytest.raises(DataError, match="maps a but not b, verdict"):
        read(write_jsonl(rows), columns={"a": "model_a"})


def test_a_column_of_tags_parts_the_file(write_jsonl: Write) -> None:
    rows = [{"prompt": "Q", "chosen": f"c{tag}", "rejected": "r", "tag": tag} for tag in ("safety", "taste")]
    path = write_jsonl(rows)
    assert [row.chosen for row in read(path, "safety").rows] == ["csafety"]
    assert [row.chosen for row in read(path, "taste").rows] == ["ctaste"]
    assert read(path, "taste").left_out == {"rows of the tag safety": 1}


def test_paths_of_the_column_language(write_jsonl: Write) -> None:
    row = {"task": {"q": "Q", "more": ["x", "Q2"]}, "out": [{"t": "poor"}, {"t": "good"}], "a.b": "dotted"}
    columns = {
        "prompt": "task.q+task.more.-1",
        "chosen": "out.1.t",
        "rejected": "none|out.0.t",
        "group": "a.b",
    }
    found = read(write_jsonl([row]), columns=columns).rows[0]
    assert (found.prompt, found.chosen, found.rejected, found.group) == ("Q\n\nQ2", "good", "poor", "dotted")


def test_what_is_worth_a_word_is_said(write_jsonl: Write) -> None:
    base: dict[str, Any] = {"prompt": "Q", "chosen": "good", "rejected": "poor"}
    rows = [
        base | {"person": name, "chosen": f"good {n}", "model": "m"}
        for n, name in enumerate(["Ana", "ana", "bo"])
    ]
    found = read(write_jsonl(rows))
    assert found.unused == {"model": "1 values, e.g. 'm'"}
    assert [note.loud for note in found.notes if "differ only by case" in note.text] == [True]
    rows = [base | {"session_id": n % 3, "chosen": f"good {n}"} for n in range(12)]
    (note,) = [note for note in read(write_jsonl(rows)).notes if "invented" in note.text]
    assert note.loud
    assert "columns.person=session_id?" in note.text
    rows = [base | {"person": "a", "chosen": "<|im_end|> x", "rejected": "['only here']"}]
    words = " ".join(note.text for note in read(write_jsonl(rows)).notes)
    assert "marks of a chat template: 1" in words
    assert "one answer only is written as a list or as messages: 1" in words


def test_one_person_in_two_unicode_forms_is_one_and_nan_is_nobody(write_jsonl: Write) -> None:
    names: list[Any] = ["Zo\u00eb", "Zoe\u0308", "Zo\u200b\u00eb", 3.0, 3, "3.0", float("nan"), None, ""]
    rows = [{"prompt": "Q", "chosen": f"good {n}", "rejected": "poor", "person": name, "group": float("nan")}
            for n, name in enumerate(names)]  # fmt: skip
    found = read(write_jsonl(rows)).rows
    assert [row.person for row in found] == ["Zo\u00eb"] * 3 + ["3"] * 3 + [None] * 3
    assert {row.group for row in found} == {None}


def test_a_group_that_is_no_label_is_dropped_and_the_comparison_kept(write_jsonl: Write) -> None:
    rows = [{"prompt": "Q", "chosen": "good", "rejected": "poor", "person": "a", "group": [1]}]
    found = read(write_jsonl(rows))
    assert (len(found.rows), found.rows[0].group) == (1, None)
    assert any("groups that are no text" in note.text for note in found.notes)


def test_a_column_that_names_one_alone_is_said_loudly(write_jsonl: Write) -> None:
    rows = [{"prompt": f"Q{n}", "chosen": "a", "rejected": "b", "judge": "gpt"} for n in range(4)]
    (note,) = [note for note in read(write_jsonl(rows)).notes if "by its name" in note.text]
    assert note.loud
    assert "columns.person= says that it names nobody" in note.text
    assert read(write_jsonl(rows), columns={"person": ""}).rows[0].person is None
