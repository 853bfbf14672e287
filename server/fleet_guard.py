"""What stands between a node and the SuperLink's store: a node speaks for itself, and in answer.

Flower 1.42 authenticates the node that calls its Fleet API, and does not compare it with what the message
says of itself: a node can push an instruction in the server's name to another node, as many as it likes,
confirm (and so delete) what was sent to others, and fetch any object whose hash it guesses
(docs/upstream/flwr-fleet-push.md). Here each call is looked at first:

* a pushed message comes from the calling node, goes to the SuperLink, answers a question that was put to this
  node and is open, once, and its tree has no more objects than an honest reply;
* an object is taken while a reply waits for it, and only as many as honest replies have;
* a node fetches and confirms what was sent to it, and nothing else.

So what one node can store is bounded by the questions that the server puts to it. What is refused is counted
under the node's place; counts are written once a second, whatever comes. Nothing that a node wrote is logged
as it is: a line break in it would be a line of somebody else's.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse, Reconnect
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from sqlalchemy import select

from commonground.server.limits import Limits
from commonground.terminal import said

# Why a node's call was refused: constants, for the operator.
FORGED = "node: a message under another's name"
UNASKED = "node: a message that answers no question"
ANOTHERS = "node: a reply to another's question"
SECOND = "node: a second reply to one question"
MALFORMED = "node: a push that no honest node makes"
FLOOD = "node: more objects or pushes than replies need"
FOREIGN = "node: what was sent to another"
LATE = "node: a reply to a question that is over"

KEPT = 4096  # questions and nodes that are remembered, the newest
ROOM = (
    16  # times an honest reply's objects: what is less is refused by the rounds, which need not wait for it
)
TRIES = 8  # pushes of one reply: an honest node tries again after a fault
LONGEST_LINE = 300  # characters of a line of Flower's log

Refuse = Callable[[str, int | None, int], None]
log = logging.getLogger("commonground.server")


class Refusals:
    """Counts refusals in memory and writes them once a second, each reason of each node in one go.

    Args:
        write: told reason, node (None where it is nobody's fault) and count.
        pause: seconds between two writes.
    """

    def __init__(self, write: Refuse, pause: float = 1.0) -> None:
        self._write, self._pause = write, pause
        self._counts, self._lock = Counter[tuple[str, int | None]](), threading.Lock()
        self._stop = threading.Event()

    def add(self, reason: str, node: int | None) -> None:
        """Count one."""
        with self._lock:
            self._counts[reason, node] += 1

    def start(self) -> None:
        """Write from now on, in a thread of its own."""
        threading.Thread(target=self._run, daemon=True, name="refusals").start()

    def flush(self) -> None:
        """Write what was counted."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        for (reason, node), count in counts.items():
            try:
                self._write(reason, node, count)
            except Exception as error:  # a full disk ends no study
                log.warning("refusals cannot be written: %s", type(error).__name__)

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            self.flush()


class FleetGuard:
    """See the module's text.

    Args:
        handlers: Flower's module of Fleet handlers, or one that looks like it.
        bounds: of an honest reply.
        refusals: where refusals are counted.
        leaves: ids of objects that are the same in every honest reply and have no parts. Whoever named parts
            for one first would make Flower refuse everybody else's.
    """

    def __init__(
        self, handlers: Any, bounds: Limits, refusals: Refusals, leaves: frozenset[str] = frozenset()
    ) -> None:
        self._leaves = leaves
        self._push, self._put = handlers.push_messages, handlers.push_object
        self._confirm, self._get = handlers.confirm_message_received, handlers.pull_object
        self._bounds, self._refusals = bounds, refusals
        self._pushes: OrderedDict[tuple[int, str], int] = OrderedDict()  # (node, question) -> pushes
        self._objects: OrderedDict[int, int] = OrderedDict()  # node -> objects that nobody waited for
        self._sent: OrderedDict[int, set[str]] = OrderedDict()  # node -> ids of objects sent to it
        self._lock = threading.Lock()

    def install(self, handlers: Any) -> None:
        """Take the place of Flower's own handlers."""
        handlers.push_messages, handlers.push_object = self.push_messages, self.push_object
        handlers.confirm_message_received = self.confirm_message_received
        handlers.pull_object = self.pull_object

    def push_messages(self, request: PushMessagesRequest, state: Any) -> PushMessagesResponse:
        """Take an answer of the calling node."""
        node = int(request.node.node_id)
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise self._refused(MALFORMED, node)
        head, tree = request.messages_list[0].metadata, request.message_object_trees[0]
        if head.src_node_id != node or head.dst_node_id != SUPERLINK_NODE_ID:
            raise self._refused(FORGED, node)
        question = head.reply_to_message_id
        if not question:
            raise self._refused(UNASKED, node)
        if (
            not (math.isfinite(head.ttl) and math.isfinite(head.created_at))
            or tree.object_id != head.message_id
        ):
            raise self._refused(MALFORMED, node)
        self._check_tree(tree, node)
        with self._lock:
            times = self._pushes[node, question] = self._pushes.pop((node, question), 0) + 1
            while len(self._pushes) > KEPT:
                self._pushes.popitem(last=False)
        if times > TRIES:
            raise self._refused(FLOOD, node)
        asked = state.get_valid_message_ins(question)
        if asked is None:  # an honest device that was slow looks like this: it is nobody's fault
            self._refusals.add(LATE, None)
            return PushMessagesResponse(reconnect=Reconnect(reconnect=5), results={head.message_id: 0})
        if int64_to_uint64(asked["dst_node_id"]) != node:
            raise self._refused(ANOTHERS, node)
        with state.session() as session:
            before = session.scalar(
                select(MessageRes.message_id).where(MessageRes.reply_to_message_id == question)
            )
        if before is not None and before != head.message_id:
            raise self._refused(SECOND, node)
        answer: PushMessagesResponse = self._push(request, state)
        with self._lock:
            self._objects.pop(node, None)
        return answer

    def push_object(self, request: PushObjectRequest, state: Any) -> PushObjectResponse:
        """Take an object that one of the calling node's replies waits for."""
        node = int(request.node.node_id)
        if len(request.object_content) > self._bounds.object_bytes:
            raise self._refused(FLOOD, node)
        with self._lock:
            if self._objects.get(node, 0) > TRIES * self._bounds.objects:
                raise self._refused(FLOOD, node)
        answer: PushObjectResponse = self._put(request, state)
        with self._lock:
            before = self._objects.pop(node, 0)
            self._objects[node] = 0 if answer.stored else before + 1
            while len(self._objects) > KEPT:
                self._objects.popitem(last=False)
        return answer

    def pull_object(self, request: PullObjectRequest, state: Any) -> PullObjectResponse:
        """Give the calling node an object of a message that was sent to it."""
        node = int(request.node.node_id)
        if not self._was_sent(node, request.object_id, state):
            self._refusals.add(FOREIGN, None)  # a message that ended meanwhile looks like this
            return PullObjectResponse(object_found=False, object_available=False)
        answer: PullObjectResponse = self._get(request, state)
        return answer

    def confirm_message_received(
        self, request: ConfirmMessageReceivedRequest, state: Any, store: Any
    ) -> ConfirmMessageReceivedResponse:
        """Let go of a message that the calling node has received."""
        node = int(request.node.node_id)
        asked = state.get_valid_message_ins(request.message_object_id)
        if asked is None:
            return ConfirmMessageReceivedResponse()  # over already; the run's end deletes what is left
        if int64_to_uint64(asked["dst_node_id"]) != node:
            raise self._refused(FOREIGN, node)
        answer: ConfirmMessageReceivedResponse = self._confirm(request, state, store)
        return answer

    def _check_tree(self, tree: ObjectTree, node: int) -> None:
        children: dict[str, list[str]] = {}
        try:
            for count, part in enumerate(iterate_object_tree(tree), 1):
                if count > ROOM * self._bounds.objects:
                    raise self._refused(FLOOD, node)
                found = [child.object_id for child in part.children]
                if children.setdefault(part.object_id, found) != found or (
                    found and part.object_id in self._leaves
                ):
                    raise self._refused(MALFORMED, node)
        except RecursionError:
            raise self._refused(MALFORMED, node) from None

    def _was_sent(self, node: int, name: str, state: Any) -> bool:
        with self._lock:
            if name in self._sent.get(node, ()):
                return True
        with state.session() as session:
            stored = uint64_to_int64(node)
            ids = list(session.scalars(select(MessageIns.message_id).where(MessageIns.dst_node_id == stored)))
        found: set[str] = set()
        for message in ids:
            try:
                tree = state.object_store.get_object_tree(message)
            except Exception:  # it ended meanwhile
                continue
            found |= {part.object_id for part in iterate_object_tree(tree)}
        with self._lock:
            self._sent.pop(node, None)
            self._sent[node] = found
            while len(self._sent) > KEPT:
                self._sent.popitem(last=False)
        return name in found

    def _refused(self, reason: str, node: int) -> FlowerError:
        self._refusals.add(reason, node)
        return FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, f"node {node}: {reason}")


class PlainLines(logging.Filter):
    """Escapes and cuts what is logged, so that nothing in it is a line, or a colour, of its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; keep it."""
        record.msg, record.args = said(record, LONGEST_LINE), None
        record.exc_info = record.exc_text = None  # an exception's text is a stranger's too
        return True
