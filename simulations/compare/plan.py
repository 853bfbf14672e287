"""What a tournament will cost, said before it is paid: cells, refusals, and time and disk from a pilot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commonground.report.words import duration, plural, size
from commonground.simulations.compare.grid import Grid


def plan_lines(grid: Grid, done: int, workers: int) -> list[str]:
    """How many cells there are, and which are refused, with the reason."""
    refused = [cell for cell in grid.cells if cell.refusal is not None]
    axes = [f"{plural(len(values), 'value')} of {key}" for key, values in grid.axes.items()]
    factors = [plural(len(grid.strategies), "strategy", "strategies"), plural(len(grid.seeds), "seed"), *axes]
    on = plural(workers, "process", "processes")
    lines = [f"{plural(len(grid.cells), 'cell')}: {' x '.join(factors)}, on {on}"]
    reasons: dict[str, int] = {}
    for cell in refused:
        reasons[str(cell.refusal)] = reasons.get(str(cell.refusal), 0) + 1
    lines += [f"{plural(count, 'cell')} refused: {reason}" for reason, count in reasons.items()]
    if done:
        lines.append(f"{plural(done, 'cell')} done before")
    return lines


def estimate(left: int, seconds: float, used: int, workers: int) -> dict[str, Any]:
    """Time and disk of the cells that are left, if each costs what the pilot did.

    Args:
        left: cells to run.
        seconds: wall time of the pilot.
        used: its bytes on disk.
        workers: processes.
    """
    rounds = -(-left // workers)
    return {"cells": left, "seconds": rounds * seconds, "bytes": left * used, "pilot_seconds": seconds}


def estimate_line(found: dict[str, Any]) -> str:
    """The estimate in words."""
    return (
        f"the first took {duration(found['pilot_seconds'])}; {plural(found['cells'], 'cell')} left: about "
        f"{duration(found['seconds'])} and {size(found['bytes'])} of disk, if all cost the same"
    )


def bytes_in(folders: Sequence[Path]) -> int:
    """What folders hold on disk; sparse files count what they use."""
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_blocks * 512 for file in files)
