"""A private folder for sockets whose path is short: a Unix socket's has at most 107 bytes on Linux."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from commonground.errors import InputError, StorageError

LONGEST = 107  # bytes of a socket's path
NAME = len("commonground-xxxxxxxx/")


def short_folder(inside: int) -> Path:
    """Make a folder of mode 0700 in which a path of `inside` more bytes still fits into a socket's.

    It is in the temporary folder that the environment names, or, where that is too deep in the file system,
    in the user's runtime folder, /tmp or /var/tmp.

    Raises:
        InputError: none of them is short enough, or none can be written.
        StorageError: the disk refused.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    found = [tempfile.gettempdir(), *([runtime] if os.path.isabs(runtime) else []), "/tmp", "/var/tmp"]
    for parent in dict.fromkeys(found):
        if len(os.fsencode(parent)) + 1 + NAME + inside > LONGEST or not os.access(parent, os.W_OK | os.X_OK):
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="commonground-", dir=parent))
        except OSError as error:
            raise StorageError(f"cannot make a folder for sockets: {error.strerror or error}") from error
    raise InputError(
        f"no temporary folder has a path short enough for a socket: tried {', '.join(dict.fromkeys(found))}",
        hint=f"set TMPDIR to a folder of at most {LONGEST - inside - NAME - 1} bytes that you may write",
    )
