"""What a rule promises against attackers, and whether the attackers of a run leave that promise standing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from commonground.strategies.registry import DEFAULTS, STRATEGIES, accepted_options

FACTOR = {"krum": 2, "multikrum": 2, "bulyan": 4}  # n >= factor f + 3
HALF = ("fedmedian", "rfa")


def tolerance(name: str, options: Mapping[str, Any], drawn: np.ndarray) -> tuple[str, list[str]]:
    """What a rule tolerates, in words, and one line for each way in which that is exceeded.

    Args:
        name: strategy name.
        options: its options.
        drawn: (rounds, 2) how many were drawn in each round, and how many of them attack.

    Returns:
        what: in words.
        warnings: empty where the promise stands, or where there is none.
    """
    n, f = drawn[:, 0], drawn[:, 1]
    full = _options(name, options)
    if name in FACTOR:
        most = int(full["num_malicious_nodes"])
        what = f"{most} attackers a round (num_malicious_nodes={most})"
        short = int((n < FACTOR[name] * most + 3).sum())
        few = [
            f"strategy.name={name} needs cohorts of {FACTOR[name] * most + 3} people; {short} of {len(n)} "
            "rounds drew fewer: its guarantee is void there"
        ]
        return what, _void(name, what, f > most, f) + (few if short else [])
    if name == "fedtrimmedavg":
        beta = float(full["beta"])
        what = f"a share of {beta:g} of a round's people (beta={beta:g})"
        return what, _void(name, what, f > np.floor(beta * n), f)
    if name in HALF:
        what = "less than half of a round's people"
        return what, _void(name, what, (2 * f >= n) & (f > 0), f)
    return f"no number of attackers is named by {name}", []


def _void(name: str, what: str, over: np.ndarray, f: np.ndarray) -> list[str]:
    if not over.any():
        return []
    return [
        f"strategy.name={name} tolerates {what}; in {int(over.sum())} of {len(over)} rounds there were more, "
        f"{int(f.max())} at most: its guarantee is void"
    ]


def _options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    known = accepted_options(STRATEGIES[name]) if name in STRATEGIES else {}
    return {**known, **DEFAULTS.get(name, {}), **dict(options)}
