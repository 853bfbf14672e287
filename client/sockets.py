"""Where a profile's sockets are: in its folder `run`, or in a short private one where that path is too long.

A Unix socket's path has at most 107 bytes on Linux. A profile deep in a file system gets a folder of mode
0700 instead (`short_paths`), whose path is written to `run/sockets`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from commonground.errors import InputError, StorageError
from commonground.short_paths import short_folder

NODE, OWNER, TOKEN, WHERE = "node.sock", "owner.sock", "owner.locked", "sockets"  # TOKEN: `keys.lock_token`
LONGEST = 100  # bytes of a socket's path
TOKEN_KEY = "owner-token"  # metadata of every call on owner.sock
NODE_KEY = "node-token"  # ... and of every call on the node's port


def run_folder(profile: Path) -> Path:
    """`run`, made with mode 0700 where it is missing; raises `StorageError`."""
    folder = profile / "run"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror or error}") from error
    return folder


def fits(profile: Path) -> bool:
    """Whether the profile's own `run` can hold the sockets."""
    return len(os.fsencode((profile / "run" / OWNER).absolute())) <= LONGEST


def make_socket_folder(profile: Path) -> Path:
    """The folder of the sockets, made where it is missing; what the vault calls once at its start.

    Raises:
        StorageError: it cannot be made, or what is recorded belongs to somebody else.
    """
    run = run_folder(profile).absolute()
    where = run / WHERE
    if fits(profile):
        where.unlink(missing_ok=True)
        return run
    known = _recorded(run)
    if known is not None and _ours(known):
        return known
    try:
        folder = short_folder(len(OWNER) + 1)
        where.write_text(str(folder), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot make a folder for sockets: {error.strerror or error}") from error
    return folder


def socket_folder(profile: Path) -> Path:
    """The folder of the sockets, as callers find it.

    Raises:
        InputError: it is recorded, and belongs to somebody else.
    """
    run = (profile / "run").absolute()
    known = _recorded(run)
    if known is None:
        return run
    if not _ours(known):
        raise InputError(
            f"the socket folder {known} is not there, or not ours alone", hint="start the device"
        )
    return known


def _recorded(run: Path) -> Path | None:
    try:
        return Path((run / WHERE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _ours(folder: Path) -> bool:
    """A real folder of this user that nobody else may enter: the temporary folder is everybody's."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
