"""A run's folder: one run at a time, one configuration for ever, everything written atomically."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from commonground.config import Config
from commonground.errors import ConfigError, InterruptedRunError, RunFolderError, StorageError
from commonground.files import write_atomically
from commonground.mishaps import storage_errors
from commonground.own_code import FLAG
from commonground.report.public import PUBLIC
from commonground.settings import config_from, load_config, read_values, refused_code, to_yaml

CONFIG, EVENTS, RESULT, REPORT, LOCK = "config.yaml", "events.jsonl", "result.json", "report.html", ".lock"
LOG = "devices.log"  # what devices logged, where they did
SCHEMA = 1
NEEDED = (
    "config", "versions", "seconds", "peak_memory_mb", "simulation_only", "policies", "paired",
    "format_probe", "erased", "privacy", "egress",
)  # fmt: skip
ANOTHER = "choose another --out"
OURS = (LOCK, f"{CONFIG}.part")  # what a run leaves that was killed before it had written its configuration


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
        """Refuse a folder that this configuration cannot use, before anything is computed or written.

        Raises:
            RunFolderError: a file, in use, of another configuration, or full of other things.
        """
        with storage_errors(self.path, ANOTHER):
            self._check(config)

    def _check(self, config: Config) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"--out {self.path} is a file; a new or empty folder is needed")
        kept = self.path / CONFIG
        if kept.is_file():
            if to_yaml(self._kept()) != to_yaml(config):
                raise RunFolderError(
                    f"{self.path} holds a run of another configuration ({kept})",
                    hint="choose another --out, or resume that run: commonground simulate --resume "
                    + shlex.quote(str(self.path)),
                )
        elif self.path.is_dir() and any(entry.name not in OURS for entry in self.path.iterdir()):
            raise RunFolderError(
                f"{self.path} is not empty and holds no run; a new or empty folder is needed"
            )

    def config(self, *, allow_code: bool = False) -> Config:
        """The configuration of the run in this folder, which may have come from anybody.

        Args:
            allow_code: whether names of code in it may be imported.

        Raises:
            RunFolderError: there is none, it is damaged, or it names code that may not be imported.
        """
        values, places = self._values()
        if not allow_code and (named := refused_code(values, places, (), allowed=False)):
            raise RunFolderError(
                named[0],
                hint=f"the run was started with code of somebody's own; if that was you, add {FLAG}",
            )
        try:
            return load_config(self.path / CONFIG, allow_code=allow_code)
        except ConfigError as error:
            raise self._damaged(error) from error

    def _kept(self) -> Config:
        """The same, to be compared with another: nothing in it is imported."""
        try:
            return config_from(*self._values())
        except ConfigError as error:
            raise self._damaged(error) from error

    def _values(self) -> tuple[dict[str, Any], dict[str, str]]:
        if not (self.path / CONFIG).is_file():
            raise RunFolderError(f"{self.path} holds no run: there is no {CONFIG}")
        try:
            return read_values(self.path / CONFIG)[:2]
        except ConfigError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: ConfigError) -> RunFolderError:
        return RunFolderError(
            f"{self.path / CONFIG} is damaged: {error.faults[0]}", hint="mend it, or choose another folder"
        )

    @contextmanager
    def claim(self, config: Config) -> Iterator[None]:
        """Hold the folder for this process and write its configuration first.

        Where the run fails before it has kept anything, the folder is as it was before.

        Raises:
            RunFolderError: another process runs here, or the folder is of another configuration.
            StorageError: the disk refused.
        """
        self.check(config)
        made = self._make()
        lock = FileLock(self.path / LOCK)
        fresh = not (self.path / CONFIG).is_file()
        try:
            with storage_errors(self.path, ANOTHER):
                lock.acquire(timeout=0)
                fresh = not (self.path / CONFIG).is_file()  # nobody else can write it from here on
                self._check(config)
                self._sweep()
            if fresh:
                write_atomically(self.path / CONFIG, to_yaml(config).encode())
            yield
        except Timeout as error:
            raise RunFolderError(
                f"{self.path} is in use by another run", hint="wait for it, or choose another --out"
            ) from error
        except InterruptedRunError:
            raise
        except Exception:
            if fresh:
                self._undo(made)
            raise
        finally:
            lock.release()

    def _make(self) -> list[Path]:
        """Make the folder; returns what was missing, innermost first."""
        with storage_errors(self.path, ANOTHER):
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError as error:  # a place where nothing can be made, such as /proc
                raise StorageError(f"{self.path} cannot be made: {error.strerror}", hint=ANOTHER) from error
        return missing

    def _undo(self, made: list[Path]) -> None:
        """Leave nothing of a run that has kept no round (unless devices logged why)."""
        with suppress(OSError):
            entries = {entry.name for entry in self.path.iterdir()}
            if entries <= {CONFIG, LOCK, EVENTS, self.state.name} and not any(self.state.glob("*/*.npz")):
                shutil.rmtree(self.state, ignore_errors=True)
                for name in (EVENTS, CONFIG, LOCK):
                    (self.path / name).unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()

    def _sweep(self) -> None:
        """Remove the half files of a run that was killed while it wrote one, and no other file."""
        if self.path.is_symlink() or self.state.is_symlink():
            return
        named = [self.path / f"{name}.part" for name in (CONFIG, EVENTS, RESULT, PUBLIC)]
        for file in (*named, *self.path.glob(f".{REPORT}.*.part"), *self.state.glob("**/*.part")):
            if file.is_file() or file.is_symlink():
                file.unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        """The finished run's result, or None; raises `RunFolderError` if the file is damaged."""
        file = self.path / RESULT
        if not file.is_file():
            return None
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{file} is damaged: {error}", hint=f"delete {file} and resume the run to build it again"
            ) from error
        if not isinstance(result, dict) or result.get("schema") != SCHEMA:
            raise RunFolderError(f"{file} is no result of schema {SCHEMA}")
        if missing := [key for key in NEEDED if key not in result]:
            raise RunFolderError(f"{file} is no whole result; it lacks {', '.join(missing)}")
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
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("round"), int) and "arm" in event:
            events.append(event)
    return events
