"""What `data check` found, as lines for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_LISTED = ("bad_rows", "config", "notes", "unused", "left_out", "used")


def check_lines(found: Mapping[str, Any]) -> list[str]:
    """Lines of text.

    Args:
        found: what `check.check_path` gave.
    """
    return list(_lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for key, value in found.items():
        if key not in _LISTED and value not in ("", {}):
            yield f"{key.replace('_', ' ')}: {_words(value)}"
    if found.get("used"):
        yield "used: " + ", ".join(f"{ours} = {theirs}" for ours, theirs in found["used"].items())
    unused = found.get("unused") or {}
    yield f"columns not used: {len(unused) or 'none'}"
    yield from (f"  {name}: {words}" for name, words in unused.items())
    left_out = found.get("left_out") or {}
    yield f"left out: {sum(left_out.values()) if left_out else 'nothing'}"
    yield from (f"  {reason}: {count}" for reason, count in left_out.items())
    bad = found.get("bad_rows") or {}
    yield f"bad rows: {bad.get('count', 0)}"
    yield from (f"  {line}" for line in bad.get("first", ()))
    if found.get("notes"):
        yield "note:"
        yield from (f"  {note}" for note in found["notes"])
    yield "use it with:"
    yield from (f"  {line}" for line in found.get("config", ()))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_words(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " ".join(_words(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
