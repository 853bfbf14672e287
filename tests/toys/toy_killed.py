"""Kill a run at many instants and go on with it; prints one JSON object. A program: it forks.

    python toy_killed.py FOLDER POINTS OVERRIDE...

A run is made here first, in FOLDER/whole, which also loads every library and fills the caches; another is
counted: every file it opens to write, every rename and every step of its progress is an instant. Then,
for POINTS instants spread over all of them, a forked child runs until that instant, where it
sends itself SIGKILL, and another goes on with what is left. Forking from one process that has everything
imported keeps an instant at a second or two.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from commonground.simulations.runner import simulate
from commonground.simulations.settings import read_settings

WRITES = os.O_WRONLY | os.O_RDWR


class Instants:
    """Counts instants, and kills this process at number `last`."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.folder, self.last, self.count = str(folder), last, 0

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook; see `sys.addaudithook`."""
        if event == "os.rename":
            name, writes = arguments[0], True
        elif event == "open":
            name, writes = arguments[0], bool((arguments[2] or 0) & WRITES)
        else:
            return
        if writes and isinstance(name, str | os.PathLike) and os.fspath(name).startswith(self.folder):
            self.pass_one()

    def pass_one(self) -> None:
        """One instant more."""
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def stage(self, name: str, done: int, total: int) -> None:
        """Progress."""
        self.pass_one()

    def notice(self, words: str) -> None:
        """Nothing."""

    def round(self, event: dict[str, Any], total: int) -> None:
        """Progress."""
        self.pass_one()


def in_child(folder: Path, overrides: list[str], last: int | None) -> tuple[int, int]:
    """Run in a fork; returns the signal that ended it (0: none) and how many instants it had."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            instants = Instants(folder, last)
            sys.addaudithook(instants.hook)
            simulate(read_settings(None, overrides), folder, instants)
            os.write(writing, str(instants.count).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        count = pipe.read()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("a run failed")
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), int(count or 0)


def look(folder: Path) -> dict[str, Any]:
    """What a killed run has left."""
    with contextlib.suppress(FileNotFoundError):
        return {"files": sorted(p.name for p in folder.iterdir())}
    return {"files": []}


def main(folder: Path, points: int, overrides: list[str]) -> None:
    """See the module's text."""
    torch.set_num_threads(1)
    simulate(read_settings(None, overrides), folder / "whole")
    _, total = in_child(folder / "counted", overrides, None)
    found = []
    for k in range(points):
        instant = 1 + round(k * (total - 1) / max(1, points - 1))
        run = folder / f"at-{instant}"
        end, _ = in_child(run, overrides, instant)
        left = look(run)
        in_child(run, overrides, None)
        found.append({"instant": instant, "signal": end, "run": str(run), **left})
    print(json.dumps({"total": total, "found": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
