"""A disk that fails, or a process that dies, at the n-th system call that SQLite makes.

SQLite lets tests put functions of their own in the place of its system calls (`xSetSystemCall`, the way its
own fault tests work). Those that write, grow, cut or remove files are counted here; the n-th one fails with
an error number, or kills the process before or in the middle of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import sqlcipher3._sqlite3

Way = Literal["fails once", "fails from then on", "dies before", "dies in the middle"]
_LIBRARY = ctypes.CDLL(sqlcipher3._sqlite3.__file__)
_C = ctypes.CDLL(None, use_errno=True)
_SIZE, _OFFSET, _INT = ctypes.c_size_t, ctypes.c_int64, ctypes.c_int
_WRITERS: dict[str, tuple[Any, ...]] = {
    "write": (ctypes.c_ssize_t, _INT, ctypes.c_void_p, _SIZE),
    "pwrite": (ctypes.c_ssize_t, _INT, ctypes.c_void_p, _SIZE, _OFFSET),
    "pwrite64": (ctypes.c_ssize_t, _INT, ctypes.c_void_p, _SIZE, _OFFSET),
    "ftruncate": (_INT, _INT, _OFFSET),
    "unlink": (_INT, ctypes.c_char_p),
}


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs` up to the calls of its third version."""


_SETTER = ctypes.CFUNCTYPE(_INT, ctypes.POINTER(_Vfs), ctypes.c_char_p, ctypes.c_void_p)
_Vfs._fields_ = [
    *[(name, _INT) for name in ("version", "file_size", "longest_path")],
    *[(name, ctypes.c_void_p) for name in ("next", "name", "data")],
    *[(f"call_{k}", ctypes.c_void_p) for k in range(13)],
    ("set_system_call", _SETTER),
]


class Disk:
    """What happens at which system call.

    Attributes:
        calls: how many were made while armed.
        fired: whether the n-th one came.
    """

    def __init__(self, at: int, way: Way, number: int) -> None:
        self.at, self.way, self.number = at, way, number
        self.calls, self.fired = 0, False

    def wrapped(self, name: str) -> Any:
        """The function that takes the place of a system call."""
        real = getattr(_C, name)
        real.restype, real.argtypes = _WRITERS[name][0], _WRITERS[name][1:]
        prototype = ctypes.CFUNCTYPE(*_WRITERS[name], use_errno=True)

        def call(*values: Any) -> int:
            self.calls += 1
            now = self.calls == self.at or (self.way == "fails from then on" and self.calls > self.at)
            if not now:
                return int(real(*values))
            self.fired = True
            if self.way.startswith("dies"):
                if self.way == "dies in the middle" and name.startswith(("write", "pwrite")):
                    real(*values[:2], values[2] // 2, *values[3:])
                os.kill(os.getpid(), signal.SIGKILL)
            ctypes.set_errno(self.number)
            return -1

        return prototype(call)


@contextmanager
def failing(at: int, way: Way, number: int = errno.ENOSPC) -> Iterator[Disk]:
    """SQLite's `at`-th writing call, from 1, fails or kills this process, for all connections of it."""
    _LIBRARY.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    vfs = _LIBRARY.sqlite3_vfs_find(None)
    disk = Disk(at, way, number)
    kept: list[Callable[..., int]] = []
    for name in _WRITERS:
        function = disk.wrapped(name)
        kept.append(function)
        pointer = ctypes.cast(function, ctypes.c_void_p)
        if vfs.contents.set_system_call(vfs, name.encode(), pointer) != 0:
            raise RuntimeError(f"SQLite has no system call {name}")
    try:
        yield disk
    finally:
        vfs.contents.set_system_call(vfs, None, None)  # all of its own again
        kept.clear()
