"""Strategies and seeds of a tournament as they are written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from commonground.settings import Places

KEYS = ("name", "options", "label")
FORMS = "a list such as [fedavg,fedadam,module:Class]; an item may be {name: fedadam, options: {eta: 0.1}}"


@dataclass(frozen=True)
class Entry:
    """A strategy that takes part.

    Attributes:
        name: as in `strategy.name`.
        options: as in `strategy.options`.
        shown: the label the user gave it, or ''.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    shown: str = ""

    @property
    def label(self) -> str:
        """What the table calls it."""
        inside = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return self.shown or (f"{self.name}({inside})" if inside else self.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `read_strategies` reads back."""
        given = {"name": self.name, "options": dict(self.options), "label": self.shown}
        return {key: value for key, value in given.items() if value}


def read_strategies(given: Any, places: Places, faults: list[str]) -> list[Entry]:
    """The strategies of `strategies=[...]`; what is wrong is added to `faults`."""
    place = places.get("strategies", "strategies")
    if not isinstance(given, list) or not given:
        found = "nothing" if given is None else repr(given)
        faults.append(f"{place}: found {found}; accepted: {FORMS}")
        return []
    entries: list[Entry] = []
    for item in given:
        entry = _entry(item)
        if entry is None:
            faults.append(f"{place}: found {item!r}; accepted: {FORMS}")
        elif any((entry.name, entry.options) == (one.name, one.options) for one in entries):
            faults.append(f"{place}: found {entry.label} twice; each strategy once (options make it another)")
        elif any(entry.label == one.label for one in entries):
            faults.append(f"{place}: found the label {entry.label!r} twice; each label once")
        else:
            entries.append(entry)
    return entries


def _entry(item: Any) -> Entry | None:
    if isinstance(item, str) and item:
        return Entry(item)
    if not isinstance(item, Mapping) or set(item) - set(KEYS):
        return None
    name, options, label = item.get("name"), item.get("options") or {}, item.get("label") or ""
    if not (isinstance(name, str) and name and isinstance(options, Mapping) and isinstance(label, str)):
        return None
    return Entry(name, {str(key): value for key, value in options.items()}, label)


def read_seeds(given: Any, places: Places, faults: list[str]) -> list[int]:
    """The seeds of `seeds=5` (0 to 4) or `seeds=[3,7]`; what is wrong is added to `faults`."""
    place, accepted = places.get("seeds", "seeds"), "a number of seeds such as 5 (0 to 4), or a list [3,7]"
    if _whole(given) and given >= 1:
        return list(range(given))
    if not isinstance(given, list) or not given or not all(_whole(item) and item >= 0 for item in given):
        faults.append(f"{place}: found {given!r}; accepted: {accepted}")
        return []
    for twice in sorted({seed for seed in given if given.count(seed) > 1}):
        faults.append(f"{place}: found {twice} twice; each seed once, or it would count double")
    return list(given)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
