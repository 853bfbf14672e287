"""Who trains a fleet's cohorts: this process, or Ray actors that own a slice of the people each.

A cohort is split by owner, all shards are asked at once, and their replies are put together in the order of
the shards, so that which of them is quicker changes nothing. A shard that is lost on the way is started
again and asked again; what the others have answered is kept. Nothing is charged here: the server charges a
round once, before anybody is asked.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from commonground import __version__
from commonground.config import Config
from commonground.errors import CommonGroundError, InputError
from commonground.files import write_atomically
from commonground.manifest import Manifest
from commonground.simulations.cluster import ray_running, refuse_silent, refuse_without_ray
from commonground.simulations.fleet import Arrays, Fleet, Trainer
from commonground.simulations.shard_actor import PROBE, Answer, Shard, slice_of
from commonground.simulations.store import PrivateStore
from commonground.simulations.stores import open_store
from commonground.simulations.world import Arm, World, current_run, world_of
from commonground.strategies.together import CohortReply

RESTARTS = 3  # of one shard, in one round
PLACE = 300.0  # seconds in which a cluster must find room for a shard
log = logging.getLogger("commonground.simulations")


@contextmanager
def open_trainer() -> Iterator[Trainer]:
    """The trainer of the run that this process serves; its store and processes are ended with it.

    Raises:
        InputError: shards are asked for and Ray, or the cluster, cannot be used.
    """
    run, arm = current_run()
    world = world_of(run)
    torch.set_num_threads(1)
    store = open_store(world.config, Path(run) / "state", world.people)
    fleet = world.config.fleet
    try:
        if fleet.shards == 1:
            yield Fleet(world, arm, store)
        else:
            with (
                ray_running("fleet.shards above 1", fleet.shards, fleet.address),
                Shards(world, run, arm, store) as trainer,
            ):
                yield trainer
    finally:
        store.close()


def refuse_unready(config: Config) -> None:
    """Look, before anything is computed or written, whether the shards that are asked for can be had.

    Raises:
        InputError: Ray is not installed, or no cluster answers.
    """
    if config.fleet.shards > 1:
        refuse_without_ray("fleet.shards above 1")
        if config.fleet.address:
            refuse_silent(config.fleet.address)


class Shards:
    """A `Trainer` over `Shard` actors; a context that starts and ends them, inside `ray_running`.

    Args:
        world: the run's world, whose `fleet.shards` says how many.
        run: its folder.
        arm: which shared adapter is being trained.
        store: keeps the receipts.

    Raises:
        InputError: more shards than people, or than the cluster has CPUs; or a shard does not see the folder.
    """

    def __init__(self, world: World, run: str, arm: Arm, store: PrivateStore) -> None:
        self._run, self._arm, self._store = run, arm, store
        self._manifest: Manifest = world.manifests[arm]
        self._count, self._people = world.config.fleet.shards, world.people
        if self._count > self._people:
            raise InputError(
                f"fleet.shards: found {self._count}; accepted: at most {self._people}, one a person"
            )
        self._probe, self._token = Path(run) / "state" / PROBE, uuid.uuid4().hex
        self._actors: dict[int, Any] = {}

    def __enter__(self) -> Shards:
        import ray

        if (cpus := int(ray.cluster_resources().get("CPU", 0))) < self._count:
            raise InputError(
                f"fleet.shards: found {self._count}; accepted: at most the {cpus} CPUs of the cluster"
            )
        write_atomically(self._probe, self._token.encode())
        try:
            for shard in range(self._count):
                self._start(shard)
            self._check(0, range(self._count))
            self._gather(0, "prepare", dict.fromkeys(range(self._count), ()))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the actors."""
        for shard in list(self._actors):
            self._end(shard)
        with contextlib.suppress(OSError):
            self._probe.unlink(missing_ok=True)

    def train(
        self,
        round: int,
        shared: Arrays,
        people: Sequence[int],
        *,
        each: bool,
        clip: float | None = None,
    ) -> CohortReply:
        """See `Trainer`."""
        asked = () if clip is None else (clip,)
        answers = self._ask(round, "train", self._split(people), shared, each, *asked)
        self._keep_receipts(round, answers)
        replies = [answer.reply for answer in answers if answer.reply is not None]
        answered = [person for reply in replies for person in reply.answered]
        refused = sum(reply.refused for reply in replies)
        if refused:
            log.warning("round %d: %d updates were refused by the manifest", round, refused)
        total: Arrays = {}
        for spec in self._manifest.sent:
            parts = [reply.arrays[spec.name] for reply in replies]
            if each:
                total[spec.name] = np.concatenate([np.zeros((0, *spec.shape), spec.dtype), *parts])
            else:
                total[spec.name] = sum(parts, start=np.zeros(spec.shape))
        return CohortReply(answered, refused, total)

    def train_private(self, round: int, shared: Arrays, people: Sequence[int], *, final: bool) -> None:
        """See `Trainer`."""
        self._ask(round, "train_private", self._split(people), shared, final)

    def _split(self, people: Sequence[int]) -> dict[int, list[int]]:
        """Shard -> its people of a cohort; shards without any are left out."""
        starts = [slice_of(shard, self._count, self._people).stop for shard in range(self._count)]
        owners = np.searchsorted(starts, np.asarray(people, dtype=np.int64), side="right")
        split: dict[int, list[int]] = {}
        for shard, person in zip(owners.tolist(), people, strict=True):
            split.setdefault(shard, []).append(int(person))
        return split

    def _keep_receipts(self, round: int, answers: Sequence[Answer]) -> None:
        found = [receipts for answer in answers for receipts in answer.receipts]
        if found:
            self._store.keep_receipts(
                self._arm,
                round,
                [person for receipts in found for person in receipts.people],
                [digest for receipts in found for digest in receipts.digests],
                found[0].bytes,
                found[0].names,
                found[0].epsilon,
            )

    def _ask(
        self,
        round: int,
        method: str,
        people: Mapping[int, list[int]],
        shared: Arrays,
        *settings: bool | float,
    ) -> list[Answer]:
        """Ask each shard for its people; answers in the order of the shards."""
        import ray

        adapter = ray.put(shared)
        calls = {shard: (round, adapter, people[shard], *settings) for shard in sorted(people)}
        return self._gather(round, method, calls)

    def _check(self, round: int, shards: Sequence[int]) -> None:
        calls = dict.fromkeys(shards, (self._token, __version__))
        self._gather(round, "check", calls, PLACE)

    def _gather(
        self, round: int, method: str, calls: Mapping[int, tuple[Any, ...]], patience: float | None = None
    ) -> list[Answer]:
        """Call a method of some shards at once; those that are lost are started and called again.

        Raises:
            CommonGroundError: what a shard answered with; or one was lost too often, or found no place.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        answers: dict[int, Answer] = {}
        lost: Counter[int] = Counter()
        waiting = {self._send(shard, method, words): shard for shard, words in calls.items()}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=patience)
            if not done:
                raise CommonGroundError(
                    f"shard {min(waiting.values())} of {self._count} did not start within {patience:g} s",
                    hint="each needs a free CPU of the cluster: ray status says how many there are",
                )
            shard = waiting.pop(done[0])
            try:
                answer: Answer = ray.get(done[0])
            except RayTaskError:
                raise  # a fault of the program
            except RayError as error:
                lost[shard] += 1
                self._again(round, shard, lost[shard], error)
                if method != "check":
                    self._check(round, [shard])
                waiting[self._send(shard, method, calls[shard])] = shard
                continue
            if answer.error is not None:
                raise answer.error
            answers[shard] = answer
        return [answers[shard] for shard in calls]

    def _send(self, shard: int, method: str, words: tuple[Any, ...]) -> Any:
        return getattr(self._actors[shard], method).remote(*words)

    def _again(self, round: int, shard: int, times: int, error: Exception) -> None:
        """Start a shard again that was lost, if that has not happened too often."""
        where = f"{f'round {round}' if round else 'at the start'}: shard {shard} of {self._count}"
        why = type(error).__name__
        if times > RESTARTS:
            raise CommonGroundError(
                f"{where} was lost {times} times ({why}); the rounds before are kept",
                hint="a machine short of memory ends processes: ask for fewer fleet.shards, or resume later",
            ) from error
        log.warning("%s was lost (%s) and is started again", where, why)
        self._end(shard)
        self._start(shard)

    def _start(self, shard: int) -> None:
        import ray

        actor = ray.remote(Shard).options(
            num_cpus=1, num_gpus=0, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )
        self._actors[shard] = actor.remote(self._run, self._arm, shard, self._count)

    def _end(self, shard: int) -> None:
        """End an actor for good: two of one shard must not write at the same time."""
        import ray

        with contextlib.suppress(Exception):  # it may be gone, and Ray with it
            ray.kill(self._actors.pop(shard), no_restart=True)
