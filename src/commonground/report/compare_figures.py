"""The plots of a tournament, as plotly figures in plain values; colours are names of the style sheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonground.report.compare_conclusion import setting_words
from commonground.report.drawing import (
    LONGEST,
    Figure,
    bars,
    figure,
    layout,
    name_axis,
    rule,
    safe,
    titled,
    trace,
)
from commonground.report.words import number

# Told apart by shape as well as by colour.
COLOURS = ("shared", "pooled", "personal", "minority", "sft", "pooled-central", "local", "muted")
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon", "triangle-down")
PLANES = {  # name -> (title of the x axis, factor)
    "shared_safety": ("safety of the shared model, %", 100.0),
    "personal_worst_decile": ("taste of the worst-off tenth, %", 100.0),
    "epsilon": ("epsilon spent (less is more private)", 1.0),
    "bytes": ("bytes up and down, MB (less is cheaper)", 1e-6),
}
Document = Mapping[str, Any]


def forest(found: Document, measure: str) -> Figure | None:
    """Differences from the reference with their intervals; hollow where not beyond noise."""
    rows = [
        one
        for one in found["differences"]
        if one["measure"] == measure and number(one["mean"]) is not None and number(one["low"]) is not None
    ]
    if not rows or all(one["low"] == one["high"] == 0 for one in rows):
        return None
    middle = [100 * float(one["mean"]) for one in rows]
    paint = ["var(--muted)" if not one["beyond_noise"] else _sign(one["mean"]) for one in rows]
    names = [_short(one["strategy"], setting_words(found, one["setting"])) for one in rows]
    dots = trace(
        "difference",
        middle,
        list(range(len(rows))),
        mode="markers",
        marker={
            "color": paint,
            "size": 10,
            "symbol": ["circle" if one["beyond_noise"] else "circle-open" for one in rows],
            "line": {"width": 2, "color": paint},
        },
        error_x=bars(middle, [one["low"] for one in rows], [one["high"] for one in rows], 100),
        hovertemplate="%{x:+.2f} points<extra></extra>",
    )
    style = layout(height=92 + 28 * len(rows), legend=False)
    style["xaxis"] |= {"title": titled("difference, points")}
    name_axis(style, names)
    style["shapes"] = [rule("x", 0)]
    return figure([dots], style)


def plane(found: Document, name: str) -> Figure | None:
    """Taste of personal models against another objective; filled where nobody is better in both."""
    title, factor = PLANES[name]
    data = []
    for place, strategy in enumerate(found["strategies"]):
        rows = [row for row in found["rows"] if row["strategy"] == strategy]
        points = [(row, _value(row, name), _value(row, "personal_taste")) for row in rows]
        known = [(row, factor * x, 100 * y) for row, x, y in points if x is not None and y is not None]
        if not known:
            continue
        paint, shape = f"var(--{COLOURS[place % len(COLOURS)]})", SHAPES[place % len(SHAPES)]
        on_front = [name in row["planes"] for row, _, _ in known]
        data.append(
            trace(
                safe(strategy if len(strategy) <= LONGEST else strategy[: LONGEST - 1] + "…"),
                [x for _, x, _ in known],
                [y for _, _, y in known],
                mode="markers",
                marker={
                    "color": paint,
                    "size": 12,
                    "symbol": [shape if one else f"{shape}-open" for one in on_front],
                    "line": {"width": 2, "color": paint},
                },
                text=[safe(setting_words(found, row["setting"])) for row, _, _ in known],
                hovertemplate="%{y:.1f} % taste at %{x:.4g}<br>%{text}<extra>" + safe(strategy) + "</extra>",
            )
        )
    if not data or len({x for one in data for x in one["x"]}) < 2:
        return None  # one value for all: nothing to trade
    lines = -(-len(data) // 3)  # of the legend, on the narrowest page about three names a line
    style = layout(height=280 + 20 * lines, legend=True)
    style["margin"]["t"] = 16 + 20 * lines
    style["xaxis"] |= {"title": titled(title), "nticks": 6}
    style["yaxis"] |= {"title": titled("personal taste, %")}
    return figure(data, style)


def _value(row: Mapping[str, Any], name: str) -> float | None:
    numbers = row["numbers"]
    if name == "bytes":
        up, down = number(numbers.get("bytes_up")), number(numbers.get("bytes_down"))
        return None if up is None or down is None else up + down
    return number(numbers.get(name))


def _sign(mean: float) -> str:
    return "var(--personal)" if mean > 0 else "var(--minority)"


def _short(strategy: str, setting: str) -> str:
    """A name that fits beside a plot, the setting in it."""
    if not setting:
        return strategy
    values = ", ".join(part.rsplit(".", 1)[-1] for part in setting.split(", "))
    room = max(6, LONGEST - len(values) - 2)
    name = strategy if len(strategy) <= room else strategy[: room - 1] + "…"
    return f"{name}, {values}"
