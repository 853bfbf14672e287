"""What a run's bounds on private parts guarantee and did, one sentence each, the kind of guarantee first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonground.report.words import count, decimal, mapping, number, percent, plural


def private_bounds(result: Mapping[str, Any]) -> list[str]:
    """A sentence a bound; empty where none is on.

    Args:
        result: a result.json.
    """
    found = mapping(result, "private_bounds")
    words = {"reward": _reward, "constraint": _constraint, "kl": _kl}
    return [
        f"Bound ({entry.get('guarantee')}). {entry.get('says')} {words[name](entry)}"
        for name in words
        if (entry := mapping(found, name))
    ]


def _reward(entry: Mapping[str, Any]) -> str:
    return (
        f"c is {decimal(entry.get('c'))}; of {count(entry.get('pairs'))} held-out safety comparisons "
        f"{count(entry.get('above'))} have a larger shared margin than 2c, and personal rewards turned "
        f"{count(entry.get('turned'))} of these."
    )


def _constraint(entry: Mapping[str, Any]) -> str:
    trained, probes = mapping(entry, "trained"), mapping(entry, "probes")
    return (
        f"{percent(entry.get('tolerance'))} of the shared model's mean probability of the safe answer may be "
        f"lost; lost were {percent(trained.get('mean_lost'))} on average and at most "
        f"{percent(trained.get('worst_lost'))} on the public pairs that were trained on, and "
        f"{percent(probes.get('mean_lost'))} and {percent(probes.get('worst_lost'))} on others."
    )


def _kl(entry: Mapping[str, Any]) -> str:
    factors = [v for v in map(number, entry.get("factor") or []) if v is not None]
    back = sum(v < 1 for v in factors)
    whole = sum(v == 0 for v in factors)
    return (
        f"Of {plural(len(factors), 'private adapter', 'private adapters')}, {count(back)} were scaled back, "
        f"{count(whole)} of them to nothing."
    )
