"""Values of a document that somebody else wrote: plain, of bounded size, and never looked up in anything.

`${...}` would be resolved by the library that reads configurations (an environment variable, a file, another
key). Nothing of ours needs it, so it is refused by name wherever it stands, in a key as in a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

LOOKUP = "${"
DEEPEST = 32  # levels; a charter, the deepest document, has six
MOST = 200_000  # values
SHOWN = 60  # characters of a value in a message


def plain_faults(values: Any, key: str = "", *, texts: bool = True) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong) of everything in nested values that no document of ours may hold.

    Nothing here recurses, so no depth of nesting can end the process.

    Args:
        values: of any form.
        key: where they stand.
        texts: whether keys and texts are looked at too, and not only how deep and how many they are.
    """
    waiting: list[tuple[str, Any, int]] = [(key, values, 0)]
    seen = 0
    while waiting:
        at, value, depth = waiting.pop()
        seen += 1
        if seen > MOST:
            yield key, f"more than {MOST:,} values; accepted: at most so many"
            return
        if depth > DEEPEST:
            yield at, f"nested deeper than {DEEPEST} levels; accepted: at most so many"
            return
        if isinstance(value, Mapping):
            for name, inner in value.items():
                below = f"{at}.{name!s:.{SHOWN}}" if at else f"{name!s:.{SHOWN}}"
                if texts and isinstance(name, str) and (fault := text_fault(name)):
                    yield below, f"its name holds {fault}"
                waiting.append((below, inner, depth + 1))
        elif isinstance(value, list | tuple):
            waiting.extend((f"{at}[{place}]", inner, depth + 1) for place, inner in enumerate(value))
        elif texts and isinstance(value, str) and (fault := text_fault(value)):
            yield at, f"found {value[:SHOWN]!a}, which holds {fault}"


def text_fault(text: str) -> str:
    """What a text holds that no document may, in words; empty where nothing."""
    if LOOKUP in text:
        return f"{LOOKUP}; accepted: values as they are (nothing is looked up)"
    if "\0" in text:
        return "the character NUL; accepted: text"
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        return "half of a surrogate pair; accepted: text that UTF-8 can hold"
    return ""


def is_plain(value: Any) -> bool:
    """Whether a value is one of JSON's (infinity among the numbers), with texts for keys."""
    if value is None or isinstance(value, bool | int | str):
        return True
    if isinstance(value, float):
        return not math.isnan(value)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(inner) for key, inner in value.items())
    return isinstance(value, list | tuple) and all(map(is_plain, value))


def shown(value: Any) -> str:
    """A value in a message: on one line, cut where it is long, without what a terminal would act on."""
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= 2 * SHOWN else f"{text[: 2 * SHOWN]}..."
