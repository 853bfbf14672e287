"""Files that are there wholly or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from commonground.errors import InputError, StorageError


def write_atomically(
    path: Path, data: bytes, replace: Callable[[Path, Path], None] = os.replace, *, private: bool = False
) -> None:
    """Write bytes beside `path`, force them to disk, rename.

    Args:
        path: the file; its folder is made if it is missing.
        data: the whole content.
        replace: what renames.
        private: nobody but the owner may read the file, from the first byte on.

    Raises:
        StorageError: the disk refused; the old file is still there, and no half one.
    """
    temporary, mode = path.with_name(path.name + ".part"), 0o600 if private else 0o666
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # the rest of a killed writer may have another mode
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}", hint="free some space or choose another folder"
        ) from error


def read_text(path: Path, most: int) -> str:
    """Read a text file, and never more than `most` + 1 characters: whoever gets so many refuses it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no UTF-8, or its name is none that a file can have.
    """
    with path.open(encoding="utf-8") as file:
        return file.read(most + 1)


@contextmanager
def new_private_file(path: Path) -> Iterator[BinaryIO]:
    """A file that nobody but its owner can read and that takes no other's place.

    Its folder may be everybody's, like /tmp: the draft beside it has a name that nobody could have taken or
    linked elsewhere before.

    Args:
        path: the new file; its folder must exist.

    Yields:
        What is written into; the file is there once the block has ended well, and nothing is otherwise.

    Raises:
        InputError: the file exists.
        StorageError: the disk refused.
    """
    if path.exists():
        raise InputError(f"{path} exists", hint="choose another name: nothing is overwritten")
    draft: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)
        draft = Path(name)
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="choose a folder that exists, is yours and has room",
        ) from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk: a rename in it must survive a power cut. Raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
