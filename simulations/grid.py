"""Flower's `Grid` in this process: nodes are contexts in memory and replies are there at once.

The same server app and client app run over it as over Flower's simulation engine or real nodes. It is
deterministic (messages are answered in the order they are pushed), isolated (a node gets copies, and a
call that fails leaves the node's state as it was) and keeps nothing of a round once its replies are
pulled. Time limits do not apply, since nothing is awaited.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN, SERVER = 1, 1  # ids of the one run, and of the server among the tasks
RAISED, RAISED_REASON = 2, "the client app raised an exception"  # Flower's code; never its text

log = logging.getLogger("commonground.simulations")


class InProcessGrid(Grid):  # type: ignore[misc]  # flwr is not followed by mypy here
    """N nodes, ids 1 to N, that answer with `client_app`.

    Args:
        client_app: what every node runs.
        nodes: N.
    """

    def __init__(self, client_app: ClientApp, nodes: int) -> None:
        self._app, self._nodes = client_app, nodes
        self._contexts: dict[int, Context] = {}
        self._replies: dict[str, Message] = {}
        self._sent = 0
        self.set_run(Run.create_empty(RUN))
        # Flower's Message() asks the process which task it belongs to.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = SERVER, RUN, SERVER

    def set_run(self, run: Run) -> None:
        """Set the run this grid belongs to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid belongs to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to one node; `Message(...)` does the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """1 to N."""
        return range(1, self._nodes + 1)

    def context(self, node: int) -> Context:
        """The context of a node, made when it is first needed."""
        if node not in self._contexts:
            config = {"partition-id": node - 1, "num-partitions": self._nodes}
            self._contexts[node] = Context(RUN, node, config, RecordDict(), {})
        return self._contexts[node]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer each message in turn; the replies wait to be pulled."""
        ids = []
        for message in messages:
            ids.append(self._numbered(message).metadata.message_id)
            self._keep(message, self._answer(message))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages, each handed out once, in the order the messages were pushed."""
        wanted = sorted((number for number in message_ids if number in self._replies), key=int)
        return [self._replies.pop(number) for number in wanted]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push and pull; `timeout` does not apply."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _numbered(self, message: Message) -> Message:
        self._sent += 1
        message.metadata.__dict__["_message_id"] = str(self._sent)
        return message

    def _keep(self, message: Message, reply: Message) -> None:
        """Hold a reply until it is pulled."""
        reply.metadata.__dict__["_message_id"] = f"reply-{message.metadata.message_id}"
        self._replies[message.metadata.message_id] = reply

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self.get_node_ids():
            raise ValueError(f"message to node {node}; nodes are 1 to {self._nodes}")
        received, context = copy.deepcopy(message), copy.deepcopy(self.context(node))
        try:
            reply = self._app(received, context)
            # Copied before the state is kept: a reply must not share memory with a node.
            reply = copy.deepcopy(reply)
            self._contexts[node] = context
        except Exception:
            log.warning("node %d: the client app raised an exception", node, exc_info=True)
            reply = Message(Error(RAISED, RAISED_REASON), reply_to=message)
        return reply
