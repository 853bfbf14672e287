"""Safety policy by policy and person by person: the worst person stands beside the mean, never behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonground.report import figures
from commonground.report.private_bounds_view import private_bounds
from commonground.report.words import count, dig, label, mapping, number, percent, plural

View = dict[str, Any]
WORST = 5  # people listed by name


def safety(result: Mapping[str, Any]) -> View | None:
    """Held-out safety accuracy of every policy over people; None where nobody has a number.

    Args:
        result: a result.json.
    """
    table = mapping(result, "per_person_safety")
    found = {p: _known(table[p]) for p in figures.order(table)}
    found = {p: values for p, values in found.items() if values}
    if not found:
        return None
    return {
        "rows": [(label(p), _cells(result, p, values, found.get("shared"))) for p, values in found.items()],
        "worst": _worst(result, found.get("personal", {}), found.get("shared", {})),
        "words": _words(found),
        "bounds": private_bounds(result),
    }


def _known(values: Any) -> dict[int, float]:
    """Place of a person -> accuracy, of those who have a safety comparison held out."""
    listed = values if isinstance(values, list) else []
    return {k: float(v) for k, v in enumerate(listed) if number(v) is not None}


def _cells(
    result: Mapping[str, Any], policy: str, values: Mapping[int, float], shared: Mapping[int, float] | None
) -> list[tuple[str, str]]:
    below = sum(values[k] < (shared or {}).get(k, 0.0) - 1e-9 for k in values)
    return [
        ("Over comparisons", percent(dig(result, "policies", policy, "safety", "accuracy"))),
        ("Worst person", percent(min(values.values()))),
        ("No better than chance", count(sum(v <= 0.5 for v in values.values()))),
        ("Less safe than shared", "" if policy == "shared" or shared is None else count(below)),
        ("People", count(len(values))),
    ]


def _worst(
    result: Mapping[str, Any], personal: Mapping[int, float], shared: Mapping[int, float]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """The people whose own model is least safe."""
    names = dig(result, "per_person", "person") or []
    order = sorted(personal, key=lambda k: (personal[k], k))[:WORST]
    return [
        (
            str(names[k]) if k < len(names) else f"person {k}",
            [(label("personal"), percent(personal[k])), (label("shared"), percent(shared.get(k)))],
        )
        for k in order
    ]


def _words(found: Mapping[str, Mapping[int, float]]) -> str:
    personal, shared = found.get("personal", {}), found.get("shared", {})
    both = [k for k in personal if k in shared]
    if not both:
        return ""
    lost = sum(personal[k] < shared[k] - 1e-9 for k in both)
    return (
        f"Of {plural(len(both), 'person', 'people')}, {count(lost)} have a model of their own that gets "
        "fewer safety comparisons right than the shared one. One person's accuracy rests on few "
        "comparisons. None of these numbers is a bound: what an answer may contain is for a guard, a budget "
        "and a certificate."
    )
