"""What a process holds in its memory stays there: no picture of it on a disk, no debugger in the vault.

The vault holds the store's key and every text, the supervisor the passphrase, the page what is on the screen:
a crash would write all of it into a core file, in clear. And whoever takes over another process of the same
user, such as the node, which reads whatever a server sends, could read the vault's memory as a debugger does.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

_NOT_DUMPABLE = 4, 0  # PR_SET_DUMPABLE of <sys/prctl.h>, off


def leave_no_core() -> None:
    """From now on no crash of this process, or of a part that it starts, leaves a core file."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def keep_out_debuggers() -> None:
    """From now on, on Linux, this process's memory is read by nobody but the administrator."""
    leave_no_core()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(*_NOT_DUMPABLE, 0, 0, 0)
