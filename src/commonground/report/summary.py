"""The run in three plain sentences, computed from its numbers: who gains, the safety floor, the price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonground.report.words import (
    FEW_COMPARISONS,
    WHY_NOT,
    Claimed,
    claim_kind,
    claimed,
    count,
    decimal,
    dig,
    excludes_zero,
    mapping,
    number,
    percent,
    plural,
    points,
    scientific,
    size,
    span,
)


def summary(result: Mapping[str, Any]) -> list[str]:
    """Up to three sentences; one is left out when its numbers are missing.

    Args:
        result: a result.json.
    """
    return [sentence for sentence in (_gain(result), _safety(result), _price(result)) if sentence]


def minority_words(result: Mapping[str, Any]) -> str:
    """What 'minority' means in this run: planted where the truth is known, found otherwise."""
    kind = dig(result, "minority", "source") or ("planted" if result.get("truth") else "")
    if kind == "planted":
        return "the planted minority"
    return "the people whose training comparisons agree least with the pooled model"


def _gain(result: Mapping[str, Any]) -> str:
    entry = mapping(result, "paired", "personal_minus_pooled")
    mean = number(entry.get("mean"))
    if mean is None:
        return ""
    personal = percent(dig(result, "policies", "personal", "taste", "accuracy"))
    pooled = percent(dig(result, "policies", "pooled", "taste", "accuracy"))
    text = (
        f"Personal models get {personal} of people's held-out taste comparisons right, "
        f"one pooled model {pooled}: {_verdict(entry, 'on average')}"
    )
    few = mapping(entry, "minority")
    if number(few.get("mean")) is not None:
        who = f"{minority_words(result)} ({plural(few.get('people'), 'person', 'people')})"
        text += f"; for {who} the difference is {_difference(few)}"
    return text + "."


def _verdict(entry: Mapping[str, Any], who: str) -> str:
    mean, apart = number(entry.get("mean")) or 0.0, excludes_zero(entry)
    shown = f"{_points(entry)} {who}"
    if apart is None:
        return f"a difference of {shown}, which is too few people for an interval"
    inside = f"95\N{NO-BREAK SPACE}% interval {span(entry.get('low'), entry.get('high'))}"
    if not apart:
        return (
            f"a difference of {shown}, but its {inside} covers 0, so this run does not show a gain or a loss"
        )
    gain = f"a {'gain' if mean > 0 else 'loss'} of {decimal(100 * abs(mean), 1)} points {who}"
    return f"{gain} ({inside})"


def _difference(entry: Mapping[str, Any]) -> str:
    apart = excludes_zero(entry)
    if apart is None:
        return f"{_points(entry)} (no interval: too few people)"
    inside = span(entry.get("low"), entry.get("high"))
    return f"{_points(entry)} ({inside}{'' if apart else ', which covers 0'})"


def _points(entry: Mapping[str, Any]) -> str:
    return f"{points(entry.get('mean'))} points"


def _safety(result: Mapping[str, Any]) -> str:
    shared = mapping(result, "policies", "shared", "safety")
    held_out = number(shared.get("comparisons"))
    if held_out == 0:
        return "Nothing is known about safety: no safety comparison was held out to measure it."
    if number(shared.get("accuracy")) is None:
        return ""
    inside = span(shared.get("low"), shared.get("high"))
    text = f"On safety the shared model gets {percent(shared.get('accuracy'))} right"
    text += f" (95\N{NO-BREAK SPACE}% interval {inside})" if inside else ""
    base = number(dig(result, "policies", "base", "safety", "accuracy"))
    personal = number(dig(result, "policies", "personal", "safety", "accuracy"))
    others = [f"the base {percent(base)}"] if base is not None else []
    others += [f"personal models {percent(personal)}"] if personal is not None else []
    text += (", " + " and ".join(others) if others else "") + "."
    if held_out is not None and held_out < FEW_COMPARISONS:
        text += (
            f" That is over {plural(held_out, 'comparison')}, too few to tell models apart or to call one "
            "safe, whatever the intervals say: 0\N{NO-BREAK SPACE}% and 100\N{NO-BREAK SPACE}% may both "
            "be chance."
        )
    return text


def _price(result: Mapping[str, Any]) -> str:
    shared, private = mapping(result, "privacy", "shared"), mapping(result, "privacy", "private")
    if not shared and not private:
        return ""
    parts = []
    if shared:
        parts.append(f"the shared adapter {_cost(shared, 'person')}")
    if private:
        parts.append(f"each private adapter {_cost(private, 'comparison')}")
    text = "The price in privacy: " + " and ".join(parts)
    egress = mapping(result, "egress")
    if number(egress.get("messages")) is not None:
        left = f"{plural(egress.get('messages'), 'sealed message')} ({size(egress.get('bytes'))})"
        private_count = number(egress.get("private_tensors"))
        none = "no private tensor" if private_count == 0 else f"{count(private_count)} private tensors"
        text += f"; {left} left the devices and {none} did" if private_count is not None else f"; {left} left"
    return text + "."


def _cost(budget: Mapping[str, Any], unit: str) -> str:
    kind, unit = claim_kind(budget), str(budget.get("unit") or unit)
    if kind is Claimed.UNLIMITED:
        return f"has no privacy guarantee per {unit}"
    if kind is not Claimed.NUMBER:
        why = WHY_NOT.get(kind)
        return f"claims no epsilon per {unit}" + ("" if why is None else f" ({why})")
    delta = f" at delta {scientific(budget.get('delta'))}" if number(budget.get("delta")) else ""
    return f"costs epsilon {claimed(budget)}{delta} per {unit}"
