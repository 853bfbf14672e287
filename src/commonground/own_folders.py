"""Folders that this program made, and may therefore remove.

Nothing else is ever removed: a folder is taken away only if it is known by what lies in it to be ours, never
because of its name or its place, and never through a link. A name that came from data is no part of a path;
`numbered` gives the folder of the n-th person, and her id stands in a file in it.
"""

from __future__ import annotations

import fcntl
import glob
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from commonground.errors import RunFolderError, StorageError

MARK = ".draft"  # lies in a folder that is being made, locked by whoever makes it


def numbered(place: int) -> str:
    """Return the folder name of the person at `place` (from 0): `p0001` for the first."""
    return f"p{place + 1:04d}"


def remove_known(folder: Path, names: Collection[str]) -> None:
    """Remove a folder of ours that holds nothing but regular files of these names.

    Args:
        folder: it may be missing.
        names: what this program writes into such a folder.

    Raises:
        RunFolderError: it is a link, a file, or holds anything else; nothing was removed.
        StorageError: the disk refused.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise RunFolderError(
            f"{folder} is no folder of this run's making; it is left alone", hint="move it away"
        )
    try:
        found = sorted(folder.iterdir())
        odd = [
            entry.name for entry in found if entry.name not in names or entry.is_symlink() or entry.is_dir()
        ]
        if odd:
            raise RunFolderError(
                f"{folder} holds {odd[0]!r}, which this run did not write; nothing in it is removed",
                hint="move the folder away, or choose another --out",
            )
        for entry in found:
            entry.unlink()
        folder.rmdir()
    except OSError as error:
        raise StorageError(
            f"cannot remove {folder}: {error.strerror or error}", hint="remove it by hand"
        ) from error


def make_draft(folder: Path) -> BinaryIO:
    """Make a folder that is to become another, marked as ours and readable by its owner alone.

    Args:
        folder: it must not exist.

    Returns:
        What holds it: as long as this is open, no other process of ours takes the folder for a left-over.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700)
    held = (folder / MARK).open("xb")
    fcntl.flock(held, fcntl.LOCK_EX)
    return held


def marked(folder: Path) -> bool:
    """Return whether a folder is a draft of ours."""
    kept = folder / MARK
    return folder.is_dir() and not folder.is_symlink() and kept.is_file() and not kept.is_symlink()


def unmark(folder: Path) -> None:
    """Take the mark away once the draft has become what it was made for."""
    (folder / MARK).unlink(missing_ok=True)


def remove_draft(folder: Path) -> None:
    """Remove a draft of ours that nobody is making; a missing one is no error.

    Raises:
        StorageError: it is a link, does not carry the mark, is being made right now, or the disk refused. It
            is left as it is.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    try:
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()  # a maker was killed before it had written the mark
            return
        if not marked(folder):
            raise StorageError(
                f"{folder} is in the way and was not made by this program; it is left alone",
                hint="move it away, or choose another folder",
            )
        with (folder / MARK).open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    except BlockingIOError as error:
        raise StorageError(f"{folder} is being made by another process", hint="wait for it") from error
    except OSError as error:
        raise StorageError(
            f"cannot remove {folder}: {error.strerror or error}", hint="remove it by hand"
        ) from error


def sweep_drafts(folder: Path, prefix: str) -> None:
    """Remove drafts of ours in `folder` that killed makers left: names begin with `prefix`, no pattern.

    What is not ours, or is being made, stays.
    """
    for left in folder.glob(f"{glob.escape(prefix)}*"):
        with suppress(StorageError):
            remove_draft(left)
