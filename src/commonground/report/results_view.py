"""The results of a run in words: tables of accuracy, differences, welfare and information."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from commonground.report import figures
from commonground.report.words import (
    FEW_COMPARISONS,
    MISSING,
    count,
    decimal,
    dig,
    excludes_zero,
    label,
    mapping,
    number,
    percent,
    plural,
    points,
    span,
)

View = dict[str, Any]


def span_note(entry: Mapping[str, Any]) -> str:
    """'95 %: 4.0 to 6.2', with a warning when it covers 0."""
    inside = span(entry.get("low"), entry.get("high"))
    if not inside:
        return "no interval"
    return f"95\N{NO-BREAK SPACE}%: {inside}" + ("" if excludes_zero(entry) else ", covers 0")


def headline_row(policy: str, entry: Mapping[str, Any]) -> View:
    """One policy of the headline table."""
    taste, safety = mapping(entry, "taste"), mapping(entry, "safety")
    return {
        "policy": policy,
        "label": label(policy),
        "colour": figures.colour(policy),
        "taste": percent(taste.get("accuracy")),
        "taste_span": span(taste.get("low"), taste.get("high")),
        "worst": percent(taste.get("worst_decile")),
        "minority": percent(taste.get("minority")),
        "minority_span": span(taste.get("minority_low"), taste.get("minority_high")),
        "safety": percent(safety.get("accuracy")),
        "safety_span": span(safety.get("low"), safety.get("high")),
        "people": count(taste.get("people")),
        "comparisons": count(safety.get("comparisons")),
    }


def paired(result: Mapping[str, Any]) -> list[View]:
    """Paired differences, over everybody and over the minority."""
    table = []
    for name, entry in mapping(result, "paired").items():
        if not isinstance(entry, Mapping) or number(entry.get("mean")) is None:
            continue
        first, _, second = name.partition("_minus_")
        few = mapping(entry, "minority")
        table.append(
            {
                "label": f"{label(first)} − {label(second)}",
                "mean": points(entry.get("mean")),
                "span": span(entry.get("low"), entry.get("high")),
                "sure": excludes_zero(entry),
                "people": count(entry.get("people")),
                "few": points(few.get("mean")) if few else MISSING,
                "few_span": span(few.get("low"), few.get("high")),
                "few_sure": excludes_zero(few) if few else None,
            }
        )
    return table


def shares(result: Mapping[str, Any]) -> str:
    """How many people gain, lose, or neither."""
    table = mapping(result, "per_person")
    pairs = zip(table.get("personal") or [], table.get("pooled") or [], strict=False)
    gains = [a - b for a, b in pairs if number(a) is not None and number(b) is not None]
    if not gains:
        return ""
    up, down = sum(g > 1e-9 for g in gains), sum(g < -1e-9 for g in gains)
    return (
        f"Of {plural(len(gains), 'person', 'people')}, {count(up)} get more right with a model of their own "
        f"than with the pooled one, {count(down)} get fewer and {count(len(gains) - up - down)} the same. "
        "One person's difference is noisy, because it rests on a few dozen comparisons; the intervals above "
        "are over people."
    )


def groups(policies: Mapping[str, Any], names: Iterable[str]) -> View | None:
    """Taste accuracy of every policy for every public group."""
    table: dict[str, dict[str, Any]] = {}
    used = []
    for policy in names:
        found = mapping(policies, policy, "taste", "groups")
        if found:
            used.append(policy)
        for group, entry in found.items():
            row = table.setdefault(str(group), {"people": MISSING, "cells": {}})
            row["people"] = count(dig(entry, "people"))
            row["cells"][policy] = (
                percent(dig(entry, "accuracy")),
                span(dig(entry, "low"), dig(entry, "high")),
            )
    if not table:
        return None
    missing = (MISSING, "")
    return {
        "labels": [label(p) for p in used],
        "rows": [
            (group, row["people"], [(label(p), *row["cells"].get(p, missing)) for p in used])
            for group, row in table.items()
        ],
    }


def welfare(result: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """How taste accuracy is spread over people, one row a policy."""
    found = mapping(result, "welfare")
    shown = (("mean", "Mean"), ("nash", "Nash"), ("p10", "10th percentile"), ("min", "Worst off"))
    spread = (("gini", "Gini"), ("atkinson", "Atkinson"))
    return [
        (
            label(p),
            [(head, percent(dig(found, p, k))) for k, head in shown]
            + [(head, decimal(dig(found, p, k))) for k, head in spread],
        )
        for p in figures.order(found)
        if isinstance(found[p], Mapping)
    ]


def calibration(policies: Mapping[str, Any], names: Iterable[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Whether margins mean what they say, one row a policy."""
    table = []
    for policy in names:
        cells = []
        for tag in ("taste", "safety"):
            found = mapping(policies, policy, tag, "calibration")
            cells.append((f"{tag.capitalize()}: slope", decimal(found.get("slope"), 2)))
            cells.append((f"{tag.capitalize()}: log-loss", decimal(found.get("log_loss"))))
            cells.append((f"{tag.capitalize()}: error", percent(found.get("ece"))))
        if any(text != MISSING for _, text in cells):
            table.append((label(policy), cells))
    return table


