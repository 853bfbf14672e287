"""What a benchmark prints."""

from __future__ import annotations

from typing import Any, Protocol

from rich.box import SIMPLE_HEAD

from commonground.simulations.bench.measured import Bar, Measured
from commonground.terminal import Table


class Found(Protocol):
    """What every benchmark's finding has."""

    @property
    def bench(self) -> str:
        """Its name."""
        ...

    @property
    def machine(self) -> dict[str, str | float | bool]:
        """Where it was measured."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What was run."""
        ...


WORDS = {True: "reached", False: "MISSED", None: "not measured"}


def tables(found: Measured) -> list[str | Table]:
    """Machine, rows, bars and notes."""
    run, where = heading(found)
    busy = "; LOADED machine: take no number from it" if found.machine["loaded"] else ""
    timed = f"{where}; one thread a process; load {found.machine['load']} at the start{busy}"
    shown: list[str | Table] = [run, timed, _rows(found)]
    if found.bars:
        shown.append(bar_table(found.bars))
    return [*shown, *found.notes]


def heading(found: Found) -> list[str]:
    """What was run, and on which machine."""
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    return [f"bench {found.bench}: {settings}", str(found.machine["words"])]


def _rows(found: Measured) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("measured")
    for name in ("min", "median", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("times", justify="right", no_wrap=True)
    for row in found.rows:
        values = (row.values.min, row.values.median, row.values.max)
        table.add_row(row.what, *map(figure, values), row.unit, str(row.values.count))
    return table


def bar_table(bars: list[Bar]) -> Table:
    """What was wanted and seen."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("bar")
    table.add_column("wanted", justify="right", no_wrap=True)
    table.add_column("seen (median)", justify="right", no_wrap=True)
    table.add_column("")
    for bar in bars:
        sign = "at least" if bar.at_least else "at most"
        seen = "" if bar.seen is None else f"{figure(bar.seen)} {bar.unit}"
        style = "bold" if bar.met is False else ""
        table.add_row(bar.what, f"{sign} {figure(bar.wanted)} {bar.unit}", seen, WORDS[bar.met], style=style)
    return table


def figure(value: float) -> str:
    """Three digits, thousands with commas."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
