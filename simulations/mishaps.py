"""What befalls a run from outside, each turned into one clear error: a full disk, a signal, a device."""

from __future__ import annotations

import errno
import logging
import shlex
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from commonground.errors import InterruptedRunError, RunFolderError, StorageError

# What the disk or its owner can refuse; any other OSError is a fault of the program and stays one.
REFUSALS = frozenset(
    getattr(errno, name)
    for name in (
        "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENAMETOOLONG", "ENOTDIR",
        "EISDIR", "ELOOP", "EMFILE", "ENFILE", "ESTALE", "ETXTBSY",
    )
)  # fmt: skip
MORE_ROOM = "free some space or choose another folder"


@contextmanager
def storage_errors(place: Path | str, mend: str = MORE_ROOM) -> Iterator[None]:
    """Turn what the disk refuses, and a database that is none, into one error.

    Args:
        place: what is being written, for errors that do not say it themselves.
        mend: the hint.

    Raises:
        StorageError: the disk refused.
        RunFolderError: a database file is damaged.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(f"cannot use the database in {place}: {error}", hint=mend) from error
    except sqlite3.DatabaseError as error:
        raise RunFolderError(
            f"a database in {place} is damaged: {error}", hint=f"delete {place} to start over"
        ) from error
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise StorageError(
            f"cannot use {error.filename or place}: {error.strerror or error}", hint=mend
        ) from error


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


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM stop a command the way Ctrl-C does; only the main thread can ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False  # a library may have given the root a handler
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        handler.close()