def attainable(policies: Mapping[str, Any], names: Iterable[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Accuracy against what is possible, where the truth is known."""
    table = []
    for policy in names:
        found = mapping(policies, policy, "taste", "attainable")
        if number(found.get("fraction")) is not None:
            cells = [
                ("Share of the best possible", percent(found.get("fraction"))),
                ("Gap closed", percent(found.get("gap_closed"), 0)),
            ]
            table.append((label(policy), cells))
    return table


def erased(result: Mapping[str, Any]) -> View | None:
    """Information erased by aggregation, with a verdict in words."""
    found = mapping(result, "erased")
    nats = number(found.get("nats"))
    if nats is None:
        return None
    null = mapping(found, "null")
    low, ceiling = number(found.get("low")), number(null.get("high"))
    if low is None:
        verdict = "There are too few people for an interval."
    elif low > max(0.0, ceiling or 0.0):
        verdict = (
            "That is above 0 and above its null: who was asked tells something that one model cannot hold."
        )
    else:
        verdict = (
            "That is not clearly above its null: this run does not show that aggregation erased anything."
        )
    return {
        "nats": decimal(nats, 4),
        "span": _nat_span(found),
        "null": decimal(null.get("nats"), 4),
        "null_span": _nat_span(null),
        "verdict": verdict,
    }


def _nat_span(entry: Mapping[str, Any]) -> str:
    low, high = number(entry.get("low")), number(entry.get("high"))
    return "" if low is None or high is None else f"{decimal(low, 4)} to {decimal(high, 4)}"


def format_probe(result: Mapping[str, Any]) -> View | None:
    """What format alone can tell, beside the policy that has to beat it."""
    found, table = mapping(result, "format_probe"), []
    for tag, policy in (("taste", "personal"), ("safety", "shared")):
        entry = mapping(found, tag)
        if number(entry.get("accuracy")) is not None:
            model = dig(result, "policies", policy, tag, "accuracy")
            high, own = number(entry.get("high")), number(model)
            few = (number(entry.get("comparisons")) or FEW_COMPARISONS) < FEW_COMPARISONS
            table.append(
                {
                    "tag": tag.capitalize(),
                    "accuracy": percent(entry.get("accuracy")),
                    "span": span(entry.get("low"), entry.get("high")),
                    "longer": percent(entry.get("longer")),
                    "model": f"{label(policy)}: {percent(model)}",
                    "beaten": own is not None and high is not None and own > high and not few,
                }
            )
    return {"rows": table, "note": found.get("note") or ""} if table else None
