"""A part of a device that does what a test says: `toy_part FILE WORD...`, each word one thing, in order.

FILE gets a line with the pid at each start. Words: `ready` makes FILE.ready; `say=TEXT` prints a line, with
_ for a space; `stdin` prints what it reads; `exit=N` ends with N; `once=N` ends with N at the first start
only; `deaf` does not hear SIGTERM; `stay` stays.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from toy_patience import a_while


def main(file: Path, words: list[str]) -> None:
    with file.open("a") as lines:
        lines.write(f"{os.getpid()}\n")
    starts = len(file.read_text().splitlines())
    for word in words:
        name, _, value = word.partition("=")
        if name == "ready":
            file.with_suffix(".ready").touch()
        elif name == "say":
            print(value.replace("_", " "), flush=True)
        elif name == "stdin":
            print(f"read {sys.stdin.readline()!r}", flush=True)
        elif name == "exit" or (name == "once" and starts == 1):
            sys.exit(int(value))
        elif name == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif name == "stay":
            while True:
                a_while(3600)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
