"""What a cell counts for: the numbers of one finished run, and how often which person was right.

Everything is read from the cell's `result.json`; per-person numbers are used here and are not kept, so that
`compare.json` stays small however many people were evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonground.report.words import dig, mapping, number

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
POLICIES = ("personal", "shared")  # what a strategy is for: with and without the private part
FLOAT32 = 4  # bytes of a number in a message


@dataclass(frozen=True)
class People:
    """The evaluated people of a cell.

    Attributes:
        taste: policy -> (people,) accuracy, nan where a person has no comparison.
        safety: the same for safety comparisons.
        minority: (people,) whether a person is in the minority.
        planted: whether the minority is planted, or found in this cell's training comparisons.
    """

    taste: dict[str, Floats]
    safety: dict[str, Floats]
    minority: Mask
    planted: bool


def people_of(result: Mapping[str, Any]) -> People:
    """The evaluated people of a result."""

    def floats(table: str) -> dict[str, Floats]:
        lists = mapping(result, table)
        return {
            policy: np.array([np.nan if v is None else float(v) for v in lists.get(policy) or ()])
            for policy in POLICIES
        }

    return People(
        floats("per_person"),
        floats("per_person_safety"),
        np.array(dig(result, "per_person", "minority") or (), dtype=np.bool_),
        dig(result, "minority", "source") == "planted",
    )


def measures(result: Mapping[str, Any], minority: Mask) -> dict[str, float | None]:
    """The numbers of one cell's row.

    Args:
        result: its result.json.
        minority: (people,) the same people in every cell of the setting and seed; where the minority is
            not planted, each run finds its own, and theirs would not be comparable.
    """
    people = people_of(result)
    row: dict[str, float | None] = {}
    for policy in POLICIES:
        entry = mapping(result, "policies", policy)
        taste, spread = mapping(entry, "taste"), mapping(result, "welfare", policy)
        few = people.taste[policy][minority]
        groups = [number(mapping(one).get("accuracy")) for one in mapping(taste, "groups").values()]
        row |= {
            f"{policy}_taste": number(taste.get("accuracy")),
            f"{policy}_worst_decile": number(taste.get("worst_decile")),
            f"{policy}_minority": float(np.nanmean(few)) if np.isfinite(few).any() else None,
            f"{policy}_worst_group": min((g for g in groups if g is not None), default=None),
            f"{policy}_safety": number(dig(entry, "safety", "accuracy")),
            f"{policy}_utilitarian": number(spread.get("mean")),
            f"{policy}_nash": number(spread.get("nash")),
            f"{policy}_minimum": number(spread.get("min")),
            f"{policy}_gini": number(spread.get("gini")),
        }
    return row | _costs(result) | _erased(result) | _attack(result)


def groups_of(result: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Policy -> public group -> taste accuracy."""
    return {
        policy: {
            str(name): number(mapping(one).get("accuracy"))
            for name, one in mapping(result, "policies", policy, "taste", "groups").items()
        }
        for policy in POLICIES
    }


def _costs(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Privacy, bytes and time. Down: who is drawn first receives all tensors, those never sent included."""
    privacy, egress = mapping(result, "privacy"), mapping(result, "egress")
    drawn = sum(
        int(number(event.get("people")) or 0) for event in mapping(result, "curves").get("shared", ())
    )
    size = number(dig(privacy, "shared", "numbers"))
    received = sum(math.prod(tensor["shape"]) for tensor in mapping(egress, "manifest").get("received", ()))
    return {
        "epsilon": _epsilon(dig(privacy, "shared", "epsilon")),
        "epsilon_private": _epsilon(dig(privacy, "private", "epsilon")),
        "bytes_up": number(egress.get("bytes")),
        "bytes_down": None if size is None else drawn * (size + received) * FLOAT32,
        "seconds": number(result.get("seconds")),
    }


def _epsilon(value: Any) -> float | None:
    return float("inf") if value == "inf" else number(value)


def _erased(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Nats a comparison that one model for everybody loses.

    `erased_nats`: of the model for everybody that this strategy has trained (on all tags, the pooled arm),
    against models that know whose comparison it is, fitted without noise; noise and a poor rule add to it.
    `erased_at_least`: of the best such model, a property of the people and the same for every strategy.
    """
    one = number(dig(result, "policies", "pooled", "taste", "calibration", "log_loss"))
    own = number(dig(result, "erased", "personal_log_loss"))
    return {
        "erased_nats": None if one is None or own is None else one - own,
        "erased_at_least": number(dig(result, "erased", "nats")),
    }


def _attack(result: Mapping[str, Any]) -> dict[str, float | None]:
    """How often the answer that a named attack wants wins under the shared model, over everybody's probes.

    They are the same whoever attacks, so that a run in which nobody does is the baseline; the table puts its
    number beside (`rows.make_rows`).
    """
    return {
        "attack_success": number(dig(result, "attack", "success_everybody", "shared")),
        "attack_baseline": None,
    }


NAMES = tuple(measures({}, np.zeros(0, dtype=np.bool_)))  # every number of a row, in order
