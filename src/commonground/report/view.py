"""result.json -> what the template shows: every number already in words, every missing part None.

The template decides how things look and this file what they say; neither does the other's work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonground.report import figures
from commonground.report.cautions import cautions
from commonground.report.charter_view import charter
from commonground.report.devices_view import cost, data_rows, egress, rows, statement
from commonground.report.results_view import (
    attainable,
    calibration,
    erased,
    format_probe,
    groups,
    headline_row,
    paired,
    shares,
    span_note,
    welfare,
)
from commonground.report.safety_view import safety
from commonground.report.summary import minority_words, summary
from commonground.report.words import (
    POLICIES,
    Claimed,
    claim_kind,
    claimed,
    count,
    label,
    mapping,
    number,
    plural,
    points,
    size,
)
from commonground.report.writing_view import writing

View = dict[str, Any]
SAID = {"neighbours", "adversary", "meaningful", "epsilon_if_many", "epsilon_if_many_is"}  # in the statement


def part_view(title: str, result: Mapping[str, Any], key: str) -> View:
    """Everything that one part of the page shows.

    Args:
        title: the part's heading.
        result: a result.json; any optional key may be missing or None.
        key: a short name, unique on the page, for anchors and figures.
    """
    policies = mapping(result, "policies")
    names = figures.order(policies)
    return {
        "title": title,
        "key": key,
        "summary": summary(result),
        "cautions": cautions(result),
        "tiles": _tiles(result),
        "headline": [headline_row(p, mapping(policies, p)) for p in names],
        "glossary": [(label(p), POLICIES[p][1]) for p in names if p in POLICIES],
        "minority": minority_words(result),
        "paired": paired(result),
        "shares": shares(result),
        "groups": groups(policies, names),
        "welfare": welfare(result),
        "safety": safety(result),
        "charter": charter(result),
        "calibration": calibration(policies, names),
        "attainable": attainable(policies, names),
        "truth": data_rows(result.get("truth")),
        "attack": data_rows(result.get("attack")),
        "writing": writing(result),
        "erased": erased(result),
        "format_probe": format_probe(result),
        "egress": egress(result),
        "statement": statement(result),
        "budgets": [
            (name, rows({k: v for k, v in mapping(result, "privacy", name).items() if k not in SAID}))
            for name in ("shared", "private")
            if mapping(result, "privacy", name)
        ],
        "data": data_rows({k: v for k, v in mapping(result, "data").items() if k != "notes"}),
        "reproduce": result.get("reproduce"),
        "versions": rows(result.get("versions")),
        "cost": cost(result),
        "config": result.get("config"),
        "figures": _figures(result, key),
    }


def _tiles(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(number, what it is, note) of the few numbers one looks for first."""
    gain = mapping(result, "paired", "personal_minus_pooled")
    few, privacy, sent = mapping(gain, "minority"), mapping(result, "privacy"), mapping(result, "egress")
    tiles = []
    if number(gain.get("mean")) is not None:
        tiles.append((points(gain.get("mean")), "points over pooled, mean", span_note(gain)))
    if number(few.get("mean")) is not None:
        tiles.append((points(few.get("mean")), "points over pooled, minority", span_note(few)))
    for name, what in (("shared", "shared adapter"), ("private", "private adapter")):
        budget = mapping(privacy, name)
        if budget:
            text, kind = claimed(budget), claim_kind(budget)
            stated = number(budget.get("epsilon")) is not None
            shown = f"ε {text}" if kind is Claimed.NUMBER else "ε ∞" if kind is Claimed.UNLIMITED else "no ε"
            tiles.append((shown, what, f"per {budget.get('unit') or 'person'}" if stated else text))
    if number(sent.get("private_tensors")) is not None:
        all_sent = f"in {plural(sent.get('messages'), 'message')}, {size(sent.get('bytes'))}"
        tiles.append((count(sent.get("private_tensors")), "private tensors left a device", all_sent))
    return tiles


def _figures(result: Mapping[str, Any], key: str) -> View:
    drawn = {
        "taste": figures.intervals(result, "taste"),
        "safety": figures.intervals(result, "safety"),
        "distribution": figures.distribution(result),
        "groups": figures.groups(result),
        "curve_taste": figures.curves(result, "taste"),
        "curve_safety": figures.curves(result, "safety"),
        "privacy": figures.privacy(result),
        "erased": figures.erased(result),
    }
    return {
        name: {"id": f"{key}-{name.replace('_', '-')}", "figure": figure}
        for name, figure in drawn.items()
        if figure
    }
