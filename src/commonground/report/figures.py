"""The plots of the page, as plotly figures in plain values.

Colours are names like ``var(--personal)``: the page's script puts in the value of the style sheet, so a
figure follows light, dark and print. Every function returns None when its numbers are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from commonground.report.drawing import Figure, bars, figure, layout, name_axis, rule, safe, titled, trace
from commonground.report.words import dig, label, mapping, number, percent, points, span

ORDER = ("base", "pooled", "pooled_central", "local", "shared", "personal", "bounded", "sft")
FEW = 30  # up to this many people are drawn one by one
BIN = 5  # width of a histogram bin, percentage points


def order(policies: Mapping[str, Any]) -> list[str]:
    """Policies in reading order; unknown ones last."""
    return [p for p in ORDER if p in policies] + [p for p in policies if p not in ORDER]


def colour(policy: str) -> str:
    """The style sheet's name for a policy's colour."""
    return f"var(--{policy.replace('_', '-')})" if policy in ORDER else "var(--muted)"


def intervals(result: Mapping[str, Any], tag: str) -> Figure | None:
    """Accuracy of every policy on one tag with its interval; for taste also the minority's."""
    policies = mapping(result, "policies")
    names = [p for p in order(policies) if number(mapping(policies, p, tag).get("accuracy")) is not None]
    if not names:
        return None
    entries = [mapping(policies, p, tag) for p in names]
    data = [
        _dots(
            "everybody" if tag == "taste" else "accuracy", names, entries, "accuracy", "low", "high", "circle"
        )
    ]
    if any(number(e.get("minority")) is not None for e in entries):
        keys = ("minority", "minority_low", "minority_high")
        data.append(_dots("minority", names, entries, *keys, "diamond-open"))
    style = layout(height=92 + 44 * len(names), legend=len(data) > 1)
    style["xaxis"] |= {"title": titled(f"{tag} comparisons right, %"), "ticksuffix": " %"}
    name_axis(style, [label(p) for p in names])
    style["shapes"] = [rule("x", 50)]
    return figure(data, style)


def distribution(result: Mapping[str, Any]) -> Figure | None:
    """Who gains and who loses: personal minus pooled, one by one or as a histogram."""
    people = _per_person(result, "personal", "pooled")
    if people is None:
        return None
    return _one_by_one(people) if len(people["id"]) <= FEW else _histogram(people)


def groups(result: Mapping[str, Any]) -> Figure | None:
    """Pooled and personal taste accuracy of each public group, joined by a line."""
    pooled = mapping(result, "policies", "pooled", "taste", "groups")
    personal = mapping(result, "policies", "personal", "taste", "groups")
    names = [
        g
        for g in pooled
        if None
        not in (number(mapping(pooled, g).get("accuracy")), number(mapping(personal, g).get("accuracy")))
    ]
    if not names:
        return None
    ends = [[100 * mapping(side, g)["accuracy"] for g in names] for side in (pooled, personal)]
    style = layout(height=92 + 40 * len(names), legend=True)
    style["xaxis"] |= {"title": titled("taste comparisons right, %"), "ticksuffix": " %"}
    name_axis(style, names)
    return figure(_dumbbells(ends), style)


def curves(result: Mapping[str, Any], tag: str) -> Figure | None:
    """Accuracy after each round of the shared and the pooled model."""
    data = []
    for policy in mapping(result, "curves"):
        known = _rounds(result, policy, tag)
        if known:
            data.append(
                trace(
                    safe(label(policy)),
                    [r["round"] for r in known],
                    [100 * r[tag] for r in known],
                    mode="lines" if len(known) > 1 else "markers",
                    line={"color": colour(policy), "width": 2.5},
                    marker={"color": colour(policy)},
                    hovertemplate=f"round %{{x}}: %{{y:.1f}} %<extra>{safe(label(policy))}</extra>",
                )
            )
    if not data:
        return None
    style = layout(height=260, legend=True)
    style["xaxis"] |= {"title": titled("round"), "rangemode": "tozero"}
    style["yaxis"] |= {"title": titled(f"{tag}, % right")}
    return figure(data, style)


def privacy(result: Mapping[str, Any]) -> Figure | None:
    """Epsilon of the shared adapter spent after each round."""
    rows = _rounds(result, "shared", "epsilon")
    if not rows or dig(result, "privacy", "shared", "meaningful") is False:
        return None  # no pretty curve where the statement claims no number
    x, y = [r["round"] for r in rows], [r["epsilon"] for r in rows]
    line = {"color": "var(--shared)", "width": 2.5, "shape": "hv"}
    data = [
        trace(
            "spent",
            x,
            y,
            mode="lines" if len(rows) > 1 else "markers",
            line=line,
            marker={"color": "var(--shared)"},
            fill="tozeroy",
            fillcolor="var(--shared-soft)",
            hovertemplate="after round %{x}: epsilon %{y:.3g}<extra></extra>",
        )
    ]
    style = layout(height=260, legend=False)
    style["xaxis"] |= {"title": titled("round"), "rangemode": "tozero"}
    style["yaxis"] |= {"title": titled("epsilon spent"), "rangemode": "tozero"}
    return figure(data, style)


def _rounds(result: Mapping[str, Any], policy: str, key: str) -> list[Mapping[str, Any]]:
    """The rounds of a policy that have a number for `key`."""
    rounds = mapping(result, "curves").get(policy) or ()
    return [r for r in rounds if number(dig(r, "round")) is not None and number(dig(r, key)) is not None]


