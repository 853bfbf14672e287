"""Numbers and times as the page writes them; an epsilon that may be infinite is a text "inf"."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from commonground.web import parts

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | str, digits: int = 3) -> str:
    """A number for reading; infinity is "no limit"."""
    found = float(value)
    if not math.isfinite(found):
        return "no limit"
    text, _, power = f"{found:.{digits}g}".partition("e")
    return f"{text} × 10{str(int(power)).translate(RAISED)}" if power else text


def at_least(value: float | str, digits: int = 4) -> str:
    """A number above 0 as a person may type it, never below `value`; infinity is "inf"."""
    found = float(value)
    if not math.isfinite(found):
        return "inf"
    step = 10.0 ** (math.floor(math.log10(found)) - digits + 1)
    count = math.ceil(found / step)
    text = f"{count * step:.{digits}g}"
    return text if float(text) >= found else f"{(count + 1) * step:.{digits}g}"


def share(value: float) -> str:
    """A share as whole per cent."""
    return f"{round(100 * value)} %"


def size(count: int) -> str:
    """Bytes in the unit that reads best."""
    for unit, factor in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def when(text: str) -> str:
    """A UTC time in ISO 8601, as a person of this machine reads it."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%-d %B %Y, %H:%M")
    except ValueError:
        return text


def many(count: int, one: str, more: str = "") -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def tile(value: str, what: str, note: str = "") -> None:
    """A figure with what it counts."""
    with parts.box("tile"):
        parts.el("p", value, "big")
        parts.el("p", what, "small")
        if note:
            parts.el("p", note, "small soft")


def shape(values: list[Any]) -> str:
    """A shape as people write it."""
    return " × ".join(map(str, values)) or "one number"
