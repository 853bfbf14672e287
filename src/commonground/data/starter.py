"""The shipped texts, as values. The people who answer them are drawn by `simulations.population`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from commonground.errors import DataError

STYLES = ("brief", "bullets", "emoji", "casual", "hedged", "formal", "analogy", "coach")


@dataclass(frozen=True)
class TastePrompt:
    """A prompt with one answer in every style of `STYLES`; none of the answers is better than another."""

    prompt: str
    topic: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class SafetyPair:
    """A prompt with a safe and an unsafe answer."""

    prompt: str
    safe: str
    unsafe: str
    topic: str


def shipped_lines(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Rows of a shipped file of JSON lines, each with its place.

    Args:
        name: below the package's folder, e.g. ``starter/taste.jsonl``.

    Raises:
        DataError: it cannot be read.
    """
    resource = files("commonground.data") / name
    try:
        text = resource.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"the shipped file {name} cannot be read: {error.strerror or error}",
            hint="install commonground again",
        ) from error
    return [
        (f"{name}:{number}", json.loads(line))
        for number, line in enumerate(
            text.split("\n"), start=1
        )  # splitlines would cut at U+2028 inside a text
        if line.strip()
    ]


def checked_text(row: Mapping[str, Any], key: str, place: str) -> str:
    """A text of a row; raises `DataError` where it is none."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: {key} is {value!r:.40}; a text is needed")
    return value


@cache
def taste_prompts() -> tuple[TastePrompt, ...]:
    """The taste prompts, in file order.

    Raises:
        DataError: the file is missing, or a prompt lacks a style.
    """
    prompts: list[TastePrompt] = []
    for place, row in shipped_lines("starter/taste.jsonl"):
        answers = row.get("answers")
        if not isinstance(answers, dict) or set(answers) != set(STYLES):
            have = ", ".join(answers) if isinstance(answers, dict) else repr(answers)
            raise DataError(f"{place}: answers has {have}; needed: {', '.join(STYLES)}")
        texts = {style: checked_text(answers, style, place) for style in STYLES}
        prompts.append(
            TastePrompt(
                checked_text(row, "prompt", place), checked_text(row, "topic", place), MappingProxyType(texts)
            )
        )
    return tuple(prompts)


@cache
def safety_pairs() -> tuple[SafetyPair, ...]:
    """The safety pairs, in file order.

    Raises:
        DataError: the file is missing or a field is.
    """
    return tuple(
        SafetyPair(*(checked_text(row, key, place) for key in ("prompt", "safe", "unsafe", "topic")))
        for place, row in shipped_lines("starter/safety.jsonl")
    )


def starter_texts() -> tuple[str, ...]:
    """Every shipped text (prompts and answers), in file order: the public texts that bases are built from."""
    texts: list[str] = []
    for taste in taste_prompts():
        texts += [taste.prompt, *taste.answers.values()]
    for pair in safety_pairs():
        texts += [pair.prompt, pair.safe, pair.unsafe]
    return tuple(texts)
