"""What has to be known of the data before a number of the page is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonground.report.words import mapping


def cautions(result: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """(words, loud) of every note of the sources, the loud ones first.

    Args:
        result: a result.json; `data.notes` may be missing.
    """
    found = []
    for tag, notes in mapping(result, "data", "notes").items():
        for note in notes if isinstance(notes, list) else []:
            if isinstance(note, Mapping) and isinstance(note.get("text"), str):
                found.append((f"{str(tag).capitalize()}: {note['text']}", bool(note.get("loud"))))
    return sorted(found, key=lambda one: not one[1])
