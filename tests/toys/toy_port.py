"""Ports that are this process's until it ends.

A port that was free a moment ago may be anybody's when it is bound: the system gives it to the next
connection. These lie below what the system gives, and whoever else takes one asks the same way.
"""

from __future__ import annotations

import random
import socket

_RANDOM = random.SystemRandom()
LOW, HIGH = 20000, 32000  # below the range of Linux's own choices, which begins at 32768


def own_port() -> int:
    """A port that nobody listens on, on any address, and that no other test takes."""
    while True:
        port = _RANDOM.randrange(LOW, HIGH)
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0commonground-test-port-{port}")
            with socket.socket() as found:
                found.bind(("", port))
        except OSError:
            mark.close()
            continue
        mark.detach()  # open until this process ends
        return port