def erased(result: Mapping[str, Any]) -> Figure | None:
    """Information erased by aggregation beside its null."""
    found = mapping(result, "erased")
    rows = [("these people", found), ("dealt out at random", mapping(found, "null"))]
    rows = [(name, entry) for name, entry in rows if number(entry.get("nats")) is not None]
    if not rows:
        return None
    middle = [float(e["nats"]) for _, e in rows]
    dots = trace(
        "nats",
        middle,
        list(range(len(rows))),
        mode="markers",
        marker={"color": ["var(--personal)", "var(--muted)"][: len(rows)], "size": 12},
        error_x=bars(middle, [e.get("low") for _, e in rows], [e.get("high") for _, e in rows], 1),
        hovertemplate="%{x:.4f} nats<extra></extra>",
    )
    style = layout(height=180, legend=False)
    style["xaxis"] |= {"title": titled("nats a comparison")}
    name_axis(style, [name for name, _ in rows])
    style["shapes"] = [rule("x", 0)]
    return figure([dots], style)


def _per_person(result: Mapping[str, Any], first: str, second: str) -> dict[str, Any] | None:
    table = mapping(result, "per_person")
    a, b = table.get(first) or [], table.get(second) or []
    ids = table.get("person") or [str(i + 1) for i in range(len(a))]
    few = table.get("minority") or [False] * len(a)
    if not a or not len(a) == len(b) == len(ids) == len(few):
        return None
    keep = [i for i in range(len(a)) if number(a[i]) is not None and number(b[i]) is not None]
    if not keep:
        return None
    return {
        "id": [str(ids[i]) for i in keep],
        "first": [100 * float(a[i]) for i in keep],
        "second": [100 * float(b[i]) for i in keep],
        "minority": [bool(few[i]) for i in keep],
    }


def _histogram(people: Mapping[str, Any]) -> Figure:
    gain = np.array(people["first"]) - np.array(people["second"])
    few = np.array(people["minority"])
    # A bin is centred on a multiple of its width, so that 'no difference' is one bar.
    place = np.rint(gain / BIN).astype(int)
    low, high = int(place.min()), int(place.max())
    centres = [BIN * i for i in range(low, high + 1)]
    data = []
    for name, mask, paint in (("others", ~few, "var(--muted)"), ("minority", few, "var(--minority)")):
        if mask.any():
            tall = np.bincount(place[mask] - low, minlength=len(centres))
            data.append(
                {
                    "type": "bar",
                    "name": name if few.any() else "people",
                    "x": centres,
                    "y": tall.tolist(),
                    "marker": {"color": paint},
                    "hovertemplate": "%{y} people at %{x:+} points<extra></extra>",
                }
            )
    style = layout(height=300, legend=len(data) > 1)
    style |= {"barmode": "stack", "bargap": 0.08, "shapes": [rule("x", 0)]}
    step = 10 if high - low <= 16 else 20
    ticks = [t for t in range(-100, 101, step) if centres[0] - BIN <= t <= centres[-1] + BIN]
    style["xaxis"] |= {
        "title": titled("personal minus pooled, points"),
        "tickvals": ticks,
        "ticktext": [points(t / 100, 0) for t in ticks],
    }
    style["yaxis"] |= {"title": titled("people")}
    return figure(data, style)


def _one_by_one(people: Mapping[str, Any]) -> Figure:
    gain = [a - b for a, b in zip(people["first"], people["second"], strict=True)]
    ranked = sorted(range(len(gain)), key=lambda i: -gain[i])
    names = [people["id"][i] + (" (minority)" if people["minority"][i] else "") for i in ranked]
    ends = [[people["second"][i] for i in ranked], [people["first"][i] for i in ranked]]
    style = layout(height=92 + 30 * len(names), legend=True)
    style["xaxis"] |= {"title": titled("taste comparisons right, %"), "ticksuffix": " %"}
    name_axis(style, names)
    return figure(_dumbbells(ends), style)


def _dumbbells(ends: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Pooled and personal of each row, joined by a line."""
    lines_x: list[float | None] = []
    lines_y: list[int | None] = []
    for row, (a, b) in enumerate(zip(*ends, strict=True)):
        lines_x += [a, b, None]
        lines_y += [row, row, None]
    line = {"color": "var(--line-strong)", "width": 3}
    data = [trace("", lines_x, lines_y, mode="lines", line=line, hoverinfo="skip", showlegend=False)]
    for policy, x in zip(("pooled", "personal"), ends, strict=True):
        data.append(
            trace(
                label(policy),
                list(x),
                list(range(len(x))),
                mode="markers",
                marker={"color": colour(policy), "size": 11},
                hovertemplate=f"%{{x:.1f}} %<extra>{label(policy)}</extra>",
            )
        )
    return data


def _dots(
    name: str,
    names: Sequence[str],
    entries: Sequence[Mapping[str, Any]],
    key: str,
    low: str,
    high: str,
    symbol: str,
) -> dict[str, Any]:
    rows = [i for i, e in enumerate(entries) if number(e.get(key)) is not None]
    shown = [entries[i] for i in rows]
    middle = [100 * float(e[key]) for e in shown]
    paint = [colour(names[i]) for i in rows]
    ends = bars(middle, [e.get(low) for e in shown], [e.get(high) for e in shown], 100)
    return trace(
        name,
        middle,
        rows,
        mode="markers",
        marker={"color": paint, "size": 12, "symbol": symbol, "line": {"width": 2, "color": paint}},
        error_x=ends,
        text=[f"{percent(e.get(key))} ({span(e.get(low), e.get(high)) or 'no interval'})" for e in shown],
        hovertemplate=f"%{{text}}<extra>{name}</extra>",
    )
