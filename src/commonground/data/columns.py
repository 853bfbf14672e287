"""The column language: where in a row a value of ours stands, and what it means there.

`a.b` goes into an object or, by number, into a list (`output.0.content`; `-1` is the last); `a+b` joins texts
with a blank line; `a|b` is the first that is there; `a>b` says a where that number is higher, else b, or tie.
A column that is called `a.b` itself wins. NaN, null and the empty text are absent.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from commonground.data.dialogue import Turn
from commonground.data.reading import nearest
from commonground.data.values import RowError, absent, number, plain_name
from commonground.errors import DataError

ANSWERS = ("chosen", "rejected")
VERDICT = ("a", "b", "verdict")
CONTEXT = ("prompt", "system", "person", "group", "tag", "time")
OURS = (*ANSWERS, *VERDICT, *CONTEXT)

A, B, TIE, BAD, NOTHING = "a", "b", "tie", "both bad", "skip"
OUTCOMES = (A, B, TIE, BAD, NOTHING)
SIGNS = ("<0", ">0")  # of a verdict that is a strength, e.g. -3 to 3

_WORDS = {
    A: "a modela responsea answera optiona assistanta completiona outputa left first chosena",
    B: "b modelb responseb answerb optionb assistantb completionb outputb right second chosenb",
    TIE: "tie draw equal tied same both bothgood tiebothgood even similar",
    BAD: "bothbad tiebothbad neither none bothpoor nogood",
    NOTHING: "skip skipped unsure flag unknown na nan null",
}
KNOWN = {word: outcome for outcome, words in _WORDS.items() for word in words.split()}

# Names that say: here stands who judged. Compared without case and without what is no letter or digit.
PEOPLE = (
    *("person", "personid", "userid", "user", "annotatorid", "annotator", "workerid", "worker", "raterid"),
    *("rater", "participantid", "participant", "labelerid", "labeler", "labellerid", "labeller"),
    *("evaluatorid", "evaluator", "judgeid", "judge", "respondentid", "respondent", "subjectid"),
    *("reviewerid", "reviewer", "completedby", "judgehash", "uid", "annotatorname", "username"),
    *("email", "emailaddress"),
)

_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "functioncall": "assistant",
}


def find(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path of the column language; None where there is nothing.

    Args:
        row: as read.
        path: a column, `a.b`, `a.0.b`, or `a+b`.
    """
    if path in row:
        return row[path]
    if "|" in path:
        found = (find(row, part.strip()) for part in path.split("|"))
        return next((one for one in found if not absent(one)), None)
    if ">" in path:
        return _higher(*(find(row, part.strip()) for part in path.split(">")[:2]))
    if "+" in path:
        parts = [find(row, part.strip()) for part in path.split("+")]
        texts = [part for part in parts if not absent(part)]
        if all(isinstance(part, str) for part in texts):
            return "\n\n".join(part.strip() for part in texts if part.strip()) or None
        return texts[0] if len(texts) == 1 else None
    value: Any = row
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and re.fullmatch(r"-?\d{1,4}", step):
            at = int(step)
            value = value[at] if -len(value) <= at < len(value) else None
        else:
            return None
    return value


def _higher(first: object, second: object) -> str | None:
    numbers = [number(one) for one in (first, second)]
    if numbers[0] is None or numbers[1] is None:
        return None
    return TIE if numbers[0] == numbers[1] else A if numbers[0] > numbers[1] else B


