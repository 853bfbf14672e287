"""One shard of a fleet: a process that owns a slice of the people and their private states.

It builds its world from the run folder's `config.yaml`, as every process of a run does. It answers a round
the same whenever it is asked, since its store keeps the version from before the round; so a shard that was
lost in the middle is started again and asked again. Receipts go back to the process that asked: SQLite
cannot be trusted with writers on several machines.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commonground import __version__
from commonground.errors import CommonGroundError, InputError, RunFolderError
from commonground.mishaps import storage_errors
from commonground.simulations.fleet import Arrays, Fleet
from commonground.simulations.store import PrivateStore
from commonground.simulations.stores import open_store
from commonground.simulations.world import Arm, world_of
from commonground.strategies.together import CohortReply

PROBE = "shards.probe"  # in the state folder: shows that a shard sees the folder of this run


@dataclass(frozen=True)
class KeptReceipts:
    """Arguments of `PrivateStore.keep_receipts` for people of one shard."""

    people: list[int]
    digests: list[str]
    bytes: int
    names: tuple[str, ...]
    epsilon: str


@dataclass(frozen=True)
class Answer:
    """What a shard says: a reply and receipts, or the error that stopped it.

    Attributes:
        reply: of `Trainer.train`.
        receipts: of the updates in it.
        error: an error of ours; raised in an actor it would come out as a page of Ray's.
    """

    reply: CohortReply | None = None
    receipts: tuple[KeptReceipts, ...] = ()
    error: CommonGroundError | None = None


def slice_of(shard: int, shards: int, people: int) -> range:
    """The people that a shard owns: slices are contiguous, and their lengths differ by one at most."""
    return range(people * shard // shards, people * (shard + 1) // shards)


class SliceStore:
    """The store of a shard, a `PrivateStore`: states of its own people, receipts for whoever asked.

    Args:
        inner: the run's store.
        own: the people of this shard.
    """

    def __init__(self, inner: PrivateStore, own: range) -> None:
        self._inner, self._own = inner, own
        self._receipts: list[KeptReceipts] = []

    def read_many(self, stream: str, people: Sequence[int], before: int) -> tuple[np.ndarray, Arrays]:
        """See `PrivateStore`."""
        return self._inner.read_many(stream, self._mine(people), before)

    def write_many(
        self, stream: str, people: Sequence[int], round: int, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """See `PrivateStore`."""
        self._inner.write_many(stream, self._mine(people), round, arrays)

    def has_many(self, stream: str, people: Sequence[int], round: int) -> np.ndarray:
        """See `PrivateStore`."""
        return self._inner.has_many(stream, self._mine(people), round)

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
        """Keep them for `taken`."""
        people = [int(person) for person in self._mine(people)]
        self._receipts.append(KeptReceipts(people, list(digests), bytes, tuple(names), epsilon))

    def receipts(self, arm: str, limit: int) -> list[dict[str, Any]]:
        """See `PrivateStore`."""
        return self._inner.receipts(arm, limit)

    def names(self, arm: str) -> set[str]:
        """See `PrivateStore`."""
        return self._inner.names(arm)

    def totals(self, arm: str) -> tuple[int, int]:
        """See `PrivateStore`."""
        return self._inner.totals(arm)

    def taken(self) -> tuple[KeptReceipts, ...]:
        """The receipts since the last call."""
        found = tuple(self._receipts)
        self._receipts.clear()
        return found

    def close(self) -> None:
        """See `PrivateStore`."""
        self._inner.close()

    def _mine(self, people: Sequence[int]) -> Sequence[int]:
        """These people, all of this shard: two shards that write one person would undo each other."""
        for person in people:
            if person not in self._own:
                raise ValueError(f"person {person} is asked of the shard of {self._own}")
        return people


class Shard:
    """A Ray actor, started by `shards.Shards`; its methods raise nothing of ours, they answer with it.

    Args:
        run: the run's folder.
        arm: which shared adapter is being trained.
        shard: which of `shards`, from 0.
        shards: how many there are.
    """

    def __init__(self, run: str, arm: Arm, shard: int, shards: int) -> None:
        self._run, self._arm, self._place = Path(run), arm, (shard, shards)
        self._fleet: Fleet | None = None
        self._store: SliceStore | None = None

    def check(self, token: str, version: str) -> Answer:
        """Whether this process sees the run's folder, and runs the same version of this package."""
        why, seen = "", ""
        try:
            seen = (self._run / "state" / PROBE).read_text()
        except OSError as error:
            why = error.strerror or type(error).__name__
        node = platform.node()
        if seen != token:
            return Answer(
                error=RunFolderError(
                    f"shard {self._place[0]} on {node} does not see the run folder {self._run} "
                    f"({why or seen}); all machines of the cluster must share it",
                    hint="choose an --out on a file system that all of them mount under the same path",
                )
            )
        if __version__ != version:
            return Answer(
                error=InputError(
                    f"commonground is {__version__} on {node} and {version} here; one version is needed"
                )
            )
        return Answer()

    def prepare(self) -> Answer:
        """Build the world and open the store; every other method does it where it is not done."""

        def work() -> None:
            self._open()

        return self._answer(work)

    def train(
        self, round: int, shared: Arrays, people: Sequence[int], each: bool, clip: float | None = None
    ) -> Answer:
        """See `Trainer.train`."""
        return self._answer(lambda: self._open().train(round, shared, people, each=each, clip=clip))

    def train_private(self, round: int, shared: Arrays, people: Sequence[int], final: bool) -> Answer:
        """See `Trainer.train_private`."""
        return self._answer(lambda: self._open().train_private(round, shared, people, final=final))

    def _answer(self, work: Callable[[], CohortReply | None]) -> Answer:
        try:
            with storage_errors(self._run / "state"):
                reply = work()
        except CommonGroundError as error:
            return Answer(error=error)
        return Answer(reply, self._store.taken() if self._store is not None else ())

    def _open(self) -> Fleet:
        if self._fleet is None:
            torch.set_num_threads(1)
            world = world_of(str(self._run))
            store = open_store(world.config, self._run / "state", world.people)
            self._store = SliceStore(store, slice_of(*self._place, world.people))
            self._fleet = Fleet(world, self._arm, self._store)
        return self._fleet
