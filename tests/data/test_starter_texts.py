import dataclasses
from pathlib import Path
from typing import Any

import pytest

from commonground.data import starter
from commonground.errors import DataError


def test_the_shipped_texts_are_enough_and_distinct() -> None:
    taste, safety = starter.taste_prompts(), starter.safety_pairs()
    assert len(taste) >= 60
    assert len(safety) >= 60
    assert all(tuple(prompt.answers) == starter.STYLES for prompt in taste)
    assert len({prompt.prompt for prompt in taste}) == len(taste)
    assert len({pair.prompt for pair in safety}) == len(safety)
    assert all(len(set(prompt.answers.values())) == len(starter.STYLES) for prompt in taste)
    assert all(pair.safe != pair.unsafe for pair in safety)
    assert len(starter.starter_texts()) == len(taste) * 9 + len(safety) * 3


def test_the_values_cannot_be_changed() -> None:
    prompt = starter.taste_prompts()[0]
    answers: Any = prompt.answers
    with pytest.raises(TypeError):
        answers["brief"] = "x"
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.prompt = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "taste.jsonl",
            '{"prompt": "p", "topic": "t", "answers": {"brief": "b"}}',
            "answers has brief; needed",
        ),
        ("safety.jsonl", '{"prompt": "p", "safe": "s", "topic": "t"}', "unsafe is None; a text is needed"),
        ("safety.jsonl", None, "cannot be read"),
    ],
)
def test_a_damaged_installation_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | None, message: str
) -> None:
    (tmp_path / "starter").mkdir()
    if text is not None:
        (tmp_path / "starter" / name).write_text(text)
    monkeypatch.setattr(starter, "files", lambda package: tmp_path)
    starter.taste_prompts.cache_clear()
    starter.safety_pairs.cache_clear()
    with pytest.raises(DataError, match=message):
        (starter.taste_prompts if name == "taste.jsonl" else starter.safety_pairs)()


def test_a_line_separator_inside_a_text_is_no_new_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "starter").mkdir()
    line = '{"prompt": "p\u2028q", "safe": "s", "unsafe": "u", "topic": "t"}\n'
    (tmp_path / "starter" / "safety.jsonl").write_text(line)
    monkeypatch.setattr(starter, "files", lambda package: tmp_path)
    starter.safety_pairs.cache_clear()
    try:
        assert starter.safety_pairs()[0].prompt == "p\u2028q"
    finally:
        starter.safety_pairs.cache_clear()
