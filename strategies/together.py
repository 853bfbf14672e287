"""One message for a whole cohort, where the grid trains many people at once.

A grid with `serves_cohorts = True` (the fleet's) is asked once a round instead of once a person, and answers
once: with what the sealed updates of the cohort add up to, or, for rules that must see replies one by one,
with all of them in one array. It exists between a simulation's server and its engine and is nothing that a
device would send; every person's update was sealed by itself before it was added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from commonground.errors import EgressError
from commonground.manifest import Manifest
from commonground.strategies.records import ARRAYS, CONFIG, METRICS, from_record, to_record

TRAIN, PRIVATE = "train.cohort", "train.private_cohort"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class CohortReply:
    """What a cohort sent.

    Attributes:
        answered: people whose update was sealed, ascending.
        refused: people whose update did not pass the manifest.
        arrays: float64 sums over `answered`, name -> shape; or, one by one, name -> (answered, *shape).
    """

    answered: list[int]
    refused: int
    arrays: Arrays


def serves_cohorts(grid: Grid) -> bool:
    """Whether this grid takes one message for many people."""
    return bool(getattr(grid, "serves_cohorts", False))


def ask(
    kind: str, node: int, shared: ArrayRecord, people: Sequence[int], config: Mapping[str, object]
) -> Message:
    """A message to a whole cohort."""
    record = ConfigRecord({**config, "people": list(people)})
    return Message(RecordDict({ARRAYS: shared, CONFIG: record}), dst_node_id=node, message_type=kind)


def asked(message: Message) -> tuple[list[int], Arrays, ConfigRecord]:
    """People, shared adapter and settings of such a message."""
    config = message.content[CONFIG]
    return list(config["people"]), from_record(message.content[ARRAYS]), config


def answer(message: Message, reply: CohortReply) -> Message:
    """The reply to `message`."""
    metrics = MetricRecord({"answered": reply.answered, "refused": reply.refused})
    return Message(RecordDict({ARRAYS: to_record(reply.arrays), METRICS: metrics}), reply_to=message)


def received(message: Message, manifest: Manifest, *, each: bool) -> CohortReply:
    """The reply in a message, checked for names, shapes, finite values and what its sum can be at most.

    Raises:
        EgressError: it is not what a cohort can have sent.
    """
    arrays, metrics = from_record(message.content[ARRAYS]), message.content[METRICS]
    people = list(metrics["answered"])
    lead = (len(people),) if each else ()
    wanted = {spec.name: (*lead, *spec.shape) for spec in manifest.sent}
    if {name: value.shape for name, value in arrays.items()} != wanted:
        raise EgressError(f"a cohort of {len(people)} sent other tensors than {wanted}")
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise EgressError("a cohort sent a value that is not finite")
    return CohortReply(
        people, int(metrics["refused"]), {spec.name: arrays[spec.name] for spec in manifest.sent}
    )
