"""The list of strategies in the documents is the list there is."""

from __future__ import annotations

import re
from pathlib import Path

from commonground.strategies.registry import INDIVIDUAL, LINEAR, STRATEGIES

PAGE = Path(__file__).parents[2] / "docs" / "strategies-list.md"


def test_every_strategy_has_its_row_and_its_composition() -> None:
    found: dict[str, str] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            assert len(cells) == 8, line
            found |= dict.fromkeys(re.findall(r"`([a-z_]+)`", cells[0]), cells[4])
    assert found.keys() == STRATEGIES.keys()
    assert {name for name, central in found.items() if central.startswith("yes")} == LINEAR
    assert {name for name, central in found.items() if central.startswith("no:")} == INDIVIDUAL
