"""What was refused, by reason: a file of counts that outlives the process that counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from commonground.errors import StorageError
from commonground.files import write_atomically


class Tally:
    """Counts by reason, on disk.

    Args:
        path: the file; read where it is there, and begun anew where it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts = Counter(read_counts(path))

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> how often."""
        return dict(self._counts)

    def add(self, counts: Mapping[str, int]) -> None:
        """Count; a disk that refuses costs the file its newest counts and stops nothing."""
        if not counts:
            return
        self._counts.update(counts)
        with suppress(StorageError):
            write_atomically(self._path, json.dumps(self.counts, indent=1).encode(), private=True)


def read_counts(path: Path) -> dict[str, int]:
    """What a `Tally` has counted so far; empty where there is no file, or no whole one."""
    try:
        found = json.loads(path.read_bytes())
        return {str(reason): int(count) for reason, count in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
