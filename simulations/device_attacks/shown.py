"""The attacks' table in a terminal: a line an attack or a defence, rates with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD

from commonground.terminal import Table


def span(cell: Mapping[str, Any]) -> str:
    """A cell in words: events, and the corrected rate's interval in per cent."""
    if cell["note"]:
        return f"{cell['events']} ({cell['note']})"
    return f"{cell['events']} ({100 * cell['low']:.0f} to {100 * cell['high']:.0f})"


def certificate_table(found: Mapping[str, Any]) -> Table:
    """Of the part `attacks` of a certificate."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"attack: violations in {found['prompts']} (rate, %)")
    for name in found["defences"]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("guard-measured", justify="right")
    for name, one in sorted(found["attacks"].items(), key=lambda item: str(item[1]["code"])):
        cells = one["cells"]
        guarded = sum(cell["guard"] for where, cell in cells.items() if where != "none")
        words = [span(cells[where]) for where in found["defences"]]
        table.add_row(f"{one['code']} {name}", *words, str(guarded))
    table.add_section()
    table.add_row("shared policy", span(found["shared"]), "", "", "")
    return table
