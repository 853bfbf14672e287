"""Small pictures of numbers; each says in words what it shows."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from commonground.web.parts import box, el


def gauge(name: str, value: float, most: float, text: str, role: str = "meter") -> None:
    """How much of a whole is used, as a bar, and in words for those who do not see it.

    Args:
        name: of what.
        value: so much.
        most: of so much.
        text: in words.
        role: meter, whose colour warns towards the end; or progressbar.
    """
    share = min(1.0, max(0.0, value / most)) if most > 0 else 1.0
    level = "" if role != "meter" or share < 0.8 else "full" if share >= 1 else "high"
    with box(
        f"gauge {level}",
        role=role,
        aria_label=name,
        aria_valuemin="0",
        aria_valuemax=f"{most:g}",
        aria_valuenow=f"{min(value, most):g}",
        aria_valuetext=text,
    ):
        ui.element("span").style(f"width: {100 * share:.2f}%")


def scale(name: str, before: float, after: float, reach: float) -> None:
    """A value before and after on a common axis around 0, with its numbers.

    Args:
        name: what it is.
        before: the value that it had.
        after: the value that it has.
        reach: the largest size on the axis.
    """
    at = (
        [50 + 48 * max(-1.0, min(1.0, value / reach)) for value in (before, after)] if reach > 0 else [50, 50]
    )
    with box("scale"):
        el("p", name, "strong")
        with box("track", aria_hidden="true"):
            ui.element("span").classes("way").style(f"left: {min(at):.1f}%; width: {abs(at[1] - at[0]):.1f}%")
            ui.element("span").classes("at shared").style(f"left: {at[0]:.1f}%")
            ui.element("span").classes("at").style(f"left: {at[1]:.1f}%")
        el("p", f"{signed(before)} before, {signed(after)} after", "figures small soft")


def signed(value: float) -> str:
    """A number with its sign, as typeset."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def strip(values: Sequence[float], text: str, bad: Sequence[bool] = ()) -> None:
    """Shares between 0 and 1 as a row of small bars; `text` says what they are, `bad` which stand out."""
    with box("strip", role="img", aria_label=text):
        for index, value in enumerate(values):
            marked = "bad" if index < len(bad) and bad[index] else ""
            bar = ui.element("span").classes(marked)
            bar.style(f"height: {100 * min(1.0, max(0.0, value)):.1f}%")
    el("p", text, "small soft")
