"""The private states of a fleet: a sparse file a stream, in which people never drawn cost nothing.

The folder holds `fleet.json` (whose store it is), for each stream `NAME.slots` with its header `NAME.json`
(what a slot holds, fixed by the first write), and `receipts.sqlite`. Several processes may write at once as
long as no person is written by two. A kill at any instant loses nothing that `write_many` had returned from;
a power cut may lose what the system had not yet put on the disk, as with the SQLite store.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from commonground.errors import RunFolderError
from commonground.files import write_atomically
from commonground.simulations.receipts import Receipts, disk, open_database
from commonground.simulations.slots import Layout, SlotFile

FORMAT = 1
OWNER, RECEIPTS, LOCK = "fleet.json", "receipts.sqlite", "fleet.lock"
_NAME = re.compile(r"[a-z][a-z0-9-]*")


class FleetStore:
    """A `PrivateStore` for a fleet; its cost grows with the people of a call, not with the population.

    Args:
        folder: where the files are.
        people: how many there are.
        run: digest of the run's configuration.

    Raises:
        RunFolderError: the folder holds the states of another run, or damaged ones.
        StorageError: the disk refused.
    """

    def __init__(self, folder: Path, people: int, run: str) -> None:
        self.folder, self.people, self.run = folder, people, run
        self._streams: dict[str, SlotFile] = {}
        with disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / LOCK)
            with self._lock:
                self._claim()
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the files; the object is not used again."""
        for file in self._streams.values():
            file.close()
        self._streams.clear()
        if self._database is not None:
            self._database.close()

    @cached_property
    def _receipts(self) -> Receipts:
        """Opened when they are first needed: an actor of a fleet has no business in them."""
        self._database = open_database(self.folder / RECEIPTS)
        return Receipts(self._database, self.folder / RECEIPTS)

    def read_many(
        self, stream: str, people: Sequence[int], before: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `PrivateStore`."""
        asked, file = self._checked(people), self._open(stream)
        found = np.zeros(len(asked), dtype=bool)
        if file is None:
            return found, {}
        arrays = {n: np.zeros((len(asked), *shape), d) for n, d, shape in file.layout.fields}
        with disk(file.path, "read"):
            for places, there, chosen in file.newest(asked, 0, before - 1):
                found[places] = there
                for name, value in arrays.items():
                    value[places] = chosen[name]
        return found, arrays

    def write_many(
        self, stream: str, people: Sequence[int], round: int, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """See `PrivateStore`; cut off, it is done for some people, and doing it again puts that right.

        Raises:
            ValueError: a person that there is not, a round below 0, or arrays of another layout.
            StorageError: the disk refused.
        """
        asked, layout = self._checked(people), Layout.of(arrays)
        if round < 0:
            raise ValueError(f"round {round}; 0 or above is needed")
        if lengths := {len(value) for value in arrays.values()} - {len(asked)}:
            raise ValueError(f"arrays of {min(lengths)} people for {len(asked)} people")
        if not len(asked):
            return
        file = self._open(stream) or self._create(stream, layout)
        if file.layout != layout:
            raise ValueError(f"stream {stream!r} holds {file.layout}; given: {layout}")
        with disk(file.path):
            file.put(asked, round, arrays)

    def has_many(self, stream: str, people: Sequence[int], round: int) -> np.ndarray:
        """See `PrivateStore`."""
        asked, file = self._checked(people), self._open(stream)
        found = np.zeros(len(asked), dtype=bool)
        if file is not None:
            with disk(file.path, "read"):
                for places, there, _ in file.newest(asked, round, round):
                    found[places] = there
        return found

    def keep_receipts(
        self,
        arm: str,
        round: int,
        people: Sequence[int],
        digests: Sequence[str],
        bytes: int,
        names: Sequence[str],
        epsilon: str,
    ) -> None:
        """See `PrivateStore`."""
        self._receipts.keep(arm, round, people, digests, bytes, names, epsilon)

    def receipts(self, arm: str, limit: int) -> list[dict[str, Any]]:
        """See `PrivateStore`."""
        return self._receipts.first(arm, limit)

    def names(self, arm: str) -> set[str]:
        """See `PrivateStore`."""
        return self._receipts.names(arm)

    def totals(self, arm: str) -> tuple[int, int]:
        """See `PrivateStore`."""
        return self._receipts.totals(arm)

    def _claim(self) -> None:
        """Write whose store this is, or refuse one of another run."""
        file = self.folder / OWNER
        if not file.is_file():
            if strays := sorted(self.folder.glob("*.slots")):
                raise RunFolderError(f"{strays[0]} is there but {file} is missing", hint=self._mend)
            owner = {"format": FORMAT, "run": self.run, "people": self.people}
            write_atomically(file, json.dumps(owner).encode())
        kept = self._json(file)
        found = [kept.get(key) for key in ("format", "run", "people")]
        if found != [FORMAT, self.run, self.people]:
            raise RunFolderError(
                f"{self.folder} holds private states of configuration {found[1]} with {found[2]} people "
                f"(format {found[0]}); accepted: {self.run} with {self.people} people (format {FORMAT})",
                hint=self._mend,
            )

    def _open(self, stream: str) -> SlotFile | None:
        """The file of a stream; None where nothing was ever written to it, by this process or another."""
        if stream not in self._streams:
            if not _NAME.fullmatch(stream):
                raise ValueError(f"stream {stream!r}; small letters, digits and hyphens are accepted")
            header, path = self.folder / f"{stream}.json", self.folder / f"{stream}.slots"
            if not header.is_file():
                return None
            try:
                layout = Layout.from_list(self._json(header)["slot"])
            except (KeyError, TypeError, ValueError) as error:
                raise RunFolderError(f"{header} is damaged: no layout in it", hint=self._mend) from error
            if not path.is_file():
                raise RunFolderError(f"{path} is missing: its private states are gone", hint=self._mend)
            with disk(path):
                self._streams[stream] = SlotFile(path, self.people, layout)
        return self._streams[stream]

    def _create(self, stream: str, layout: Layout) -> SlotFile:
        """Make the file of a stream; the header comes last, so that where it is, everything is there."""
        header, path = self.folder / f"{stream}.json", self.folder / f"{stream}.slots"
        with disk(path), self._lock:
            if not header.is_file():  # another process may have been quicker
                SlotFile.create(path, self.people, layout)
                write_atomically(header, json.dumps({"slot": layout.fields}).encode())
        file = self._open(stream)
        if file is None:
            raise RunFolderError(f"{header} has vanished", hint=self._mend)
        return file

    def _json(self, file: Path) -> dict[str, Any]:
        try:
            found = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{file} is damaged: it is no JSON", hint=self._mend) from error
        if not isinstance(found, dict):
            raise RunFolderError(f"{file} is damaged: an object is needed", hint=self._mend)
        return found

    def _checked(self, people: Sequence[int]) -> np.ndarray:
        asked = np.asarray(people, dtype=np.int64).reshape(-1)
        if len(asked) and not (asked.min() >= 0 and asked.max() < self.people):
            raise ValueError(f"person {asked[(asked < 0) | (asked >= self.people)][0]} of {self.people}")
        return asked

    @property
    def _mend(self) -> str:
        return f"delete {self.folder} to start over, or choose another --out"
