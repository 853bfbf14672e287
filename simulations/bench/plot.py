"""The page of `bench scale`: four plots and the tables, complete in one file, in the report's own look."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from commonground.report.drawing import Figure, bars, figure, layout, titled, trace
from commonground.report.page import shown
from commonground.simulations.bench.measured import Measured
from commonground.simulations.bench.view import WORDS, Found
from commonground.simulations.bench.view import figure as number

AXES = {"people": "people, at a fixed cohort", "cohort": "cohort, at a fixed number of people"}
VALUES = {"seconds": "seconds a round", "memory": "peak memory, MB"}


def page(found: Measured) -> str:
    """The page as text; nothing in it is fetched from anywhere."""
    titles = {f"{axis}-{value}": (AXES[axis], VALUES[value]) for axis in AXES for value in VALUES}
    return rendered("bench.html", found, figures(found), words=WORDS, titles=titles, number=number)


def rendered(template: str, found: Found, plots: Mapping[str, Figure], **more: Any) -> str:
    """A page of this folder's templates, in the report's look.

    Args:
        template: its file.
        found: what was measured.
        plots: id -> figure.
        more: what else the template names.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    rooms = ("commonground.simulations.bench", "commonground.report")
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room, "templates") for room in rooms]),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(
        template
    ).render(
        found=found,
        figures=plots,
        plotly=Markup(get_plotlyjs()),  # the library's own text
        nonce=hashlib.sha256(repr(found).encode()).hexdigest()[:32],
        **more,
    )


def figures(found: Measured) -> dict[str, Figure]:
    """Plots by id: time and memory along each axis that has points."""
    return {
        f"{axis}-{value}": _plot(points, AXES[axis], value)
        for axis, points in found.curves.items()
        if points
        for value in VALUES
    }


def _plot(points: Sequence[dict[str, float]], axis: str, value: str) -> Figure:
    x, y = [point["x"] for point in points], [point[value] for point in points]
    low, high = ([point[f"{value}_{end}"] for point in points] for end in ("min", "max"))
    colour = "var(--shared)" if value == "seconds" else "var(--personal)"
    style: dict[str, Any] = layout(height=280, legend=False)
    ticks = {"tickvals": x, "ticktext": [f"{v:,.0f}" for v in x]}
    style["xaxis"] |= {"type": "log", "title": titled(axis), **ticks}
    style["yaxis"] |= {"title": titled(VALUES[value]), "rangemode": "tozero"}
    line = trace(
        VALUES[value],
        x,
        y,
        mode="lines+markers",
        line={"color": colour, "width": 2.5},
        marker={"color": colour, "size": 8},
        error_y=bars(y, low, high, 1.0),
        hovertemplate="%{x:,.0f}: %{y:.3g}<extra></extra>",
    )
    return figure([line], style)
