"""A run's folder: one run at a time, one configuration for ever, everything written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from commonground.config import Config
from commonground.errors import ConfigError, RunFolderError, StorageError
from commonground.server.checkpoint import write_atomically
from commonground.settings import load_config, to_yaml

CONFIG, EVENTS, RESULT, REPORT, LOCK = "config.yaml", "events.jsonl", "result.json", "report.html", ".lock"


class RunFolder:
    """Where a run lives.

    Args:
        path: the folder; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def state(self) -> Path:
        """Checkpoints and the private store."""
        return self.path / "state"

    def check(self, config: Config) -> None:
        """Refuse a folder that this configuration cannot use, before anything is computed or written."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"--out {self.path} is a file; a new or empty folder is needed")
        kept = self.path / CONFIG
        if kept.is_file():
            if to_yaml(self.config()) != to_yaml(config):
                raise RunFolderError(
                    f"{self.path} holds a run of another configuration ({kept})",
                    hint="choose another --out, or resume that run: commonground simulate --resume "
                    + str(self.path),
                )
        elif self.path.is_dir() and any(entry.name != LOCK for entry in self.path.iterdir()):
            raise RunFolderError(
                f"{self.path} is not empty and holds no run; a new or empty folder is needed"
            )

    def config(self) -> Config:
        """The configuration of the run in this folder; raises `RunFolderError` where there is none."""
        if not (self.path / CONFIG).is_file():
            raise RunFolderError(f"{self.path} holds no run: there is no {CONFIG}")
        try:
            return load_config(self.path / CONFIG)
        except ConfigError as error:
            raise RunFolderError(f"{self.path / CONFIG} is damaged: {error.faults[0]}") from error

    @contextmanager
    def claim(self, config: Config) -> Iterator[None]:
        """Hold the folder for this process and write its configuration first.

        Raises:
            RunFolderError: another process runs here, or the folder is of another configuration.
            StorageError: the disk refused.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {self.path}: {error.strerror}") from error
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunFolderError(
                f"{self.path} is in use by another run", hint="wait for it, or choose another --out"
            ) from error
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {error.strerror}") from error
        try:
            self.check(config)
            if not (self.path / CONFIG).is_file():
                write_atomically(self.path / CONFIG, to_yaml(config).encode())
            yield
        finally:
            lock.release()

    def result(self) -> dict[str, Any] | None:
        """The finished run's result, or None; raises `RunFolderError` if the file is damaged."""
        file = self.path / RESULT
        if not file.is_file():
            return None
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{file} is damaged: {error}") from error
        if not isinstance(result, dict) or result.get("schema") != 1:
            raise RunFolderError(f"{file} is no result of schema 1")
        return result

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json`; a value that JSON has no word for is a programming error and raises."""
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(self.path / RESULT, text.encode())


class Events:
    """`events.jsonl`: one line a round, kept in step with the checkpoints.

    Args:
        folder: the run's folder.
        done: arm -> rounds that its checkpoint holds; later lines, and a torn one, are dropped.
    """

    def __init__(self, folder: RunFolder, done: dict[str, int]) -> None:
        self.path = folder.path / EVENTS
        kept = {
            (event["arm"], event["round"]): event
            for event in read_events(self.path)
            if event["round"] <= done.get(event["arm"], 0)
        }
        self.lines = list(kept.values())
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())

    def add(self, event: dict[str, Any]) -> None:
        """Append one line."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event, allow_nan=False) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}") from error
        self.lines.append(event)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The whole lines of an event file; a torn last line is not one."""
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "arm" in event and "round" in event:
            events.append(event)
    return events
