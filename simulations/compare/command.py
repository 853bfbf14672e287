"""What `commonground compare` does, between the command line and the tournament."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commonground.console import Output
from commonground.errors import InputError


def run_compare(
    output: Output,
    overrides: Sequence[str],
    config: Path | None,
    out: Path | None,
    resume: Path | None,
    workers: int | None,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Read the grid, run it, show the table; returns what the envelope holds."""
    from commonground.simulations.compare.folder import REPORT, TABLE, TournamentFolder
    from commonground.simulations.compare.grid import read_grid

    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; accepted: a whole number, at least 1")
    wanted = None
    if resume is not None:
        if overrides or config is not None or out is not None:
            raise InputError("--resume takes the tournament's own grid; give no --config, --out or overrides")
        folder, grid = resume, TournamentFolder(resume).grid(allow_code=allow_code)
    else:
        grid, wanted = read_grid(config, overrides, allow_code=allow_code)
        folder = out or _new_folder()
    # After the grid: a typo is answered before the heavy libraries are loaded.
    from commonground.report.compare_table import compare_table
    from commonground.simulations.compare.run import compare

    found = compare(grid, folder, output, workers or wanted)
    output.show(compare_table(found), "", *(f"{line}\n" for line in found["conclusion"]))
    output.show(f"table: {folder / TABLE}", f"report: {folder / REPORT}")
    return {
        "folder": str(folder),
        "table": str(folder / TABLE),
        "report": str(folder / REPORT),
        "result": found,
    }


def _new_folder() -> Path:
    """runs/compare-TIME, with a number where two begin in the same second."""
    name = time.strftime("compare-%Y%m%d-%H%M%S")
    tries = (Path("runs") / (name if k == 1 else f"{name}-{k}") for k in itertools.count(1))
    return next(folder for folder in tries if not folder.exists())
