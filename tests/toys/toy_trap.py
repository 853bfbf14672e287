"""A trap for effects: what a piece of code imports, starts, connects to, or changes on disk.

Python's audit hooks cannot be taken off again, so whoever sets the trap does so in a process of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
STARTS = frozenset(
    {
        "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
        "os.fork", "os.forkpty", "pty.spawn", "os.startfile", "socket.connect",
        "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto", "socket.bind",
        "urllib.Request", "webbrowser.open", "ftplib.connect", "smtplib.connect",
    }
)  # fmt: skip
ON_PATHS = {  # event -> places of its paths, and of the folders that they are relative to
    "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.mkdir": ((0, 2),), "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),), "os.symlink": ((1, 2),), "os.chmod": ((0, 2),), "os.chown": ((0, 3),),
    "os.truncate": ((0, None),), "os.utime": ((0, 3),), "shutil.rmtree": ((0, 1),),
    "shutil.move": ((1, None),),
    "shutil.copyfile": ((1, None),), "shutil.unpack_archive": ((1, None),), "sqlite3.connect": ((0, None),),
    "os.setxattr": ((0, None),),
}  # fmt: skip
OURS = ("commonground", "encodings")  # of which a module may be imported when it is first needed
NOWHERE = ("/dev/null",)


class Trap:
    """Records effects while it is armed.

    Args:
        inside: the one folder in which anything may be written.
        canaries: files that nobody may even read, and modules that nobody may ask for.
    """

    def __init__(self, inside: Path, files: tuple[Path, ...] = (), modules: tuple[str, ...] = ()) -> None:
        self.inside = inside.resolve()
        self.files = tuple(str(file.resolve()) for file in files)
        self.modules = modules
        self.seen: list[str] = []
        self._armed = False
        plain = importlib.import_module

        def asked(name: str, package: str | None = None) -> Any:
            # No event of the interpreter; and a module that is loaded already can be asked for as well.
            first = name.partition(".")[0]
            new = name not in sys.modules and first not in OURS
            if self._armed and not name.startswith(".") and (new or first in self.modules):
                self.seen.append(f"import_module {name}")
            return plain(name, package)

        importlib.import_module = asked
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def armed(self) -> Iterator[list[str]]:
        """Effects meanwhile, one text each."""
        self.seen.clear()
        self._armed = True
        try:
            yield self.seen
        finally:
            self._armed = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        if event == "import":
            if arguments[0].partition(".")[0] not in OURS:
                self.seen.append(f"import {arguments[0]}")
        elif event in STARTS:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            self._opened(*arguments)
        elif event in ON_PATHS:
            for place, folder in ON_PATHS[event]:
                beside = arguments[folder] if folder is not None and folder < len(arguments) else -1
                path = self._outside(arguments[place], beside)
                if path is not None:
                    self.seen.append(f"{event} {path}")

    def _opened(self, path: Any, mode: str | None, flags: int) -> None:
        if isinstance(path, int):
            return
        if flags & WRITES:
            found = self._outside(path, -1)
            if found is not None:
                self.seen.append(f"open {found} to write")
        elif os.path.realpath(os.fsdecode(path)) in self.files:
            self.seen.append(f"open {path!r:.200}")

    def _outside(self, path: Any, folder: Any) -> str | None:
        """The path where it lies outside of the folder that is allowed; None where it is inside."""
        if isinstance(path, int):
            return None
        text = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0:
            text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
        if text in NOWHERE:
            return None
        with contextlib.suppress(ValueError):
            if Path(os.path.realpath(text)).is_relative_to(self.inside):
                return None
        return text[:200]
