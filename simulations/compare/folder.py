"""A tournament's folder: one grid for ever, one process at a time, cells that are ordinary run folders."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from commonground.errors import ConfigError, RunFolderError
from commonground.files import write_atomically
from commonground.mishaps import storage_errors
from commonground.simulations.compare.grid import Cell, Grid, read_grid
from commonground.simulations.folder import ANOTHER, LOCK

GRID, CELLS, TABLE, DATA, REPORT, LOG = (
    "compare.yaml", "cells", "table.csv", "compare.json", "report.html", "workers.log",
)  # fmt: skip
OURS = (LOCK, f"{GRID}.part", LOG)


class TournamentFolder:
    """Where a tournament lives.

    Args:
        path: the folder; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def cell(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.path / CELLS / cell.name

    def grid(self, *, allow_code: bool = False) -> Grid:
        """The grid of the tournament in this folder; raises `RunFolderError` where there is none.

        Args:
            allow_code: whether names of code in it may be imported.
        """
        file = self.path / GRID
        if not file.is_file():
            raise RunFolderError(f"{self.path} holds no tournament: there is no {GRID}")
        try:
            return read_grid(file, allow_code=allow_code)[0]
        except ConfigError as error:
            raise RunFolderError(
                f"{file} cannot be used: {error.faults[0]}", hint="mend it, or choose another folder"
            ) from error

    def check(self, grid: Grid) -> None:
        """Refuse a folder that this grid cannot use; raises `RunFolderError`."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"--out {self.path} is a file; a new or empty folder is needed")
        kept = self.path / GRID
        if kept.is_file():
            if kept.read_text(encoding="utf-8", errors="replace") != grid.text:
                raise RunFolderError(
                    f"{self.path} holds a tournament of another grid ({kept})",
                    hint="choose another --out, or resume that one: commonground compare --resume "
                    + shlex.quote(str(self.path)),
                )
        elif self.path.is_dir() and any(entry.name not in OURS for entry in self.path.iterdir()):
            raise RunFolderError(
                f"{self.path} is not empty and holds no tournament; a new or empty folder is needed"
            )

    @contextmanager
    def claim(self, grid: Grid) -> Iterator[None]:
        """Hold the folder for this process; the grid is written first.

        Raises:
            RunFolderError: another process compares here, or the folder is of another grid.
            StorageError: the disk refused.
        """
        with storage_errors(self.path, ANOTHER):
            self.check(grid)
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise RunFolderError(
                    f"{self.path} is in use by another tournament",
                    hint="wait for it, or choose another --out",
                ) from error
        try:
            if not (self.path / GRID).is_file():
                write_atomically(self.path / GRID, grid.text.encode())
            yield
        finally:
            lock.release()
