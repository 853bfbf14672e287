"""Flower's `Grid` over a fleet: the same server app and strategies, many people trained at once.

A message to a whole cohort (`commonground.strategies.together`) is answered with one message. Messages to
single nodes, from a server app of somebody else's, are gathered, trained together and answered one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from commonground.client.handlers import REFUSED, REFUSED_REASON
from commonground.errors import EgressError
from commonground.manifest import METRIC, METRIC_VALUE
from commonground.simulations.fleet import Trainer
from commonground.simulations.grid import InProcessGrid
from commonground.strategies import together
from commonground.strategies.records import ARRAYS, CONFIG, METRICS, from_record, to_record

TRAIN, PRIVATE = "train", "train.private"


class FleetGrid(InProcessGrid):
    """N nodes whose updates a `Trainer` computes together.

    Args:
        client_app: answers messages of any other kind, one node at a time.
        people: N.
        trainer: trains cohorts.
        manifest: digest of what may leave the devices; a message with another one is refused.
    """

    serves_cohorts = True

    def __init__(self, client_app: ClientApp, people: int, trainer: Trainer, manifest: str) -> None:
        super().__init__(client_app, people)
        self._trainer, self._manifest = trainer, manifest

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer the messages; what asks single nodes for the same thing is trained together."""
        waiting = [self._numbered(message) for message in messages]
        groups: dict[object, list[Message]] = {}
        for message in waiting:
            groups.setdefault(_group(message), []).append(message)
        for key, group in groups.items():
            if key is None:
                for message in group:
                    self._keep(message, self._answer(message))
            elif group[0].metadata.message_type in (together.TRAIN, together.PRIVATE):
                self._keep(group[0], self._cohort(group[0]))
            else:
                self._nodes_together(group)
        return [message.metadata.message_id for message in waiting]

    def _cohort(self, message: Message) -> Message:
        people, shared, config = together.asked(message)
        if config["manifest"] != self._manifest:
            raise EgressError("the server's manifest is not the devices'")
        if message.metadata.message_type == together.PRIVATE:
            self._private(config, shared, people)
            return Message(RecordDict(), reply_to=message)
        asked = {"each": bool(config["each"]), **_clip(config)}
        reply = self._trainer.train(int(config["round"]), shared, people, **asked)
        return together.answer(message, reply)

    def _private(self, config: ConfigRecord, shared: dict[str, np.ndarray], people: Sequence[int]) -> None:
        final = bool(config["final"])
        self._trainer.train_private(int(config["round"]), shared, people, final=final)

    def _nodes_together(self, group: list[Message]) -> None:
        """Single nodes that are asked for the same round from the same shared adapter."""
        by_person = {int(message.content[CONFIG]["person"]): message for message in group}
        people, config = sorted(by_person), group[0].content[CONFIG]
        shared = from_record(group[0].content[ARRAYS])
        if group[0].metadata.message_type == PRIVATE:
            self._private(config, shared, people)
            for message in group:
                self._keep(message, Message(RecordDict(), reply_to=message))
            return
        reply = self._trainer.train(int(config["round"]), shared, people, each=True, **_clip(config))
        place = {person: p for p, person in enumerate(reply.answered)}
        for person, message in by_person.items():
            if person not in place:
                self._keep(message, _refusal(message))
                continue
            update = {name: value[place[person]] for name, value in reply.arrays.items()}
            content = RecordDict({ARRAYS: to_record(update), METRICS: MetricRecord({METRIC: METRIC_VALUE})})
            self._keep(message, Message(content, reply_to=message))


def _clip(config: ConfigRecord) -> dict[str, Any]:
    """The clip that the server asks for, where it asks for one."""
    return {"clip": float(config["clip"])} if "clip" in config else {}


def _refusal(message: Message) -> Message:
    from flwr.app import Error

    return Message(Error(REFUSED, REFUSED_REASON), reply_to=message)


def _group(message: Message) -> object:
    """What a message is trained together with; None where it is answered by itself."""
    kind = message.metadata.message_type
    if kind in (together.TRAIN, together.PRIVATE):
        return message.metadata.message_id
    if kind not in (TRAIN, PRIVATE) or ARRAYS not in message.content or CONFIG not in message.content:
        return None
    config = message.content[CONFIG]
    if "person" not in config or "round" not in config:
        return None
    arrays = tuple((name, array.data) for name, array in message.content[ARRAYS].items())
    return (kind, config["round"], config.get("final"), config.get("manifest"), config.get("clip"), arrays)
