"""How far a tournament is: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from commonground.console import Output
from commonground.report.words import duration
from commonground.simulations.output import EVERY


class CellProgress:
    """Counts cells; to stderr.

    Args:
        output: where it goes.
        total: cells of the whole tournament.
        workers: how many run at a time.
    """

    def __init__(self, output: Output, total: int, workers: int) -> None:
        self._output, self._total, self._workers = output, total, workers
        self._live = output.err.is_terminal and not output.err.is_dumb_terminal
        self._began, self._last, self._seconds = time.monotonic(), 0.0, [0.0]
        self._bars = Progress(
            TextColumn("[bold]cells"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=output.err,
            transient=True,
            disable=not self._live,
        )
        self._task = self._bars.add_task("cells", total=total, note="")

    def __enter__(self) -> CellProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def cell(self, done: int, name: str, seconds: float) -> None:
        """A cell has ended.

        Args:
            done: cells that are done with, those of earlier processes too.
            name: what ended.
            seconds: how long it took.
        """
        if seconds:
            self._seconds.append(seconds)
        if self._live:
            self._bars.update(self._task, completed=done, note=name)
            return
        now = time.monotonic()
        if now - self._last >= EVERY or done >= self._total:
            self._last = now
            measured = self._seconds[1:]
            mean = sum(measured) / max(1, len(measured))
            left = (self._total - done) * mean / self._workers
            note = f", about {duration(left)} left" if done < self._total and measured else ""
            self._output.say(f"[{now - self._began:6.1f} s] cells: {done} of {self._total}{note} ({name})")
