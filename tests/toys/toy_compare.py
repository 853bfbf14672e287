"""A small compare.json by hand: two settings, three strategies, one of them refused in the first."""

from __future__ import annotations

import copy
from typing import Any

from commonground.report.compare_conclusion import conclusion

MEASURES = (
    "personal_taste",
    "shared_taste",
    "personal_minority",
    "shared_minority",
    "personal_safety",
    "shared_safety",
)
SHARES = ("taste", "worst_decile", "minority", "worst_group", "safety")
WELFARE = ("utilitarian", "nash", "minimum", "gini")
NUMBERS: dict[str, Any] = {
    **{f"{policy}_{name}": 0.6 for policy in ("personal", "shared") for name in (*SHARES, *WELFARE)},
    **{"epsilon": 8.0, "epsilon_private": 8.0, "bytes_up": 4000.0, "bytes_down": 4000.0, "seconds": 3.2},
    **{"erased_nats": 0.05, "erased_at_least": 0.03},
}


def row(strategy: str, setting: int, **numbers: Any) -> dict[str, Any]:
    """A row that is done."""
    groups = {policy: {"18-34": 0.61, "55+": 0.58} for policy in ("personal", "shared")}
    return {
        "strategy": strategy,
        "setting": setting,
        "status": "done",
        "seeds": [0, 1],
        "reason": "",
        "numbers": NUMBERS | numbers,
        "groups": groups,
        "planes": ["shared_safety"],
    }


def cell(row: dict[str, Any], seed: int) -> dict[str, Any]:
    """The cell of a row and seed."""
    found = {key: row[key] for key in ("strategy", "setting", "status", "reason")}
    return {**found, "name": f"{row['strategy']}-{row['setting']}-{seed}", "seed": seed, "seconds": 3.2}


def difference(
    strategy: str, setting: int, measure: str, mean: float = 0.0, half: float = 0.02, p: float = 0.9
) -> dict[str, Any]:
    """A strategy against fedavg."""
    numbers = {"mean": mean, "low": mean - half, "high": mean + half, "p": p, "p_holm": p}
    who = {"strategy": strategy, "reference": "fedavg", "setting": setting, "measure": measure}
    return {**who, **numbers, "beyond_noise": p <= 0.05, "seeds": 2, "people": 40}


def compare_document(**changes: Any) -> dict[str, Any]:
    """A compare.json; `changes` replace whole keys, and the conclusion follows."""
    refused = {
        **row("krum", 0),
        "status": "refused",
        "seeds": [],
        "reason": "krum compares <b>",
        "groups": {},
    }
    refused |= {"numbers": dict.fromkeys(NUMBERS), "planes": []}
    rows = [row("fedavg", 0), row("a </script><b>", 0, personal_taste=0.65), refused]
    rows += [
        row("fedavg", 1, epsilon="inf"),
        row("a </script><b>", 1, epsilon="inf"),
        row("krum", 1, epsilon="inf", shared_safety=0.7, bytes_up=9000.0),
    ]
    found: dict[str, Any] = {
        "schema": 1,
        "strategies": ["fedavg", "a </script><b>", "krum"],
        "individual": ["krum"],
        "seeds": [0, 1],
        "axes": {"privacy.shared.epsilon": ["8", "inf"]},
        "settings": [
            {"values": {"privacy.shared.epsilon": value}, "attacked": False} for value in ("8", "inf")
        ],
        "people": 20,
        "minority_planted": True,
        "rows": rows,
        "cells": [cell(one, seed) for one in rows for seed in (0, 1)],
        "measures": list(MEASURES),
        "differences": [
            difference(name, setting, measure)
            for setting, names in enumerate((["a </script><b>"], ["a </script><b>", "krum"]))
            for name in names
            for measure in MEASURES
        ],
        "fronts": [["fedavg"], ["fedavg", "krum"]],
        "config": {"people": 20},
        "versions": {"python": "3.11"},
        "reproduce": "commonground compare --config x --out again",
    }
    found = copy.deepcopy(found) | changes
    found["conclusion"] = conclusion(found)
    return found
