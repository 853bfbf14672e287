"""Rows of the table: one a strategy and setting, means over its seeds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from commonground.simulations.compare.grid import Cell, Grid
from commonground.simulations.compare.measures import NAMES, Mask, People, groups_of, measures, people_of
from commonground.terminal import spreadsheet_cell

Result = Mapping[str, Any]
FRACTION = "attack.fraction"


@dataclass
class Row:
    """A strategy in a setting.

    Attributes:
        strategy: its label.
        setting: position in the grid's settings.
        status: done, refused or failed; failed where any of its seeds is.
        seeds: those that are done, on which the numbers stand.
        reason: why it is refused or failed.
        numbers: means over the seeds.
        groups: policy -> group -> mean taste accuracy.
        people: seed -> the evaluated people.
    """

    strategy: str
    setting: int
    status: str
    seeds: list[int]
    reason: str
    numbers: dict[str, float | None]
    groups: dict[str, dict[str, float | None]]
    people: dict[int, People] = field(default_factory=dict)


def make_rows(grid: Grid, results: Mapping[str, Result], reasons: Mapping[str, str]) -> list[Row]:
    """The rows in order: settings as in the grid, strategies as they were given.

    Args:
        grid: the tournament.
        results: cell name -> result of those that are done.
        reasons: cell name -> why it failed.
    """
    rows = []
    for setting in range(len(grid.settings)):
        cells = [cell for cell in grid.cells if cell.setting == setting]
        minority = _minorities(grid, cells, results)
        for entry in grid.strategies:
            mine = [cell for cell in cells if cell.strategy == entry.label]
            rows.append(_row(mine, results, reasons, minority))
    for row in rows:
        row.numbers["attack_baseline"] = _baseline(grid, rows, row)
    return rows


def _baseline(grid: Grid, rows: Sequence[Row], row: Row) -> float | None:
    """The attack's success where nobody attacks: of the row at `attack.fraction` 0, on the same seeds."""
    setting = grid.settings[row.setting]
    if setting.get(FRACTION, "0") == "0":
        return None
    clean = setting | {FRACTION: "0"}
    other = next((r for r in rows if r.strategy == row.strategy and grid.settings[r.setting] == clean), None)
    return None if other is None or other.seeds != row.seeds else other.numbers["attack_success"]


def _minorities(grid: Grid, cells: Sequence[Cell], results: Mapping[str, Result]) -> dict[int, Mask]:
    """Seed -> who the minority is: planted, or found by the first strategy that is done."""
    order = {entry.label: place for place, entry in enumerate(grid.strategies)}
    found: dict[int, Mask] = {}
    for cell in sorted(cells, key=lambda one: order[one.strategy]):
        if cell.seed not in found and cell.name in results:
            found[cell.seed] = people_of(results[cell.name]).minority
    return found


def _row(
    cells: Sequence[Cell],
    results: Mapping[str, Result],
    reasons: Mapping[str, str],
    minority: Mapping[int, Mask],
) -> Row:
    done = [cell for cell in cells if cell.name in results]
    failed = [cell for cell in cells if cell.refusal is None and cell.name not in results]
    found = [measures(results[cell.name], minority[cell.seed]) for cell in done]
    people = {}
    for cell in done:
        people[cell.seed] = replace(people_of(results[cell.name]), minority=minority[cell.seed])
    refusal = cells[0].refusal
    if refusal is not None:
        status, reason = "refused", refusal
    elif failed:
        status = "failed"
        why: dict[str, list[int]] = {}
        for cell in failed:
            why.setdefault(reasons.get(cell.name, "not run"), []).append(cell.seed)
        reason = "; ".join(f"seed {', '.join(map(str, seeds))}: {text}" for text, seeds in why.items())
    else:
        status, reason = "done", ""
    return Row(
        cells[0].strategy,
        cells[0].setting,
        status,
        [cell.seed for cell in done],
        reason,
        {key: _mean([one[key] for one in found]) for key in (found[0] if found else NAMES)},
        _mean_groups([groups_of(results[cell.name]) for cell in done]),
        people,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean over seeds; None where a seed has no number, because the rest would be other people."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _mean_groups(found: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, Any]]:
    if not found:
        return {}
    return {
        policy: {
            name: _mean([one[policy].get(name) for one in found])
            for name in sorted({name for one in found for name in one[policy]})
        }
        for policy in found[0]
    }


def table_csv(grid: Grid, rows: Sequence[Row]) -> str:
    """The table as CSV: strategy, status, seeds, the settings, the numbers, the reason.

    Numbers have six digits; what does not exist is empty, infinity is `inf`.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    keys = list(grid.axes)
    head = ["strategy", "status", "seeds", *keys, *NAMES, "reason"]
    writer.writerow(map(spreadsheet_cell, head))
    for row in rows:
        setting = grid.settings[row.setting]
        numbers = ["" if (value := row.numbers.get(name)) is None else f"{value:.6g}" for name in NAMES]
        seeds = " ".join(map(str, row.seeds))
        values = [setting[key] for key in keys]
        cells = [row.strategy, row.status, seeds, *values, *numbers, row.reason]
        writer.writerow(map(spreadsheet_cell, cells))
    return file.getvalue()