def heads(path: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of the file that a path begins at."""
    if path in row:
        return (path,)
    parts = re.split(r"[|+>]", path) if path else []
    return tuple(part.strip() if part.strip() in row else part.strip().split(".")[0] for part in parts)


def turns_of(name: str, value: object) -> list[Turn] | None:
    """Messages as turns: `{role, content}`, ShareGPT's `{from, value}`, one of them or a list.

    Content in parts is joined where all parts are texts. None = no messages.

    Raises:
        RowError: a list that holds messages and something else, or a message without a text.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        return None
    said: list[Turn] = []
    for message in value:
        role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
        if not isinstance(role, str):
            raise RowError(f"{name} is a list, but not of {{role, content}} messages", message)
        content = message["content"] if "content" in message else message.get("value", message.get("text"))
        said.append((_ROLES.get(plain_name(role), role), _content(name, content)))
    return said


def _content(name: str, content: object) -> str:
    if isinstance(content, Mapping):
        content = [content]
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if parts and all(isinstance(part, str) for part in parts):
            return "\n".join(part for part in parts if isinstance(part, str))
        raise RowError(f"{name} has a message with a part that is no text (an image, a tool call)")
    if not isinstance(content, str):
        raise RowError(f"{name} has a message whose content is not a text", content)
    return content


def opened(value: object) -> object:
    """A text that is JSON or Python of messages, or of a list of texts, as what it says; else the value."""
    if not isinstance(value, str) or len(value) > 1 << 20:
        return value
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")) and not (
        text.startswith("{") and text.endswith("}")
    ):
        return value
    found: object = None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    if isinstance(found, dict):
        is_message = ("role" in found and "content" in found) or ("from" in found and "value" in found)
        return [found] if is_message else value
    if isinstance(found, list) and found:
        if all(isinstance(one, dict) and ("role" in one or "from" in one) for one in found):
            return found
        if all(isinstance(one, str) for one in found):
            return found
    return value


def outcome(value: object, map_: Mapping[str, str], row: Mapping[str, Any], sides: Mapping[str, str]) -> str:
    """What a verdict says: one of `OUTCOMES`.

    Args:
        value: as found.
        map_: values that the user or the shape names -> an outcome; `<0` and `>0` are the signs of a number.
        row: where models of the two answers, or the answers themselves, may be what is named.
        sides: `a` and `b` -> the path of that answer.

    Raises:
        RowError: the value is none that is known.
    """
    if absent(value):
        return map_.get("", NOTHING)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = (str(value).lower() if isinstance(value, bool) else str(value)).strip()
    if word in map_:
        return map_[word]
    folded = {key.casefold(): said for key, said in map_.items()}
    if word.casefold() in folded:
        return folded[word.casefold()]
    if any(sign in map_ for sign in SIGNS) and re.fullmatch(r"[-+]?\d+(\.\d+)?", word):
        number = float(word)
        return map_.get("<0" if number < 0 else ">0" if number > 0 else "0", TIE)
    if order := re.fullmatch(r"\[*([AaBb])\s*([<>]+|=+)\s*([AaBb])\]*", word):  # A>B, [[B>>A]], A=B
        first, mark, second = order[1].lower(), order[2][0], order[3].lower()
        return TIE if mark == "=" or first == second else first if mark == ">" else second
    if plain_name(word) in KNOWN:
        return KNOWN[plain_name(word)]
    for side in (A, B):
        path = sides.get(side, "")
        if word == path or word in [row.get(f"model_{side}"), find(row, path)]:
            return side
    raise RowError("the verdict is none that is known", word, field="verdict")


def check_verdicts(map_: Mapping[str, str], place: str) -> dict[str, str]:
    """The user's map of verdicts, checked.

    Raises:
        DataError: a right side that is no outcome.
    """
    for word, said in map_.items():
        if said not in OUTCOMES:
            raise DataError(
                f"{place}.verdicts maps {word!r} to {said!r}; accepted: {', '.join(OUTCOMES)}"
                f"{nearest(str(said), OUTCOMES)}"
            )
    return dict(map_)


def person_columns(sample: Sequence[Mapping[str, Any]], used: Iterable[str]) -> list[str]:
    """Paths that look like who judged, by their names, best first: a scalar, or an object with an id."""
    found: dict[str, int] = {}
    taken = set(used)
    for name in dict.fromkeys(name for row in sample for name in row):
        if name in taken or plain_name(name) not in PEOPLE:
            continue
        values = [row.get(name) for row in sample if not absent(row.get(name))]
        if values and all(isinstance(value, Mapping) for value in values):
            inner = next(
                (
                    key
                    for key in ("id", "user_id", "name")
                    if all(isinstance(v, Mapping) and key in v for v in values)
                ),
                None,
            )
            if inner:
                found[f"{name}.{inner}"] = PEOPLE.index(plain_name(name))
        elif values and all(isinstance(value, str | int | float) for value in values):
            found[name] = PEOPLE.index(plain_name(name))
    return sorted(found, key=found.__getitem__)
