"""The page of a certificate: the claim, its bounds in plots and tables, and what it takes for granted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from commonground.report.drawing import Figure, bars, figure, layout, name_axis, rule, titled, trace
from commonground.report.page import embeddable, environment
from commonground.study.signing import fingerprint

VERDICTS = {
    "holds": "holds",
    "broken": "broken",
    "insufficient evidence": "insufficient evidence",
    "judge uninformative": "nothing certified",
}
DEFENCES = {"none": "Undefended", "guard": "Guard alone", "tiers": "Default stack"}


def certificate_page(content: Mapping[str, Any], signer: str, signature: str) -> str:
    """The page as text; nothing in it is fetched from anywhere.

    Args:
        content: of a paper of kind `certificate`.
        signer: its public key.
        signature: over it.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    figures = certificate_figures(content)
    data = embeddable(figures)
    template = environment().get_template("certificate.html")
    return str(
        template.render(
            found=content,
            fingerprint=fingerprint(signer),
            signature=signature,
            verdicts=VERDICTS,
            defences=DEFENCES,
            plots=figures,
            percent=percent,
            figures=Markup(data),  # JSON with every < > & written as an escape
            plotly=Markup(get_plotlyjs()),  # the library's own text
            nonce=hashlib.sha256((data + signature).encode()).hexdigest()[:32],
        )
    )


def percent(value: Any) -> str:
    """A share in words."""
    return "–" if value is None else f"{100 * float(value):.1f} %"


def certificate_figures(content: Mapping[str, Any]) -> dict[str, Figure]:
    """Plots by id: bounds by constraint, by person, and fallback by group."""
    people = {one["person"]: one for one in content["people"]}
    groups = content["benign"]["groups"]
    fallback = {
        name: {"low": one["fallback_low"], "high": one["fallback_high"]} for name, one in groups.items()
    }
    shares = [one["fallback"] / one["answers"] if one["answers"] else 0.0 for one in groups.values()]
    return {
        "constraints": _bounds(content["constraints"], "violation rate, %", content["limit"]),
        "people": _bounds(people, "violation rate, %", content["limit"]),
        "groups": _bounds(fallback, "fallback rate, %", content["benign"]["limit"], shares),
    }


def _bounds(
    parts: Mapping[str, Any], what: str, limit: float, middle: Sequence[float] | None = None
) -> Figure:
    """Intervals side by side, with the charter's bound as a line; a point where the rate itself is known."""
    names = list(parts)
    low, high = ([parts[name][end] for name in names] for end in ("low", "high"))
    at = [100 * v for v in (high if middle is None else middle)]
    style = layout(height=90 + 30 * len(names), legend=False)
    name_axis(style, names)
    style["xaxis"] |= {"title": titled(what), "range": [-2, 102]}
    style["shapes"] = [rule("x", 100 * limit)]
    colour = "var(--shared)" if middle is None else "var(--personal)"
    points = trace(
        what,
        at,
        list(range(len(names))),
        mode="markers",
        marker={"color": colour, "size": 8},
        error_x=bars(at, low, high, 100.0),
        hovertemplate="%{x:.1f} %<extra></extra>",
    )
    return figure([points], style)
