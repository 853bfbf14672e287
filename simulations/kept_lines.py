"""One JSON object a line, appended as work is done, so that a kill costs no more than what was under way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from commonground.errors import StorageError


class KeptLines:
    """The whole lines of a file, and a way to add one.

    Args:
        file: made, with its folder, when the first line is added.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.values: list[dict[str, Any]] = []
        if file.is_file():
            self._read()

    def _read(self) -> None:
        whole = 0
        for line in self.file.read_bytes().splitlines(keepends=True):
            try:
                value = json.loads(line)
            except ValueError:
                break
            if not isinstance(value, dict) or not line.endswith(b"\n"):
                break
            self.values.append(value)
            whole += len(line)
        if whole < self.file.stat().st_size:  # a torn line: what follows must not be glued to it
            os.truncate(self.file, whole)

    def add(self, value: dict[str, Any]) -> None:
        """Keep an object; raises `StorageError`."""
        line = json.dumps(value) + "\n"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self.file}: {error.strerror or error}") from error
        self.values.append(value)
