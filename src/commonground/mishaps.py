"""What befalls a command from outside, each turned into one clear error: a full disk, a signal."""

from __future__ import annotations

import errno
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from commonground.errors import RunFolderError, StorageError

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
