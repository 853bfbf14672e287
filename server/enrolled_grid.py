"""Flower's grid with the enrolled people in front: strategies see person numbers, devices see signed rounds.

Nodes are numbered slot + 1, so that a person is the rank of a node as in every other runtime. Each message
gets the signed release of its round and a lifetime; somebody who has no device (not enrolled, revoked)
answers with an error at once, as an offline one does by Flower's own word. Replies to a question that is over
are pulled, counted as late and dropped.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from commonground.strategies.records import ARRAYS, CONFIG, from_record

POLLS = (0.1, 1.0)  # seconds between two looks for replies, from the first to the longest
GRACE = 60.0  # seconds after the deadline in which a late reply is still counted
ABSENT, ABSENT_REASON = 1003, "nobody is enrolled there"

Papers = Callable[[int, Mapping[str, np.ndarray]], str]
log = logging.getLogger("commonground.server")


class EnrolledGrid(Grid):  # type: ignore[misc]  # flwr is not followed by mypy here
    """See the module's text.

    Args:
        grid: Flower's.
        people: places of the study.
        nodes: gives slot -> Flower's node id of everybody who is enrolled now.
        papers: gives the signed release of (round, arrays).
        deadline: seconds that a round waits.
        late: told how many replies came too late.
    """

    def __init__(
        self,
        grid: Grid,
        people: int,
        nodes: Callable[[], Mapping[int, int]],
        papers: Papers,
        deadline: float,
        late: Callable[[int], None],
    ) -> None:
        self._grid, self._people, self._nodes, self._papers = grid, people, nodes, papers
        self._deadline, self._late = deadline, late
        self._ready: dict[str, Message] = {}  # replies that are known without asking
        self._asked: dict[str, int] = {}  # message id -> number of the node, of questions that are open
        self._over: set[str] = set()  # ids of questions that are over
        self._numbers = itertools.count(1)
        self._looked, self._pause = 0.0, POLLS[0]

    def set_run(self, run: Run) -> None:
        """Set the run this grid belongs to."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run this grid belongs to."""
        return self._grid.run

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """A message to one node, as Flower's grid makes it."""
        return self._grid.create_message(*arguments, **named)

    def get_node_ids(self) -> Iterable[int]:
        """1 to the number of places."""
        return range(1, self._people + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send to those who are enrolled; the others have answered already."""
        self._over |= set(self._asked)  # whatever was asked before is over now
        self._asked = {}
        self._pause = POLLS[0]
        nodes, ids, sent = self._nodes(), [], []
        for message in messages:
            number = message.metadata.dst_node_id
            node = nodes.get(number - 1)
            if node is None:
                ids.append(self._absent(message))
                continue
            ids.append("")
            sent.append((len(ids) - 1, number, self._addressed(message, node)))
        if sent:
            found = list(self._grid.push_messages([message for _, _, message in sent]))
            found += [""] * (len(sent) - len(found))
            for (place, number, message), name in zip(sent, found, strict=True):
                ids[place] = name or self._absent(message)
                if name:
                    self._asked[name] = number
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages, each handed out once."""
        wanted = set(message_ids)
        found = [self._ready.pop(name) for name in sorted(wanted & set(self._ready))]
        if found or not wanted & set(self._asked):
            return found
        rest = self._looked + self._pause - time.monotonic()
        if rest > 0:  # the loop that calls this looks fifty times a second
            time.sleep(min(rest, POLLS[0]))
            return []
        replies = list(self._grid.pull_messages(wanted & set(self._asked)))
        for reply in replies:
            number = self._asked.pop(reply.metadata.reply_to_message_id, 0)
            reply.metadata.__dict__["_src_node_id"] = number
        self._count_late()
        self._looked, self._pause = time.monotonic(), min(2 * self._pause, POLLS[1])
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, and pull until all is there or `timeout` seconds have passed."""
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        end = time.monotonic() + (self._deadline if timeout is None else timeout)
        while waiting and time.monotonic() < end:
            found = list(self.pull_messages(waiting))
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            time.sleep(POLLS[0] if waiting else 0.0)
        return replies

    def _addressed(self, message: Message, node: int) -> Message:
        """The message as it goes to a device."""
        config, arrays = message.content[CONFIG], message.content[ARRAYS]
        paper = self._papers(int(config["round"]), from_record(arrays))
        content = RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord({**config, "release": paper})})
        kind = message.metadata.message_type
        return Message(content, node, kind, ttl=self._deadline + GRACE)

    def _absent(self, message: Message) -> str:
        """The id of a question that is answered with an error at once."""
        name = f"absent-{next(self._numbers)}"
        number = message.metadata.dst_node_id
        asked = Message(RecordDict(), number, message.metadata.message_type)
        asked.metadata.__dict__["_message_id"] = name
        self._ready[name] = Message(Error(ABSENT, ABSENT_REASON), reply_to=asked)
        return name

    def _count_late(self) -> None:
        if not self._over:
            return
        replies = list(self._grid.pull_messages(set(self._over)))
        self._over -= {reply.metadata.reply_to_message_id for reply in replies}
        count = sum(not reply.has_error() and len(reply.content) > 0 for reply in replies)
        if count:
            log.info("%d replies came after their deadline and are dropped", count)
            self._late(count)
