"""What `bench bounds` prints: the curve as a table, and in words what a table has no column for."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD

from commonground.simulations.bench.bounds_curve import CostCurve, Mechanism, Share
from commonground.simulations.bench.bounds_survival import Survival
from commonground.simulations.bench.view import bar_table, heading
from commonground.terminal import Table

LABELS = {
    "none": "no bound",
    "guard": "guard alone",
    "tiers": "default stack",
    "menu": "menu, by the adapter",
    "menu_told": "menu, as asked for",
    "closed": "closed",
    "shared": "shared policy",
}


def label(name: str) -> str:
    """A mechanism in words."""
    return LABELS.get(name, name.replace("budget_", "budget "))


def tables(found: CostCurve) -> list[str | Table]:
    """Machine, the curve, bars and notes."""
    shown: list[str | Table] = [*heading(found), _each(found), _together(found)]
    return [*shown, bar_table(found.bars), *words(found), *found.notes]


def words(found: CostCurve) -> list[str]:
    """What the table has no column for."""
    items = ", ".join(f"{taste}: {item}" for taste, item in found.items.items())
    return [
        f"placed free: {_share(found.free_share)} everyday prompts; "
        f"sensitive {found.placed['sensitive']}, closed {found.placed['closed']}",
        f"personal answers that the guard held back there: {found.held_answers} of "
        f"{len(found.tastes) * found.held_back.trials}, to {_share(found.held_back)} prompts",
        f"menu item that each adapter picked: {items}",
    ]


def _share(share: Share) -> str:
    span = f"{100 * share.low:.1f} to {100 * share.high:.1f} %"
    return f"{share.events} of {share.trials} ({span})"


def _each(found: CostCurve) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("style left on free prompts, %", no_wrap=True)
    for name in found.tastes:
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.mechanisms:
        table.add_row(label(one.name), *(kept(one.free.get(name)) for name in found.tastes))
    return table


def _together(found: CostCurve) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("all tastes, %", no_wrap=True)
    for name in ("free prompts", "every prompt", "factor"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.mechanisms:
        ends = kept(one.free.get("all"), span=True), kept(one.everyday.get("all"), span=True)
        table.add_row(label(one.name), *ends, factor(one))
    return table


def kept(one: Survival | None, *, span: bool = False) -> str:
    """Survival in per cent, with its interval; a dash where there was no shift."""
    if one is None or one.kept is None:
        return "–"
    text = f"{100 * one.kept:.0f}"
    if not span or one.low is None or one.high is None:
        return text
    return f"{text} ({100 * one.low:.0f} to {100 * one.high:.0f})"


def factor(one: Mechanism) -> str:
    """How many times likelier than under shared, in words; '' where no number holds."""
    return "" if one.factor is None else f"{one.factor:.3g}"
