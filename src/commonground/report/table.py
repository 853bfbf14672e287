"""The headline table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD

from commonground.report.figures import order
from commonground.report.words import MISSING, SPACE, label, mapping, number, percent, span
from commonground.terminal import Table


def headline_table(result: Mapping[str, Any]) -> Table:
    """Policies as rows: taste with interval, worst decile, minority, safety with interval.

    Args:
        result: a result.json; what is missing is a dash.
    """
    policies = mapping(result, "policies")
    names = order(policies)
    minority = any(number(mapping(policies, p, "taste").get("minority")) is not None for p in names)
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        caption="% of held-out comparisons right (95 % interval over people)",
        caption_justify="left",
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("taste", justify="right", no_wrap=True)
    table.add_column("worst 10 %", justify="right", no_wrap=True)
    if minority:
        table.add_column("minority", justify="right", no_wrap=True)
    table.add_column("safety", justify="right", no_wrap=True)
    for policy in names:
        taste, safety = mapping(policies, policy, "taste"), mapping(policies, policy, "safety")
        cells = [_cell(taste), _short(taste.get("worst_decile"))]
        cells += [_short(taste.get("minority"))] if minority else []
        cells.append(_cell(safety))
        table.add_row(label(policy), *cells, style="bold" if policy == "personal" else "")
    return table


def _short(value: Any) -> str:
    return percent(value).removesuffix(f"{SPACE}%")


def _cell(entry: Mapping[str, Any]) -> str:
    inside = span(entry.get("low"), entry.get("high")).replace(" to ", "–")
    value = _short(entry.get("accuracy"))
    return f"{value} ({inside})" if inside and value != MISSING else value
