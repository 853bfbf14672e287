"""The tournament: plan, pilot, every cell in parallel, then table, page and conclusion."""

from __future__ import annotations

import itertools
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commonground.console import Output
from commonground.errors import CommonGroundError, InterruptedRunError, RunFolderError
from commonground.files import write_atomically
from commonground.mishaps import storage_errors
from commonground.simulations.compare.document import document
from commonground.simulations.compare.folder import DATA, LOG, REPORT, TABLE, TournamentFolder
from commonground.simulations.compare.grid import Cell, Grid
from commonground.simulations.compare.plan import bytes_in, estimate, estimate_line, plan_lines
from commonground.simulations.compare.progress import CellProgress
from commonground.simulations.compare.rows import make_rows, table_csv
from commonground.simulations.compare.workers import Pool, Task
from commonground.simulations.folder import RunFolder
from commonground.simulations.inputs import refuse_other_data
from commonground.simulations.settings import anchored


def compare(grid: Grid, out: Path, output: Output, workers: int | None = None) -> dict[str, Any]:
    """Run, or go on with, a tournament.

    Args:
        grid: checked.
        out: its folder: new, empty, or holding the same grid.
        output: who is told.
        workers: processes; None is one a CPU.

    Returns:
        The content of `compare.json`.

    Raises:
        RunFolderError: the folder cannot be used.
        InterruptedRunError: Ctrl-C; the tournament can be resumed.
        CommonGroundError: no cell at all is done; table and page are written all the same.
    """
    folder = TournamentFolder(out)
    with folder.claim(grid), storage_errors(out):
        try:
            reasons = _run_cells(grid, folder, output, workers or os.cpu_count() or 1)
        except KeyboardInterrupt as error:
            raise InterruptedRunError(
                f"stopped; what is done is kept in {out}",
                hint=f"go on with: commonground compare --resume {shlex.quote(str(out))}",
            ) from error
        return _write(grid, folder, reasons)


def _run_cells(grid: Grid, folder: TournamentFolder, output: Output, workers: int) -> dict[str, str]:
    """Run what is not done yet; returns cell name -> why it failed.

    Raises:
        RunFolderError: cells that are done, or begun, were begun with other data.
    """
    wanted = [cell for cell in grid.cells if cell.refusal is None]
    _refuse_other_data(wanted, folder)
    left = [cell for cell in wanted if not _is_done(folder.cell(cell))]
    workers = max(1, min(workers, len(left)))
    for line in plan_lines(grid, len(wanted) - len(left), workers):
        output.say(line)
    if not left:  # nothing but table and page to be made again
        return {}
    reasons: dict[str, str] = {}
    tasks = [Task(place, folder.cell(cell), cell.config) for place, cell in enumerate(left)]
    count = len(grid.cells) - len(left)
    with (
        Pool(workers, folder.path / LOG) as pool,
        CellProgress(output, len(grid.cells), workers) as progress,
    ):
        # The pilot alone, so that the plan is there before the rest; other workers load libraries meanwhile.
        for number, ended in enumerate(itertools.chain(pool.run(tasks[:1]), pool.run(tasks[1:])), 1):
            cell = left[ended.place]
            if ended.reason is not None:
                reasons[cell.name] = ended.reason
                output.say(f"failed: {cell.name}: {ended.reason}")
            progress.cell(count + number, cell.name, ended.seconds)
            if number == 1 and len(left) > 1:
                used = bytes_in([folder.cell(cell)])
                output.say(estimate_line(estimate(len(left) - 1, ended.seconds, used, workers)))
    return reasons


def _refuse_other_data(cells: Sequence[Cell], folder: TournamentFolder) -> None:
    """Compare what cells were begun with to what their sources hold now; each set of sources is read once."""
    seen: dict[str, dict[str, str]] = {}
    for cell in cells:
        refuse_other_data(RunFolder(folder.cell(cell)).state, anchored(cell.config), seen)


def _is_done(path: Path) -> bool:
    """Whether a cell has a whole result; one that is damaged is run again."""
    try:
        return RunFolder(path).result() is not None
    except RunFolderError:
        (path / "result.json").unlink(missing_ok=True)
        return False


def _write(grid: Grid, folder: TournamentFolder, reasons: Mapping[str, str]) -> dict[str, Any]:
    """Table, data and page of what is done."""
    from commonground.report.compare_page import build_compare_page

    results = _results(grid, folder)
    rows = make_rows(grid, results, reasons)
    found = document(grid, rows, results, reasons, folder.path)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder.path / TABLE, table_csv(grid, rows).encode())
    build_compare_page(found, folder.path / REPORT)
    write_atomically(folder.path / DATA, text.encode())
    if not results:
        first = next((row for row in rows if row.reason), None)
        raise CommonGroundError(
            f"none of {len(grid.cells)} cells is done"
            + ("" if first is None else f"; {first.strategy} {first.status}: {first.reason}"),
            hint=f"{folder.path / TABLE} has every reason",
        )
    return found


def _results(grid: Grid, folder: TournamentFolder) -> dict[str, Mapping[str, Any]]:
    """Cell name -> its result, where there is one."""
    found: dict[str, Mapping[str, Any]] = {}
    for cell in grid.cells:
        result = _result(folder, cell)
        if result is not None:
            found[cell.name] = result
    return found


def _result(folder: TournamentFolder, cell: Cell) -> Mapping[str, Any] | None:
    if cell.refusal is not None:
        return None
    result = RunFolder(folder.cell(cell)).result()
    if result is None:
        return None
    # Lists of the whole run that no row needs; a tournament of many people is held in memory at once.
    return {key: value for key, value in result.items() if key not in ("writing", "truth", "format_probe")}
