"""A shard that meets its end, or a full disk, at moments that a test has named.

TOY_FATES names a folder; a file METHOD-ROUND-SHARD-MOMENT in it befalls that shard once. Moments: `before`,
`half` (one chunk of private states is written) and `after` (all is done and nothing was said) end the process
by SIGKILL; `full` is a disk with no room for private states.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commonground.simulations.fleet import Arrays
from commonground.simulations.shard_actor import Answer, Shard


def name_fate(folder: Path, *fates: str) -> None:
    """Name what befalls shards, each METHOD-ROUND-SHARD-MOMENT."""
    folder.mkdir(exist_ok=True)
    for fate in fates:
        (folder / fate).write_text("due")


class MortalShard(Shard):
    """See the module's text."""

    def train(
        self, round: int, shared: Arrays, people: Sequence[int], each: bool, clip: float | None = None
    ) -> Answer:
        self._end_if("train", round, "before")
        answer = super().train(round, shared, people, each, clip)
        self._end_if("train", round, "after")
        return answer

    def train_private(self, round: int, shared: Arrays, people: Sequence[int], final: bool) -> Answer:
        self._end_if("train_private", round, "before")
        self._open()
        store: Any = self._store
        write = store.write_many

        def write_half(*words: Any) -> None:
            if self._due("train_private", round, "full"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "private.slots")
            write(*words)
            self._end_if("train_private", round, "half")

        store.write_many = write_half
        answer = super().train_private(round, shared, people, final)
        store.write_many = write
        self._end_if("train_private", round, "after")
        return answer

    def _due(self, method: str, round: int, moment: str) -> bool:
        fate = Path(os.environ["TOY_FATES"]) / f"{method}-{round}-{self._place[0]}-{moment}"
        due = fate.is_file() and fate.read_text() == "due"
        if due:
            fate.write_text("done")
        return due

    def _end_if(self, method: str, round: int, moment: str) -> None:
        if self._due(method, round, moment):
            os.kill(os.getpid(), signal.SIGKILL)
