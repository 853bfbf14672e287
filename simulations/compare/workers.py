"""Processes that run cells: one torch thread each, kept from cell to cell so that libraries load once.

A worker that dies (killed, out of memory, ended by a strategy's own code) costs the cell it was running
and is replaced. When the parent dies, even by `kill -9`, its workers end at once: nobody holds a cell that
a resumed tournament wants.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from commonground.config import Config
from commonground.errors import CommonGroundError
from commonground.hub import environment_of_downloads
from commonground.own_code import environment_of_code
from commonground.simulations.engine import environment
from commonground.simulations.settings import first_line

QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PATIENCE = 120.0  # seconds for the orphans of a killed tournament to let go of their cells


@dataclass(frozen=True)
class Task:
    """A cell to run: its position in the grid, its folder and what is run."""

    place: int
    folder: Path
    config: Config


@dataclass(frozen=True)
class Ended:
    """How a cell ended: `reason` is None where it is done; `seconds` it took, libraries not counted."""

    place: int
    reason: str | None
    seconds: float


class Pool:
    """Workers that take tasks in order.

    Args:
        workers: how many.
        log: a file for whatever the cells print, and for tracebacks.
    """

    def __init__(self, workers: int, log: Path) -> None:
        self._log = log
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start() for _ in range(workers)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.terminate()
        for process, _pipe in self._workers:
            process.join()

    def run(self, tasks: Sequence[Task]) -> Iterator[Ended]:
        """Run every task; yields each as it ends."""
        waiting = list(tasks)
        busy: dict[Connection, tuple[int, Task, float]] = {}
        while waiting or busy:
            for slot, (_process, pipe) in enumerate(self._workers):
                if waiting and not any(one[0] == slot for one in busy.values()):
                    task = waiting.pop(0)
                    with suppress(OSError):  # a dead worker is found below
                        pipe.send(task)
                    busy[pipe] = (slot, task, time.monotonic())
            for ready in wait(list(busy)):
                slot, task, began = busy.pop(cast(Connection, ready))
                ready = cast(Connection, ready)
                try:
                    reason, seconds = ready.recv()
                except (EOFError, OSError):
                    reason, seconds = f"its process {self._replace(slot)}", time.monotonic() - began
                yield Ended(task.place, reason, seconds)

    def _start(self) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        with environment({**QUIET, **environment_of_code(), **environment_of_downloads()}):
            process = self._context.Process(target=_serve, args=(theirs, str(self._log)), daemon=True)
            process.start()
        theirs.close()
        return process, ours

    def _replace(self, slot: int) -> str:
        """Start another worker in place of a dead one; how the dead one ended, in words."""
        process, pipe = self._workers[slot]
        process.join()
        pipe.close()
        self._workers[slot] = self._start()
        code = process.exitcode or 0
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _serve(pipe: Connection, log: str) -> None:
    """A worker's life: run what comes, answer (None or why it failed, seconds)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everybody; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    torch.set_num_threads(1)
    import commonground.simulations.runner  # noqa: F401  # while the pilot runs elsewhere
    from commonground.simulations.common import keep_common

    keep_common()

    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        began = time.monotonic()
        reason = _reason(task)
        pipe.send((reason, time.monotonic() - began))


def _reason(task: Task) -> str | None:
    """Run a cell; None, or one line that says why it failed."""
    from filelock import FileLock, Timeout

    from commonground.simulations.folder import LOCK, REPORT
    from commonground.simulations.runner import simulate

    try:
        if task.folder.is_dir():
            with suppress(Timeout), FileLock(task.folder / LOCK).acquire(timeout=PATIENCE):
                pass
        simulate(task.config, task.folder)
        # Five megabytes a cell that nobody reads; `commonground report` makes it again from the result.
        (task.folder / REPORT).unlink(missing_ok=True)
    except CommonGroundError as error:
        return first_line(error) or error.error_code
    except (Exception, SystemExit) as error:  # a user's own strategy can raise anything
        traceback.print_exc()
        said = first_line(error)
        return f"{type(error).__name__}: {said}" if said else type(error).__name__
    return None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
