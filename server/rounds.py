"""The rounds of one job, resumable at any instant.

Within a round: the cohort is drawn and asked, its replies are aggregated, the private-phase messages go
out (after every shared reply has come back, so nothing private was trained before an update left), the
observer is told, the state is saved. After the last round the people of `final_private` train once more
against the adapter that is released: the averaged one where there is one, else the last.

A run that is killed anywhere in between repeats that round exactly: coins and noise are keyed by the
round, and a device asked again for a round answers the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from commonground.errors import CommonGroundError, InterruptedRunError, RunFolderError
from commonground.manifest import Manifest
from commonground.privacy.ledger import EVERYBODY, Ledger
from commonground.server.checkpoint import load_state, save_state
from commonground.server.conduct import Conduct
from commonground.server.job import Job
from commonground.strategies import together
from commonground.strategies.person_dp import PersonLevel, same
from commonground.strategies.records import ARRAYS, CONFIG, from_record, to_record
from commonground.strategies.safety_gate import ACTIONS, Decision
from commonground.strategies.together import serves_cohorts

__all__ = ["Job", "Outcome", "RoundEvent", "load_outcome", "run_rounds"]

PRIVATE = "train.private"  # the action `private` of the client app
BATCH = 256  # messages of the last private phase in flight at once
POLL = 0.02  # seconds between looks for replies
NODES = 60.0  # seconds to wait for all nodes to connect

log = logging.getLogger("commonground.server")


@dataclass(frozen=True)
class RoundEvent:
    """What an observer is told of a round.

    Attributes:
        arm, round: which.
        people: indices of the people drawn, ascending.
        replies: updates that were used.
        refused, errors: replies that broke the manifest, and replies that were errors, in this round.
        bytes: bytes of the tensors of the used updates.
        arrays: the shared adapter after this round.
        averaged: its mean over the last half of the rounds, or None.
        seconds: wall time of the round.
        clip: the clip that was asked for in it, where it is adapted.
        gate: what the safety gate decided in it, where there is one.
        blamed: person -> why a reply of theirs was refused.
    """

    arm: str
    round: int
    people: list[int]
    replies: int
    refused: int
    errors: int
    bytes: int
    arrays: dict[str, np.ndarray]
    averaged: dict[str, np.ndarray] | None
    seconds: float
    clip: float | None = None
    gate: dict[str, Any] | None = None
    blamed: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Where a job stands.

    Attributes:
        round: rounds done.
        finished: all rounds and the last private phase are done.
        arrays: the shared adapter.
        averaged: its mean over the last half of the rounds, or None.
        counts: messages, bytes, refused, errors, skipped (rounds whose rule had too few replies).
        taken_part: (people,) int64, rounds each person was drawn in.
    """

    round: int
    finished: bool
    arrays: dict[str, np.ndarray]
    averaged: dict[str, np.ndarray] | None
    counts: dict[str, int]
    taken_part: np.ndarray


Observer = Callable[[RoundEvent], None]


def run_rounds(
    grid: Grid,
    job: Job,
    on_round: Observer | None = None,
    stop: threading.Event | None = None,
    conduct: Conduct | None = None,
) -> Outcome:
    """Run the rounds of `job` that are not done yet, then its last private phase.

    Args:
        grid: nodes that run `commonground.client.app`.
        job: what to run; its checkpoint folder says where to start.
        on_round: told of each round before the round is saved: a killed run may tell it the same round
            twice (with the same content), never skip one.
        stop: set from outside to stop between messages with `InterruptedRunError`.
        conduct: how rounds of real devices differ; None is a simulation's.

    Raises:
        RunFolderError: the checkpoint belongs to another job.
        StorageError: the state could not be saved.
        CommonGroundError: a device answered with an error and the job says to stop then.
    """
    stop, conduct = stop or threading.Event(), conduct or Conduct()
    digest = job.digest
    wrapper, start, finished = _restore(job)
    if finished:
        return load_outcome(job)
    arrays = to_record(wrapper.current if start else job.initial_arrays())
    _wait_for_nodes(grid, job.people, stop)
    for round in range(start + 1, job.rounds + 1):
        left, arrays = arrays, conduct.opening(round, arrays, wrapper, stop)
        if not same(from_record(left), from_record(arrays)):  # the operator took up an earlier version
            wrapper.begin_anew(job.wrapper().inner)
        began = time.monotonic()
        before, clip = dict(wrapper.counts), wrapper.mechanism.asked.get("clip")
        asked = list(wrapper.configure_train(round, arrays, ConfigRecord(), grid))
        _charge(job, digest, round, wrapper.cohort)
        replies = _exchange(grid, asked, job.timeout, stop)
        broadcast, (result, _) = arrays, wrapper.aggregate_train(round, replies)
        errors = wrapper.counts["errors"] - before["errors"]
        if errors and job.stop_on_error:
            raise CommonGroundError(
                f"{job.arm}, round {round}: {errors} of {len(asked)} devices answered with an error"
                if not serves_cohorts(grid)
                else f"{job.arm}, round {round}: the fleet answered with an error",
                hint="the device's own log (commonground.client) says why; it never travels",
            )
        arrays = to_record(wrapper.current) if result is None else result
        cohort = wrapper.cohort
        if job.private:
            people = conduct.asked_privately(wrapper)
            _private(grid, job, round, broadcast, people, final=False, stop=stop)
        if on_round is not None:
            change = {name: count - before[name] for name, count in wrapper.counts.items()}
            on_round(
                RoundEvent(
                    job.arm, round, cohort, change["messages"], change["refused"], change["errors"],
                    change["bytes"], wrapper.current, wrapper.averaged, time.monotonic() - began, clip,
                    _decision(job, round, wrapper), dict(wrapper.refused),
                )
            )  # fmt: skip
        _save(job, digest, wrapper, round, finished=False)
    last = arrays if wrapper.averaged is None else to_record(wrapper.averaged)
    last = conduct.opening(job.rounds + 1, last, wrapper, stop)
    _private(grid, job, job.rounds + 1, last, job.final_private, final=True, stop=stop)
    _save(job, digest, wrapper, job.rounds, finished=True)
    return load_outcome(job)


