"""Progress of a run, to stderr."""

from __future__ import annotations

import time
from typing import Any

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from commonground.console import Output

EVERY = 5.0  # seconds between lines where there is no terminal


class RunProgress:
    """Progress of a run: live bars in a terminal, a line now and then elsewhere.

    Args:
        output: where it goes; always to stderr.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live = output.err.is_terminal and not output.err.is_dumb_terminal
        self._last = 0.0
        self._began = time.monotonic()
        self._tasks: dict[str, Any] = {}
        self._paces: dict[str, tuple[int, float]] = {}  # step -> the first part told of, and when
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=output.err,
            transient=True,
            disable=not self._live,
        )

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, name: str, done: int, total: int) -> None:
        """A long step."""
        self._update(name, min(done, total), total, "", left=self._left(name, done, total))

    def round(self, event: dict[str, Any], total: int) -> None:
        """A round is done."""
        note = f"{event['people']} people, {event['people'] / max(event['seconds'], 1e-3):,.0f} a second"
        if event.get("epsilon") is not None:
            epsilon = event["epsilon"]
            note += ", no privacy" if epsilon == "inf" else f", epsilon {epsilon:.2f} spent"
        note += f", {psutil.Process().memory_info().rss / 2**20:,.0f} MB"
        name = f"{event['arm']} rounds"
        self._update(name, event["round"], total, note, left=self._left(name, event["round"], total))

    def notice(self, words: str) -> None:
        """A line that stays, before the bars."""
        self._output.say(f"note: {words}")

    def _left(self, name: str, done: int, total: int) -> str:
        """How long the rest of a step takes at the pace so far; the bars of a terminal know by themselves."""
        first, began = self._paces.setdefault(name, (done, time.monotonic()))
        if done <= first or done >= total:
            return ""
        seconds = (time.monotonic() - began) / (done - first) * (total - done)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"

    def _update(self, name: str, done: int, total: int, note: str, left: str = "") -> None:
        if self._live:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, note=note)
            self._bars.update(self._tasks[name], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if now - self._last >= EVERY or done >= total:
            self._last = now
            more = (note + left).removeprefix(", ")
            words = f"{name}: {done} of {total}" + (f" ({more})" if more else "")
            self._output.say(f"[{now - self._began:6.1f} s] {words}")
