"""Flower's `Grid` with attackers on it: the replies of some nodes are not what their devices sealed.

It stands around any grid. One that serves whole cohorts is asked for updates one by one, which are rewritten
and, where the server asked for a sum, added up. Replies of single nodes are held back until all of the
round's are there, since some attacks look at everybody's. Messages of the private phase pass untouched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from commonground.simulations.attacks.rewriting import Arrays, Rewriter
from commonground.simulations.devices import device_noise
from commonground.simulations.world import Arm, World
from commonground.strategies import together
from commonground.strategies.records import ARRAYS, CONFIG, METRICS, from_record, to_record
from commonground.strategies.together import serves_cohorts

TRAIN = "train"
POLL = 0.02  # seconds between looks for replies


class AttackedGrid(Grid):  # type: ignore[misc]  # flwr is not followed by mypy here
    """See the module's text.

    Args:
        inner: the grid that devices answer on.
        rewriter: what attackers send.
    """

    def __init__(self, inner: Grid, rewriter: Rewriter) -> None:
        self._inner, self._rewriter = inner, rewriter
        self._cohorts: dict[str, ConfigRecord] = {}  # message id -> what was asked of a cohort
        self._round: dict[str, int] = {}  # message id -> person, of the single nodes of the round under way
        self._asked = ConfigRecord()  # what was asked of them
        self._held: dict[str, Message] = {}  # their replies so far

    @property
    def serves_cohorts(self) -> bool:
        """As the grid inside."""
        return serves_cohorts(self._inner)

    def set_run(self, run: Run) -> None:
        """See `Grid`."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """See `Grid`."""
        return self._inner.run

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """See `Grid`."""
        return self._inner.create_message(*arguments, **named)

    def get_node_ids(self) -> Iterable[int]:
        """See `Grid`."""
        return self._inner.get_node_ids()  # type: ignore[no-any-return]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages on; a cohort is asked for its updates one by one where anybody in it attacks."""
        sent = list(messages)
        singles = [message for message in sent if message.metadata.message_type == TRAIN]
        people = [int(message.content[CONFIG]["person"]) for message in singles]
        attacked = self._rewriter.concerns(people)
        ids = list(self._inner.push_messages([self._one_by_one(message) for message in sent]))
        place = dict(zip(ids, sent, strict=True))
        if attacked:  # a round begins; whatever is left of one that was given up is forgotten
            self._asked = singles[0].content[CONFIG]
            self._round, self._held = {}, {}
        for number, message in place.items():
            kind = message.metadata.message_type
            if kind == TRAIN and attacked:
                self._round[number] = int(message.content[CONFIG]["person"])
            elif kind == together.TRAIN and self._rewriter.concerns(message.content[CONFIG]["people"]):
                self._cohorts[number] = message.content[CONFIG]
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there; those of single nodes once all of the round's are."""
        wanted = [number for number in message_ids if number not in self._held]
        found: list[Message] = []
        for reply in self._inner.pull_messages(wanted):
            number = reply.metadata.reply_to_message_id
            if number in self._cohorts:
                self._rewrite_cohort(reply, self._cohorts.pop(number))
            elif number in self._round:
                self._held[number] = reply
                continue
            found.append(reply)
        if self._round and len(self._held) == len(self._round):
            self._rewrite_singles()
            found += [self._held[number] for number in self._round]
            self._round, self._held = {}, {}
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, and pull until every reply is there or `timeout` seconds have passed."""
        waiting, replies, began = set(self.push_messages(messages)), list[Message](), time.monotonic()
        while waiting and (timeout is None or time.monotonic() - began <= timeout):
            found = list(self.pull_messages(waiting))
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            if waiting:
                time.sleep(POLL)
        return replies

    def _one_by_one(self, message: Message) -> Message:
        if message.metadata.message_type != together.TRAIN:
            return message
        config = message.content[CONFIG]
        if bool(config["each"]) or not self._rewriter.concerns(config["people"]):
            return message
        content = RecordDict({**message.content, CONFIG: ConfigRecord({**config, "each": True})})
        return Message(content, dst_node_id=message.metadata.dst_node_id, message_type=together.TRAIN)

    def _rewrite_cohort(self, reply: Message, asked: ConfigRecord) -> None:
        if reply.has_error():
            return
        people = list(reply.content[METRICS]["answered"])
        arrays = self._rewritten(asked, people, from_record(reply.content[ARRAYS]))
        if not bool(asked["each"]):
            arrays = {name: value.sum(0, dtype=np.float64) for name, value in arrays.items()}
        reply.content[ARRAYS] = to_record(arrays)

    def _rewritten(self, asked: ConfigRecord, people: list[int], sent: Arrays) -> Arrays:
        clip = float(asked["clip"]) if "clip" in asked else None
        return self._rewriter.rewrite(int(asked["round"]), people, sent, clip)

    def _rewrite_singles(self) -> None:
        answered = {
            self._round[number]: reply for number, reply in self._held.items() if not reply.has_error()
        }
        people = sorted(answered)
        if not people:
            return
        sent = [from_record(answered[person].content[ARRAYS]) for person in people]
        stacked = {name: np.stack([one[name] for one in sent]) for name in sent[0]}
        arrays = self._rewritten(self._asked, people, stacked)
        for place, person in enumerate(people):
            if person in self._rewriter.people:
                own = {name: value[place] for name, value in arrays.items()}
                answered[person].content[ARRAYS] = to_record(own)


def attacked_grid(world: World, arm: Arm, expected: float) -> Callable[[Grid], Grid] | None:
    """What stands around an arm's grid; None where attackers send what their devices seal.

    Args:
        world: the run's world.
        arm: which arm.
        expected: m, the denominator of the mean.
    """
    attack, manifest = world.attack, world.manifests[arm]
    if attack is None or not attack.rewrites:
        return None

    def noise(round: int, people: Sequence[int]) -> dict[str, np.ndarray]:
        return device_noise(world, arm, people, round)

    rewriter = Rewriter(
        attack,
        world.attackers,
        manifest,
        seed=world.config.attack.seed,
        expected=expected,
        noise=noise if manifest.noise_on_device else None,
    )
    return lambda grid: AttackedGrid(grid, rewriter)
