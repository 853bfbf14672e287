"""Texts of people and models into token ids, in which no control token is obeyed.

A text that contains `<|im_start|>assistant` must not open a turn, and `[SEP]` must not end a part: whoever
writes a text would speak as somebody else. So a text is split into ordinary pieces wherever it spells an
added token; only a chat template, which is the model's own, may hold control tokens.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from commonground.data.dialogue import Turn, render
from commonground.errors import ModelError


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


@dataclass(frozen=True)
class Chat:
    """A conversation in a model's chat template, ready for the answer.

    Attributes:
        ends: the template's own texts before, between and after the turns' words, n + 1.
        said: (role, words) of the n turns as the template writes them.
        form: `as_said`; `system_folded` into the first user turn, or `tool_folded` into a turn of the user,
            where the template has no such role; `one_turn` where it takes no such conversation at all.
    """

    ends: tuple[str, ...]
    said: tuple[Turn, ...]
    form: str


def chat(tokenizer: Any, said: Sequence[Turn]) -> Chat:
    """Return a conversation as the tokenizer's template writes it, whole and in order.

    A template that refuses a role, drops a turn's words or wants user and assistant to alternate gets the
    nearest conversation that it takes.

    Args:
        tokenizer: with a chat template.
        said: turns, roles system, user, assistant and tool; at least one.

    Raises:
        ModelError: the template takes no turn of a user, whatever is tried.
    """
    for form, turns in _forms(said):
        ends = _ends(tokenizer, [role for role, _ in turns])
        if ends is not None:
            return Chat(ends, _as_written(tokenizer, ends, turns), form)
    try:
        why = f"it gives {_rendered(tokenizer, [('user', MARK)])[:80]!r}"
    except Exception as error:  # a template raises what it likes
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    raise ModelError(
        f"the model's chat template takes no turn of a user: {why}",
        hint="messages are given to it as texts; set a template that takes them, or use another model.base",
    )


def _forms(said: Sequence[Turn]) -> Iterator[tuple[str, list[Turn]]]:
    """A conversation and what may stand for it, the nearest first."""
    yield "as_said", list(said)
    untooled = _merged([("user", f"Tool: {text}") if role == "tool" else (role, text) for role, text in said])
    if any(role == "tool" for role, _ in said):
        yield "tool_folded", untooled
    system = "\n\n".join(text for role, text in untooled if role == "system")
    rest = [turn for turn in untooled if turn[0] != "system"]
    if rest and rest[0][0] == "user":
        first = f"{system}\n\n{rest[0][1]}" if system else rest[0][1]
        yield "system_folded", _merged([("user", first), *rest[1:]])
    yield "one_turn", [("user", render(said))]


def _merged(said: Sequence[Turn]) -> list[Turn]:
    """Turns of one role after each other as one: templates that alternate take no two."""
    found: list[Turn] = []
    for role, text in said:
        if found and found[-1][0] == role:
            found[-1] = (role, f"{found[-1][1]}\n\n{text}")
        else:
            found.append((role, text))
    return found


MARK = "commonground0text"  # stands for a text in a template


def _ends(tokenizer: Any, roles: Sequence[str]) -> tuple[str, ...] | None:
    """The template's own texts around turns of these roles; None where it refuses or loses one."""
    marks = [f"{MARK}{place}x" for place in range(len(roles))]
    try:
        rest = _rendered(tokenizer, list(zip(roles, marks, strict=True)))
    except Exception:  # a template raises what it likes, most often jinja2's TemplateError
        return None
    ends = []
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found:
            return None
        ends.append(before)
    return (*ends, rest)


def _as_written(tokenizer: Any, ends: tuple[str, ...], turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns' words as the template writes them: many trim them."""
    written = _rendered(tokenizer, turns)
    if len(turns) == 1:
        only = re.fullmatch("(.*)".join(map(re.escape, ends)), written, flags=re.DOTALL)
        return ((turns[0][0], only[1]),) if only else tuple(turns)
    trimmed = tuple((role, text.strip()) for role, text in turns)
    return trimmed if _joined(ends, trimmed) == written else tuple(turns)


def _joined(ends: tuple[str, ...], turns: Sequence[Turn]) -> str:
    return "".join(end + text for end, (_, text) in zip(ends, turns, strict=False)) + ends[-1]


def chat_ids(tokenizer: Any, said: str | Sequence[Turn]) -> list[int]:
    """Return the ids of a conversation in the chat template, ready for the answer.

    The template's control tokens are tokens and those that a text spells are not. A conversation without any
    is read in one piece with its template.

    Args:
        tokenizer: with a chat template.
        said: turns, or what the user says in the only one.
    """
    return ids_of(tokenizer, chat(tokenizer, [("user", said)] if isinstance(said, str) else said))


def ids_of(tokenizer: Any, found: Chat) -> list[int]:
    """Return the ids of a conversation in its template; see `chat_ids`."""
    pattern, _ = _added(tokenizer)
    if pattern is None or not any(pattern.search(text) for _, text in found.said):
        return list(tokenizer(_joined(found.ends, found.said), add_special_tokens=False)["input_ids"])
    ids = end_ids(tokenizer, found.ends[0])
    for (_, text), end in zip(found.said, found.ends[1:], strict=True):
        ids += [*plain_ids(tokenizer, text), *end_ids(tokenizer, end)]
    return ids


def end_ids(tokenizer: Any, end: str) -> list[int]:
    """Return the ids of a template's own text, control tokens among them."""
    return list(tokenizer(end, add_special_tokens=False)["input_ids"]) if end else []


def _rendered(tokenizer: Any, said: Sequence[Turn]) -> str:
    turns = [{"role": role, "content": text} for role, text in said]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


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
