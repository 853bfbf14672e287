"""In a tournament an attack's success stands beside that of the same cells in which nobody attacks."""

from __future__ import annotations

import csv
import io
import warnings
from typing import Any

import pytest
import toy_compare
from rich.console import Console

from commonground.report.compare_page import render_compare_page
from commonground.report.compare_table import compare_table
from commonground.simulations.compare.grid import Cell, Grid, read_grid
from commonground.simulations.compare.rows import make_rows, table_csv


def grid_of(fractions: str) -> Grid:
    words = ["strategies=[fedavg,fedadam]", "seeds=2", "attack.name=[backdoor,min_max]", fractions]
    return read_grid(None, [*words, "privacy.shared.epsilon=inf"])[0]


def result_of(cell: Cell) -> dict[str, Any]:
    """A result that says of its attack what can be told from its cell."""
    if cell.config.attack.name == "min_max":
        return {"attack": {"name": "min_max"}}
    shared = cell.config.attack.fraction + 0.1 * cell.seed + (0.05 if cell.strategy == "fedadam" else 0.0)
    return {"attack": {"success_everybody": {"shared": shared, "personal": 1.0}}}


def rows_of(grid: Grid, leave_out: str = "") -> list[dict[str, str]]:
    results = {cell.name: result_of(cell) for cell in grid.cells if cell.name != leave_out}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = make_rows(grid, results, {})
    return list(csv.DictReader(io.StringIO(table_csv(grid, rows))))


def test_the_baseline_is_the_row_without_attackers() -> None:
    rows = rows_of(grid_of("attack.fraction=[0,0.2,0.4]"))
    assert len(rows) == 12
    for row in rows:
        more, fraction = 0.1 if row["strategy"] == "fedadam" else 0.05, row["attack.fraction"]
        if row["attack.name"] == "min_max":
            assert (row["attack_success"], row["attack_baseline"]) == ("", "")
            continue
        assert float(row["attack_success"]) == pytest.approx(float(fraction) + more)
        assert row["attack_baseline"] == ("" if fraction == "0" else f"{more:g}")


def test_without_such_a_row_or_with_other_seeds_there_is_none() -> None:
    assert {row["attack_baseline"] for row in rows_of(grid_of("attack.fraction=[0.2,0.4]"))} == {""}
    grid = grid_of("attack.fraction=[0,0.2]")
    gone = next(
        cell
        for cell in grid.cells
        if (cell.strategy, cell.seed, cell.config.attack.fraction, cell.config.attack.name)
        == ("fedavg", 1, 0.0, "backdoor")
    )
    found = {
        row["strategy"]: row["attack_baseline"]
        for row in rows_of(grid, gone.name)
        if (row["attack.name"], row["attack.fraction"]) == ("backdoor", "0.2")
    }
    assert found == {"fedavg": "", "fedadam": "0.1"}


def test_the_page_and_the_terminal_show_both_where_there_is_a_success() -> None:
    plain = toy_compare.compare_document()
    assert "Attack succeeds" not in render_compare_page(plain)
    asked = toy_compare.compare_document()
    asked["rows"][0]["numbers"] |= {"attack_success": 0.63, "attack_baseline": 0.48}
    page = render_compare_page(asked)
    for text in ("Attack succeeds", "Without attackers", ">63", ">48"):
        assert text in page
    console = Console(width=160, record=True)
    console.print(compare_table(asked))
    said = console.export_text()
    assert "attack" in said
    assert "48" in said
