"""One part of a running device: a child process whose lines are kept and which is started again when it ends.

A part lives no longer than its supervisor: `python -m commonground.client.child PARENT MODULE ARGS` runs a
module in a process that ends by itself once its parent is gone, however the parent ended.
"""

from __future__ import annotations

import logging
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

from commonground.child_environment import child_environment
from commonground.client.confined import enter
from commonground.errors import InputError, one_line
from commonground.mishaps import storage_errors
from commonground.terminal import without_colours

STEADY = 60.0  # seconds after which a part that ends is no part that keeps ending
FIRST, MOST = 1.0, 60.0  # seconds before the first and before every later start
LOG_BYTES, LOGS = 1 << 20, 3  # of each part's log, whatever it says
ORPHAN = 1.0  # seconds between looks whether the parent is there


@dataclass(frozen=True)
class Part:
    """What a supervisor keeps running.

    Attributes:
        name: vault | node | executor | page.
        command: the module and its arguments, asked for at each start.
        environment: beside what every part is told, asked for at each start.
        needs: names of the supervisor's environment that it is told besides.
        stdin: what the part reads first; None closes it.
        ready: whether it is up; before that it is not taken for started.
        line: is told each line that it writes.
        kept: whether a line goes into the log.
    """

    name: str
    command: Callable[[], list[str]]
    environment: Callable[[], Mapping[str, str]] = dict
    needs: frozenset[str] = frozenset()
    stdin: str | None = None
    ready: Callable[[], bool] = lambda: True
    line: Callable[[str], None] = lambda line: None
    kept: Callable[[str], bool] = lambda line: True


class Backoff:
    """Waits that double from `FIRST` to `MOST`, each shortened by up to a half by chance.

    Args:
        draw: a number from 0 to 1.
    """

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw, self._ends = draw, 0

    def next(self) -> float:
        """Seconds to wait before the next start."""
        full = min(MOST, FIRST * 2.0**self._ends)
        self._ends += 1
        return full * (1 - self._draw() / 2)

    def reset(self) -> None:
        """Begin anew."""
        self._ends = 0


class Child:
    """A part's process.

    Args:
        part: what to run.
        log: the file that keeps its lines; raises `StorageError` where it cannot be written.
        backoff: how long it rests between an end and a start.
    """

    def __init__(self, part: Part, log: Path, backoff: Backoff | None = None) -> None:
        self.part, self._backoff = part, backoff or Backoff()
        with storage_errors(log):
            log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._log = RotatingFileHandler(log, maxBytes=LOG_BYTES, backupCount=LOGS, encoding="utf-8")
        self._log.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk stops nothing
        self.process: subprocess.Popen[str] | None = None
        self.starts, self.code, self.was_ready = 0, 0, False
        self.next = 0.0  # on the monotonic clock
        self._began = 0.0
        self._pump: threading.Thread | None = None
        self.tail: deque[str] = deque(maxlen=50)

    @property
    def pid(self) -> int:
        """Of the running process, or 0."""
        return self.process.pid if self.process is not None else 0

    @property
    def ready(self) -> bool:
        """Whether the process runs and is up."""
        return self.process is not None and self.part.ready()

    def start(self) -> None:
        """Start the process."""
        words = [
            sys.executable,
            "-P",
            "-m",
            "commonground.client.child",
            str(os.getpid()),
            *self.part.command(),
        ]
        self.tail.clear()
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if self.part.stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment(self.part.environment(), also=self.part.needs),
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C goes to the supervisor alone, which ends its parts in order
        )
        self.starts, self._began = self.starts + 1, time.monotonic()
        if self.process.stdin is not None:
            try:
                self.process.stdin.write(f"{self.part.stdin}\n")
                self.process.stdin.close()
            except OSError:
                pass  # it has ended already; that is seen below
        self._pump = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._pump.start()

    def tick(self, now: float) -> bool:
        """Note an end, and start when it is time; returns whether something changed."""
        if self.process is None:
            if now < self.next:
                return False
            self.start()
            return True
        if self.process.poll() is None:
            if not self.was_ready and self.part.ready():
                self.was_ready = True
                return True
            return False
        self._ended()
        if now - self._began >= STEADY:
            self._backoff.reset()
        self.next = now + self._backoff.next()
        return True

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process, where there is one."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, until: float) -> bool:
        """Wait for the end, to this instant of the monotonic clock; False where it still runs."""
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        self._ended()
        return True

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def fault(self) -> tuple[str, str | None]:
        """What the part said of its end: its last error line, and the hint."""
        lines = [line for line in self.tail if line.strip()]
        hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        words = errors[-1] if errors else (lines[-1] if lines else f"it ended with code {self.code}")
        return words, hints[-1] if hints and errors else None

    def _ended(self) -> None:
        assert self.process is not None
        self.code = self.process.returncode
        if self._pump is not None:
            self._pump.join(5)
        self.process = None

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                text = line.rstrip("\n")
                self.tail.append(text)
                if self.part.kept(text):
                    self._log.emit(
                        logging.makeLogRecord({"msg": "%s", "args": (one_line(without_colours(text)),)})
                    )
                self.part.line(text)


def main() -> None:
    """Run a module, within its walls, until it ends or the parent is gone."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    if not enter(module, sys.argv[1:]):
        sys.exit(InputError.exit_code)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