def _decision(job: Job, round: int, wrapper: PersonLevel) -> dict[str, Any] | None:
    """What the safety gate decided, for the observer and the log; None without one, or in a skipped round."""
    found = getattr(wrapper.inner, "decision", None)
    if not isinstance(found, Decision):
        return None
    if found.action != ACTIONS[0]:
        log.info("%s, round %d: %s: %s", job.arm, round, found.action.replace("_", " "), found.reason)
    return found.to_dict()


def load_outcome(job: Job) -> Outcome:
    """Where `job` stands, from its checkpoint (or its start, where there is none)."""
    wrapper, round, finished = _restore(job)
    arrays = wrapper.current or job.initial_arrays()
    return Outcome(round, finished, arrays, wrapper.averaged, dict(wrapper.counts), wrapper.taken_part)


def _restore(job: Job) -> tuple[PersonLevel, int, bool]:
    wrapper, state = job.wrapper(), load_state(job.checkpoint_file)
    if state is None:
        return wrapper, 0, False
    if state["job"] != job.digest:
        raise RunFolderError(
            f"{job.checkpoint_file} is the state of another job than {job.arm!r}",
            hint="resume with the same settings, or choose another output folder",
        )
    wrapper.load_state_dict(state["wrapper"])
    return wrapper, int(state["round"]), bool(state["finished"])


def _save(job: Job, digest: str, wrapper: PersonLevel, round: int, *, finished: bool) -> None:
    state: dict[str, Any] = {"job": digest, "round": round, "finished": finished}
    save_state(job.checkpoint_file, {**state, "wrapper": wrapper.state_dict()})


def _private(
    grid: Grid,
    job: Job,
    round: int,
    arrays: ArrayRecord,
    people: Sequence[int],
    *,
    final: bool,
    stop: threading.Event,
) -> None:
    """Ask people to run their private phase; what they answer is ignored, since it is always the same."""
    shared: dict[str, int | str] = {
        "round": round,
        "manifest": Manifest.from_dict(job.manifest).digest,
        "final": final,
    }
    if serves_cohorts(grid):
        if people:
            _exchange(grid, [together.ask(together.PRIVATE, 1, arrays, people, shared)], job.timeout, stop)
        return
    nodes = sorted(grid.get_node_ids())
    for first in range(0, len(people), BATCH):
        messages = [
            Message(
                RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord({**shared, "person": person})}),
                dst_node_id=nodes[person],
                message_type=PRIVATE,
            )
            for person in people[first : first + BATCH]
        ]
        _exchange(grid, messages, job.timeout, stop)


def _exchange(
    grid: Grid, messages: Iterable[Message], timeout: float | None, stop: threading.Event
) -> list[Message]:
    """Send, and collect replies until all are there, `timeout` seconds have passed or `stop` is set."""
    waiting, replies, began = set(grid.push_messages(messages)), list[Message](), time.monotonic()
    while waiting:
        if stop.is_set():
            raise InterruptedRunError("the run was stopped")
        found = list(grid.pull_messages(waiting))
        replies += found
        waiting -= {reply.metadata.reply_to_message_id for reply in found}
        if not waiting:
            break
        if timeout is not None and time.monotonic() - began > timeout:
            log.warning("%d of the nodes asked did not answer within %g s", len(waiting), timeout)
            break
        time.sleep(POLL)
    return replies


def _charge(job: Job, run: str, round: int, cohort: Sequence[int]) -> None:
    """Charge a round before anything of it leaves; a repeated round has the same key and costs nothing.

    Under secret coins everybody pays for every round by one shared counter, drawn or not. Where messages
    are counted instead (`participations`), those who are asked pay, and everybody can see who they are.
    """
    if job.ledger is None or job.charge[1] <= 0:
        return
    cost = (job.charge[0], job.charge[1], 1)
    with Ledger(Path(job.ledger), run) as ledger:
        key = f"round {round}"
        if job.participations is None:
            ledger.reserve(EVERYBODY, job.arm, key, cost, unit=job.unit)
        else:
            ledger.reserve_each([f"person {p}" for p in cohort], job.arm, key, cost, unit=job.unit)
        ledger.commit(key, mechanism=job.arm)


def _wait_for_nodes(grid: Grid, people: int, stop: threading.Event) -> None:
    """Flower's simulation starts this app before all of its nodes are there."""
    began = time.monotonic()
    while not serves_cohorts(grid) and (found := len(list(grid.get_node_ids()))) < people:
        if stop.is_set():
            raise InterruptedRunError("the run was stopped")
        if time.monotonic() - began > NODES:
            raise CommonGroundError(f"{found} nodes connected within {NODES:g} s; this run needs {people}")
        time.sleep(POLL)
