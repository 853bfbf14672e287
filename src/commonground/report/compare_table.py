"""The table of a tournament for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD

from commonground.report.compare_view import asked
from commonground.report.words import SPACE, percent
from commonground.terminal import Table

SHOWN = {
    "personal_taste": "taste",
    "personal_worst_decile": "worst\n10 %",
    "personal_minority": "minority",
    "shared_taste": "shared\ntaste",
    "shared_minority": "shared\nminority",
    "shared_safety": "shared\nsafety",
}
ATTACK = {"attack_success": "attack\nsucceeds", "attack_baseline": "without\nattackers"}


def compare_table(found: Mapping[str, Any]) -> Table:
    """Strategies as rows; what was refused or failed says so.

    Args:
        found: a compare.json.
    """
    shown = SHOWN | (ATTACK if asked(found) else {})
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, caption="% right, means over seeds", caption_justify="left"
    )
    table.add_column("strategy", overflow="fold")
    for key in found["axes"]:
        table.add_column(key.rsplit(".", 1)[-1], justify="right")
    for head in shown.values():
        table.add_column(head, justify="right", no_wrap=True)
    for row in found["rows"]:
        setting = list(found["settings"][row["setting"]]["values"].values())
        numbers = row["numbers"]
        cells = [percent(numbers.get(key)).removesuffix(f"{SPACE}%") for key in shown]
        if row["status"] != "done":
            cells[0] = row["status"]
        table.add_row(row["strategy"], *setting, *cells)
    return table
