"""A sparse file of one record a person, each with two slots: the newest version and the one before it.

A slot is a CRC-32 (of what follows it), the round plus one (so that zeros, which is what a hole in the file
reads as, mean empty) and the arrays in a layout that is the same for everybody. Person p's record starts at
byte p * 2 * slot; nobody's place depends on who else was written, and a person never written costs nothing.

Which slot a write replaces, the first of these that there is: the one of the same round; one of a later
round (a leftover: the run was set back, and that round will come again); an empty or a damaged one; the
older one. So the newest version below the round being written is never touched, and a write that is cut off
anywhere leaves a slot whose sum is wrong, which counts as empty: that version answers. Should the other slot
be of the same or a later round as well, its head is zeroed before the write.

Nothing is mapped into memory. On tmpfs a mapped read of a hole allocates a page, and where there is no room
for one it kills the process (SIGBUS); measured, `preadv` is no slower and memory stays flat.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from commonground.errors import RunFolderError

_SUM = 4  # bytes of the CRC, which does not cover itself
_HEAD = 12  # bytes of CRC and round
_BLOCK = 1 << 20  # bytes of records handled at once: a call's memory does not grow with its people


@dataclass(frozen=True)
class Layout:
    """What a slot holds.

    Attributes:
        fields: (name, numpy dtype as text, shape of one person's array), in the order they are stored.
    """

    fields: tuple[tuple[str, str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Layout:
        """The layout of arrays with a leading person axis.

        Raises:
            ValueError: an array has no such axis, or holds Python objects.
        """
        for name, value in arrays.items():
            if value.ndim == 0 or value.dtype.hasobject:
                raise ValueError(
                    f"array {name!r} is {value.dtype} {value.shape}; numbers, people first, needed"
                )
        little = {name: value.dtype.newbyteorder("<").str for name, value in arrays.items()}
        return cls(tuple((name, little[name], value.shape[1:]) for name, value in sorted(arrays.items())))

    @classmethod
    def from_list(cls, fields: Sequence[Any]) -> Layout:
        """From what `fields` became in a JSON file."""
        return cls(tuple((str(n), np.dtype(d).str, tuple(int(k) for k in s)) for n, d, s in fields))

    @cached_property
    def slot(self) -> np.dtype[np.void]:
        """A slot as numpy sees it: packed, little-endian."""
        return np.dtype([("crc", "<u4"), ("round", "<i8"), ("arrays", list(self.fields))])

    def __str__(self) -> str:
        return ", ".join(f"{name} {dtype} {shape}" for name, dtype, shape in self.fields)


class SlotFile:
    """See the module's text.

    Args:
        path: a file made by `create` with the same people and layout.
        people: how many there are.
        layout: of a slot.

    Raises:
        OSError: the file cannot be opened, or the disk refuses a write (each method's too).
        RunFolderError: the file has another length.
    """

    def __init__(self, path: Path, people: int, layout: Layout) -> None:
        self.path, self.people, self.layout = path, people, layout
        self._size = layout.slot.itemsize
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        found, wanted = os.fstat(self._file).st_size, people * 2 * self._size
        if found != wanted:
            os.close(self._file)
            raise RunFolderError(
                f"{path} is damaged: it has {found} bytes; {wanted} are needed",
                hint=f"delete {path.parent} to start over",
            )

    @staticmethod
    def create(path: Path, people: int, layout: Layout) -> None:
        """Make an empty file of full length; a hole costs no disk. Doing it again changes nothing."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, people * 2 * layout.slot.itemsize)
        finally:
            os.close(file)

    def close(self) -> None:
        """Close the file; the object is not used again."""
        os.close(self._file)

    def newest(
        self, people: np.ndarray, low: int, high: int
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """The newest whole version of each person from a round of `low` to `high`, both included.

        Yields:
            For a block of the people, their places; (n,) bool, who has one; and the arrays, (n,) records
            with a field a name, zeros for those who have none.
        """
        for places in self._blocks(len(people)):
            slots = self._load(people[places])
            rounds = slots["round"]
            wanted = np.where((rounds > low) & (rounds <= high + 1), rounds, 0)
            pick = wanted.argmax(axis=1)
            found = self._whole(slots, wanted, pick)
            for place in np.flatnonzero(~found & (wanted.min(axis=1) > 0)):
                pick[place] = 1 - pick[place]
                found[place] = self._whole(
                    slots[place : place + 1], wanted[place : place + 1], pick[[place]]
                )[0]
            chosen = slots["arrays"][np.arange(len(slots)), pick]
            chosen[~found] = np.zeros((), chosen.dtype)
            yield places, found, chosen

    def put(self, people: np.ndarray, round: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the version of `round` of each person, name -> (P, *shape), one call to the disk each.

        Cut off, it is done for some people and not for others; doing it again puts that right.
        """
        for places in self._blocks(len(people)):
            mine = people[places]
            fresh = np.zeros(len(mine), self.layout.slot)
            fresh["round"] = round + 1
            for name, value in arrays.items():
                fresh["arrays"][name] = value[places]
            data, size = fresh.view(np.uint8).data, self._size
            fresh["crc"] = [zlib.crc32(data[k + _SUM : k + size]) for k in range(0, len(data), size)]
            pick, stale = self._replaced(mine, round + 1)
            starts = mine * 2 * size
            for start in (starts + (1 - pick) * size)[stale].tolist():
                self._write(memoryview(bytes(_HEAD)), start)
            for k, start in enumerate((starts + pick * size).tolist()):
                self._write(data[k * size : (k + 1) * size], start)

    def _replaced(self, people: np.ndarray, new: int) -> tuple[np.ndarray, np.ndarray]:
        """Which slot of each person a write of `new` (round plus one) replaces; whose other slot is void."""
        slots = self._load(people)
        rounds = np.maximum(slots["round"], 0)
        newer, same = rounds.argmax(axis=1), rounds == new
        late = rounds.max(axis=1) > new
        pick = np.where(same.any(axis=1), same.argmax(axis=1), np.where(late, newer, 1 - newer))
        full = ((rounds > 0) & (rounds < new)).all(axis=1)  # the older goes, unless the newer is damaged
        damaged = ~self._whole(slots, np.where(full[:, None], rounds, 0), newer)
        pick = np.where(full & damaged, newer, pick)
        return pick, rounds[np.arange(len(pick)), 1 - pick] >= new

    def _whole(self, slots: np.ndarray, rounds: np.ndarray, pick: np.ndarray) -> np.ndarray:
        """(n,) bool: whether the picked slot has the right sum; those whose `rounds` say 0 are not asked."""
        asked = np.flatnonzero(rounds[np.arange(len(pick)), pick] > 0)
        data, size = slots.reshape(-1).view(np.uint8).data, self._size
        starts, kept = ((2 * asked + pick[asked]) * size).tolist(), slots["crc"][asked, pick[asked]].tolist()
        whole = np.zeros(len(pick), dtype=bool)
        whole[asked] = [
            zlib.crc32(data[start + _SUM : start + size]) == crc
            for start, crc in zip(starts, kept, strict=True)
        ]
        return whole

    def _load(self, people: np.ndarray) -> np.ndarray:
        """Both slots of each person, (n, 2)."""
        slots = np.empty((len(people), 2), self.layout.slot)
        data, record = slots.reshape(-1).view(np.uint8).data, 2 * self._size
        read = 0
        for k, start in enumerate((people * record).tolist()):
            read += os.preadv(self._file, [data[k * record : (k + 1) * record]], start)
        if read != len(data):
            raise RunFolderError(
                f"{self.path} is damaged: {read} bytes could be read where {len(data)} are needed",
                hint=f"delete {self.path.parent} to start over",
            )
        return slots

    def _write(self, data: memoryview, start: int) -> None:
        written = os.pwrite(self._file, data, start)
        while written < len(data):  # a disk that is nearly full takes a part, and says why at the next call
            written += os.pwrite(self._file, data[written:], start + written)

    def _blocks(self, count: int) -> Iterator[slice]:
        step = max(1, _BLOCK // (2 * self._size))
        return (slice(first, min(first + step, count)) for first in range(0, count, step))
