"""How tests wait for another process or thread: until it has happened, or until who should do it has ended.

Never a fixed time. `LIMIT` is there only so that a test that waits in vain ends; a machine that is ten times
slower than usual must not reach it. `tests/test_patience.py` holds every other test file to this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias, TypeVar

import psutil

T = TypeVar("T")
LIMIT = 900.0 * float(os.environ.get("COMMONGROUND_TEST_PATIENCE", "1"))  # seconds
Doer: TypeAlias = subprocess.Popen[Any] | threading.Thread | Callable[[], object]


def until(
    happened: Callable[[], T],
    what: str | Callable[[], object] = "it",
    *,
    alive: Doer | None = None,
    unless: tuple[type[Exception], ...] = (),
    limit: float = LIMIT,
) -> T:
    """Wait until `happened` returns something true, and return that.

    Args:
        happened: asked again and again.
        what: what is waited for, or what tells about it, for the failure.
        alive: who should bring it about; once that has ended there is nothing to wait for.
        unless: errors of `happened` that mean "not yet".
        limit: seconds.
    """
    end, last = time.monotonic() + limit, ""

    def told() -> str:
        return f"{what if isinstance(what, str) else what()}{last}"

    while True:
        ended, began = alive is not None and not _lives(alive), time.monotonic()
        try:
            if found := happened():
                return found
        except unless as error:
            last = f": {error}"
        assert not ended, f"who should bring it about has ended: {told()}"
        assert time.monotonic() < end, f"it did not happen within {limit:g} s: {told()}"
        # A look that costs much is taken more rarely: what is waited for needs the processor.
        time.sleep(min(1.0, max(0.02, 9 * (time.monotonic() - began))))


def ended(process: subprocess.Popen[Any] | psutil.Process) -> int:
    """Wait until a process has ended by itself, and return its exit code."""
    return int(process.wait(LIMIT) or 0)


def all_gone(pids: Iterable[int]) -> bool:
    """Wait until no process has one of these numbers any more, or is dead and not yet fetched."""

    def lives(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    numbers = list(pids)
    return until(lambda: not any(map(lives, numbers)), f"the end of {numbers}")


def joined(thread: threading.Thread | BaseProcess) -> None:
    """Wait until a thread or a process of `multiprocessing` has ended."""
    thread.join(LIMIT)
    assert not thread.is_alive(), f"{thread.name} does not end"


def a_while(seconds: float) -> None:
    """Let time pass in which nothing may happen: on a slow machine that can only overlook a fault.

    Also for what is slow on purpose. Never to give something time to happen: that is `until`.
    """
    time.sleep(seconds)


def hears_interrupts() -> None:
    """Let this process, and whatever it starts, hear Ctrl-C.

    Who is started in the background by a shell without job control, or by nohup, ignores it, and so do all
    processes below.
    """
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _lives(doer: Doer) -> bool:
    if isinstance(doer, subprocess.Popen):
        return doer.poll() is None
    if isinstance(doer, threading.Thread):
        return doer.is_alive()
    return bool(doer())
