"""One process that is kept alive: started, looked at, started again after a pause that doubles."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from commonground.child_environment import child_environment

FIRST, LONGEST = 0.5, 30.0  # seconds of the pause before a new start
LARGEST = 50_000_000  # bytes of a log
STEADY = 60.0  # seconds after which a process counts as well again
# A process of its own before the command, since code between fork and exec is not safe beside threads: it
# asks the kernel for a signal when the supervisor dies, and sees whether that has happened already.
_LAUNCH = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, int(sys.argv[2])); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[3], sys.argv[3:])"
)


def identity(pid: int) -> str:
    """A process in words that fit no other one, and that no change of the clock moves; raises `OSError`."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":  # nobody has asked for its end yet, as in a container without an init
        raise ProcessLookupError(f"process {pid} has ended")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{pid} {fields[19]} {boot}"  # its number, its start in ticks since this boot, this boot


def same_process(words: str) -> int | None:
    """The process id in what `identity` gave, where that very process is still there.

    Raises:
        OSError: nothing has its number.
        ValueError: these are other words.
    """
    pid = int(words.split(maxsplit=1)[0]) if words.split() else 0
    return pid if identity(pid) == words.strip() else None


def end_session(leader: int) -> None:
    """Kill what a process of ours left behind when it was killed: nginx's workers keep its port.

    Args:
        leader: its number; each part leads a session of its own. Where a process has that number, nothing
            is done: the kernel gives no number anew while a session bears it.
    """
    if Path(f"/proc/{leader}").exists():
        return
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == leader:
                process.kill()


class Kept:
    """A child process.

    Args:
        name: what the operator is told.
        command: gives the command line of the next start.
        log: where its output goes, appended.
        environment: beside the harmless part of this process's own.
        death: the signal that it gets when this process dies. SIGKILL, unless it has children of its own.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], list[str]],
        log: Path,
        environment: Mapping[str, str],
        death: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name, self._command, self._log, self._environment = name, command, log, environment
        self._death = death
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.words = "not started"
        self._pause, self._next, self._since = FIRST, 0.0, 0.0

    @property
    def pid(self) -> int | None:
        """Its process id, where it runs."""
        return self.process.pid if self.alive and self.process is not None else None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it. From the main thread: it ends with the thread that started it."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, str(os.getpid()), str(int(self._death)), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(self._environment),
                cwd=self._log.parent,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone
            )
        self._since, self.words = time.monotonic(), "runs"

    def look(self) -> bool:
        """Whether it runs; starts it again where it does not and its pause is over."""
        if self.alive:
            if time.monotonic() - self._since > STEADY:
                self._pause = FIRST
            self._rotate()
            return True
        at = time.monotonic()
        if self.process is not None:
            self.words = f"ended with {_code(self.process.returncode)}; starts again"
            end_session(self.process.pid)
            self.process, self._next = None, at + self._pause
            self._pause = min(2 * self._pause, LONGEST)
        if at >= self._next:
            self.restarts += self._since > 0
            self.start()
            return True
        return False

    def _rotate(self) -> None:
        """Keep a log and the one before it; the process goes on writing at the end of the file."""
        if self._log.stat().st_size > LARGEST:
            shutil.copyfile(self._log, self._log.with_suffix(".log.1"))
            os.truncate(self._log, 0)


def end_all(parts: Sequence[Kept], patience: float) -> None:
    """Ask all of them to end at once, and make them after `patience` seconds."""
    processes = [part.process for part in parts if part.process is not None]
    for ask in (subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in processes:
            if process.poll() is None:
                ask(process)
        end = time.monotonic() + patience
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
    for part in parts:
        part.process = None


def _code(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return str(code)
