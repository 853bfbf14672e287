"""The page of `bench bounds`: two plots, every number and two prompts' answers, complete in one file."""

from __future__ import annotations

from typing import Any

from commonground.report.drawing import Figure, bars, figure, layout, name_axis, rule, titled, trace
from commonground.simulations.bench.bounds_curve import CostCurve
from commonground.simulations.bench.bounds_view import factor, kept, label, words
from commonground.simulations.bench.plot import rendered

PALETTE = ("personal", "shared", "local", "pooled", "base")  # colours of the style sheet


def page(found: CostCurve) -> str:
    """The page as text; nothing in it is fetched from anywhere."""
    return rendered(
        "bench_bounds.html",
        found,
        figures(found),
        label=label,
        kept=kept,
        factor=factor,
        said=words(found),
    )


def figures(found: CostCurve) -> dict[str, Figure]:
    """Plots by id: survival on free prompts, of all tastes together and of each."""
    names = [label(one.name) for one in found.mechanisms]
    if not any(one.free.get("all") for one in found.mechanisms):
        return {}
    return {"together": _together(found, names), "tastes": _each(found, names)}


def _together(found: CostCurve, names: list[str]) -> Figure:
    drawn = [
        _points(found, "free", "prompts placed free", "var(--personal)", "circle", -0.12),
        _points(found, "everyday", "all everyday prompts", "var(--shared)", "diamond", 0.12),
    ]
    return figure(drawn, _style(names))


def _each(found: CostCurve, names: list[str]) -> Figure:
    drawn = []
    for k, taste in enumerate(found.tastes):
        known = [(one.free[taste].kept, i) for i, one in enumerate(found.mechanisms)]
        points = [(100 * kept, i) for kept, i in known if kept is not None]
        aside = 0.13 * (k - (len(found.tastes) - 1) / 2)  # so that equal values lie beside each other
        drawn.append(
            trace(
                taste,
                [x for x, _ in points],
                [i + aside for _, i in points],
                mode="markers",
                marker={"color": f"var(--{PALETTE[k % len(PALETTE)]})", "size": 9},
                hovertemplate=f"{taste}: %{{x:.0f}} %<extra></extra>",
            )
        )
    return figure(drawn, _style(names))


def _points(found: CostCurve, part: str, name: str, colour: str, symbol: str, up: float) -> dict[str, Any]:
    ones = [(getattr(one, part)["all"], i) for i, one in enumerate(found.mechanisms)]
    ones = [(one, i) for one, i in ones if one.kept is not None]
    middle = [100 * one.kept for one, _ in ones]
    error = bars(middle, [one.low for one, _ in ones], [one.high for one, _ in ones], 100.0)
    return trace(
        name,
        middle,
        [i + up for _, i in ones],
        mode="markers",
        marker={"color": colour, "size": 10, "symbol": symbol},
        error_x=error,
        hovertemplate="%{x:.0f} %<extra></extra>",
    )


def _style(names: list[str]) -> dict[str, Any]:
    style = layout(height=100 + 42 * len(names), legend=True)
    name_axis(style, names)
    style["xaxis"] |= {"title": titled("style shift that is left, %")}
    style["shapes"] = [rule("x", 0), rule("x", 90), rule("x", 100)]
    return style
