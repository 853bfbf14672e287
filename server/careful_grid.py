"""Flower's HTTP grid, made to outlive a hostile reply.

Flower's own pulls a batch in one go: a reply that names objects and never sends them holds it up for minutes,
a broken one raises and loses all others, and one of a gigabyte is read to its end. Here each reply is fetched
by itself in the background, only if it names no more objects than an honest one, and whatever goes wrong with
it becomes an error of that one reply. Built on internals of flwr 1.42, like Flower's own.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flwr.app import Array, Error, Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.superlink.grid import HttpGrid

from commonground.server.limits import Limits

THREADS = 64
BROKEN, BROKEN_REASON = 1004, "the reply could not be read"
TOO_LARGE, UNREADABLE = "reply names more objects than the manifest has", "reply cannot be read"

log = logging.getLogger("commonground.server")


class CarefulGrid(HttpGrid):  # type: ignore[misc]  # flwr is not followed by mypy here
    """See the module's text.

    Args:
        address: host:port of the SuperLink.
        root_certificates: PEM.
        token: of the task.
        bounds: of one reply.
        patience: seconds for the objects of one reply to come.
        refuse: told the reason, a constant, of each reply that is refused here, and its node.
    """

    def __init__(
        self,
        address: str,
        root_certificates: bytes,
        token: str,
        bounds: Limits,
        patience: float,
        refuse: Callable[[str, int], None],
    ) -> None:
        super().__init__(address, root_certificates=root_certificates, token=token)
        self._bounds, self._patience, self._refuse = bounds, patience, refuse
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="reply")
        self._coming: dict[str, Future[Message]] = {}  # id of the question -> its reply
        self._lock = threading.Lock()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are here as a whole; the others come in the background and are here later."""
        wanted = set(message_ids)
        new = wanted - set(self._coming)
        if new:
            found = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=sorted(new)))
            for message, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                question = message.metadata.reply_to_message_id
                self._coming[question] = self._threads.submit(self._fetched, message.metadata, tree)
        done = [name for name in sorted(wanted & set(self._coming)) if self._coming[name].done()]
        return [self._coming.pop(name).result() for name in done]

    def _fetched(self, metadata: Any, tree: Any) -> Message:
        try:
            names = [part.object_id for part in iterate_object_tree(tree)]
            if len(names) > self._bounds.objects:
                self._confirm(metadata.message_id)
                self._refuse(TOO_LARGE, metadata.src_node_id)
                return self._broken(metadata.reply_to_message_id)
            pull = make_pull_object_fn_protobuf(
                pull_object_protobuf=self._runtime_client.PullObject, node=self.node, run_id=self.run.run_id
            )
            contents = pull_objects(names, pull, max_time=self._patience)
            self._confirm(metadata.message_id)
            check_contents(contents, self._bounds)
            reply = inflate_object_from_contents(metadata.message_id, contents)
            if not isinstance(reply, Message):
                raise TypeError(f"a reply is a {type(reply).__name__}")
            reply.metadata.__dict__["_message_id"] = metadata.message_id
            inside, outside = reply.metadata, metadata
            if (inside.reply_to_message_id, inside.src_node_id) != (
                outside.reply_to_message_id,
                outside.src_node_id,
            ):
                raise ValueError("a reply names another question or sender inside than outside")
            return reply
        except Exception as error:  # whatever a stranger's bytes can raise
            log.warning("a reply cannot be read: %s", type(error).__name__)
            self._refuse(UNREADABLE, metadata.src_node_id)
            return self._broken(metadata.reply_to_message_id)

    def _confirm(self, message: str) -> None:
        """Let the SuperLink forget a reply."""
        request = ConfirmMessageReceivedRequest(
            node=self.node, run_id=self.run.run_id, message_object_id=message
        )
        self._runtime_client.ConfirmMessageReceived(request)

    def _broken(self, question: str) -> Message:
        metadata = Metadata(
            run_id=self.run.run_id,
            message_id="",
            src_node_id=self.node.node_id,
            dst_node_id=self.node.node_id,
            message_type="system",
            group_id="",
            ttl=0,
            reply_to_message_id=question,
            created_at=now().timestamp(),
        )
        return make_message(metadata=metadata, error=Error(BROKEN, BROKEN_REASON))


def check_contents(contents: Mapping[str, bytes], bounds: Limits) -> None:
    """Raise `ValueError` where the objects of a reply would unpack to more than they are.

    An array names its chunks by number, and may name one a million times: a message of kilobytes would become
    gigabytes when Flower joins them.

    Args:
        contents: object id -> bytes.
        bounds: of one reply.
    """
    left = bounds.message_bytes
    for content in contents.values():
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind != "Array":
            continue
        named = json.loads(get_object_body(content, Array))["arraychunk_ids"]
        for number in named:
            if type(number) is not int or not 0 <= number < len(children):
                raise ValueError("an array names a chunk that it has not")
            left -= len(contents[children[number]])
            if left < 0:
                raise ValueError("an array unpacks to more than a message may have")
