"""Which parts of a result only a simulation can see, and what is left without them.

One rule everywhere: a mapping's `simulation_only` lists the keys beside it whose values were computed from
people's data without noise, or depend on the machine: nobody in a deployment would have them, and no epsilon
covers them. `true` in place of a list says so of all keys. What is not listed is public, or computed from
noised releases alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIMULATION_ONLY = "simulation_only"


def marked(values: Mapping[str, Any], names: frozenset[str] | set[str]) -> dict[str, Any]:
    """Return `values` with its keys of `names` listed as visible in a simulation only."""
    return {**values, SIMULATION_ONLY: sorted(names & values.keys())}


def unmarked(value: Any) -> Any:
    """Return a copy of a JSON value without anything that is marked, and without the marks."""
    if isinstance(value, Mapping):
        listed = value.get(SIMULATION_ONLY)
        hidden = set(listed) if isinstance(listed, list) else set(value) if listed is True else set()
        return {
            key: unmarked(part) for key, part in value.items() if key != SIMULATION_ONLY and key not in hidden
        }
    if isinstance(value, (list, tuple)):
        return [unmarked(part) for part in value]
    return value
