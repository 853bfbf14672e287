"""What befalls a run from outside: a stop that can be gone on from, and what devices log."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from commonground.errors import InterruptedRunError
from commonground.terminal import LineFormatter


@contextmanager
def resumable(folder: Path, marker: str) -> Iterator[None]:
    """Turn a stop by the user into an error that says how to go on.

    Args:
        folder: the run's folder.
        marker: the file in it without which there is nothing to go on with.

    Raises:
        InterruptedRunError: in place of KeyboardInterrupt.
    """
    try:
        yield
    except (KeyboardInterrupt, InterruptedRunError) as error:
        kept = (folder / marker).is_file()
        raise InterruptedRunError(
            f"stopped; what is done is kept in {folder}" if kept else "stopped before anything was done",
            hint=f"go on with: commonground simulate --resume {shlex.quote(str(folder))}" if kept else None,
        ) from error


class _Quiet(logging.FileHandler):
    """A log file whose own failures are nobody's business: the disk's error is raised where it matters."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a log that cannot be opened stops nothing."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Nothing."""


@contextmanager
def device_log(path: Path) -> Iterator[None]:
    """Keep what devices log (tracebacks that never travel) in a file, made when there is something."""
    logger = logging.getLogger("commonground")
    handler = _Quiet(path, encoding="utf-8", delay=True)
    handler.setFormatter(LineFormatter("%(asctime)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False  # a library may have given the root a handler
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        handler.close()
