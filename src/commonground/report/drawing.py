"""The few shapes that the plots are made of, in plain plotly values with the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commonground.report.words import number

Figure = dict[str, Any]
LONGEST = 22  # characters of a name beside a plot; the tables have it whole


def bars(middle: Sequence[float], low: Sequence[Any], high: Sequence[Any], factor: float) -> dict[str, Any]:
    """Asymmetric error bars; none where an end is missing."""
    ends = [[factor * float(v) if number(v) is not None else None for v in side] for side in (low, high)]
    below = [None if e is None else m - e for m, e in zip(middle, ends[0], strict=True)]
    above = [None if e is None else e - m for m, e in zip(middle, ends[1], strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 2,
        "width": 5,
        "color": "var(--muted)",
    }


def trace(name: str, x: Sequence[Any], y: Sequence[Any], **rest: Any) -> dict[str, Any]:
    """A scatter trace; `rest` is plotly's own vocabulary."""
    return {"type": "scatter", "name": name, "x": list(x), "y": list(y), **rest}


def rule(axis: str, value: float) -> dict[str, Any]:
    """A dashed line across the whole plot at one value (chance, no difference)."""
    other = "y" if axis == "x" else "x"
    dash = {"color": "var(--muted)", "width": 1, "dash": "dot"}
    ends = {f"{axis}0": value, f"{axis}1": value, f"{other}0": 0, f"{other}1": 1}
    return {"type": "line", f"{other}ref": "paper", "line": dash, "layer": "below", **ends}


def layout(height: int, legend: bool) -> dict[str, Any]:
    """The common look: `height` in pixels, as wide as the page lets it be."""
    axis = {
        "gridcolor": "var(--line)",
        "linecolor": "var(--line-strong)",
        "zeroline": False,
        "fixedrange": True,
        "ticks": "",
        "tickangle": 0,
    }
    return {
        "height": height,
        "margin": {"l": 52, "r": 16, "t": 36 if legend else 12, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--ink)"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "xaxis": axis | {"nticks": 8},
        "yaxis": dict(axis),
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": "var(--line-strong)",
            "font": {"color": "var(--ink)"},
        },
    }


def titled(text: str) -> dict[str, Any]:
    """An axis title."""
    return {"text": text, "font": {"size": 13}, "standoff": 8}


def name_axis(style: dict[str, Any], names: Sequence[str]) -> None:
    """Make the y axis of `style` a list of names, the first on top, with room for the longest."""
    shown = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in names]
    style["margin"]["l"] = 16 + round(7.2 * max(map(len, shown), default=0))
    style["yaxis"] |= {
        "range": [len(shown) - 0.4, -0.6],
        "showgrid": False,
        "tickvals": list(range(len(shown))),
        "ticktext": [safe(name) for name in shown],
    }


def safe(text: str) -> str:
    """A text that plotly, which reads some markup in labels, shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def figure(data: list[dict[str, Any]], style: dict[str, Any]) -> Figure:
    """Data and layout together; the tests hold every figure against plotly's schema."""
    return {"data": data, "layout": style}
