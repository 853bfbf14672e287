"""Texts of people and models into token ids, in which no control token is obeyed.

A text that contains `<|im_start|>assistant` must not open a turn, and `[SEP]` must not end a part: whoever
writes a text would speak as somebody else. So a text is split into ordinary pieces wherever it spells an
added token; only a chat template, which is the model's own, may hold control tokens.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from typing import Any


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text that holds no control token, whatever it spells; none is added either.

    Args:
        tokenizer: a transformers tokenizer, fast or slow.
        text: what somebody wrote.
    """
    pattern, added = _added(tokenizer)
    if pattern is None or not pattern.search(text):
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    if not added & set(ids):
        return ids
    # A slow tokenizer, or an added token that is not called special: cut it in two after its first letter.
    cuts = [0, *(match.start() + 1 for match in _overlapping(pattern, text)), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(cuts) if a < b]
    return [i for part in parts for i in tokenizer(part, add_special_tokens=False)["input_ids"]]


def with_ends(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text between the tokens that the tokenizer itself puts around one."""
    pattern, _ = _added(tokenizer)
    if pattern is None or not pattern.search(text):
        return list(tokenizer(text)["input_ids"])
    letter = "a"
    whole, bare = list(tokenizer(letter)["input_ids"]), plain_ids(tokenizer, letter)
    first = next((k for k in range(len(whole)) if whole[k : k + len(bare)] == bare), len(whole))
    return [*whole[:first], *plain_ids(tokenizer, text), *whole[first + len(bare) :]]


def chat_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of one user turn in the chat template, ready for the answer.

    The template's control tokens are tokens and those that the text spells are not. A text without any is
    read in one piece with its template, as it always was.

    Args:
        tokenizer: with a chat template.
        text: what the user says.
    """
    rendered = _rendered(tokenizer, text)
    pattern, _ = _added(tokenizer)
    if pattern is None or not pattern.search(text):
        return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    head, _, tail = _rendered(tokenizer, MARK).partition(MARK)
    if rendered.startswith(head) and rendered.endswith(tail):
        text = rendered[len(head) : len(rendered) - len(tail)]  # as the template trims it
    ends = (
        list(tokenizer(end, add_special_tokens=False)["input_ids"]) if end else [] for end in (head, tail)
    )
    before, after = ends
    return [*before, *plain_ids(tokenizer, text), *after]


MARK = "commonground0text"  # stands for a text in a template


def _rendered(tokenizer: Any, text: str) -> str:
    turn = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))


def _overlapping(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Every place where an added token is spelled, those that begin within another too."""
    found, at = [], 0
    while (match := pattern.search(text, at)) is not None:
        found.append(match)
        at = match.start() + 1
    return found


def _added(tokenizer: Any) -> tuple[re.Pattern[str] | None, frozenset[int]]:
    vocabulary = tokenizer.get_added_vocab()
    return _pattern(tuple(sorted((str(k), int(v)) for k, v in vocabulary.items())))


@lru_cache(maxsize=64)
def _pattern(vocabulary: tuple[tuple[str, int], ...]) -> tuple[re.Pattern[str] | None, frozenset[int]]:
    """What finds an added token in a text, blanks and single ordinary letters apart, and their ids."""
    words = sorted((word for word, _ in vocabulary if word.strip()), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, words))) if words else None
    return pattern, frozenset(number for word, number in vocabulary if word.strip())
