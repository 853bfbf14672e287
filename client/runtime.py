"""The node's Runtime API, as this device's executor uses it: claim a task, read it, answer it, end it.

Flower's own client code does the talking. Parts of it that are not Flower's public interface are used, so
the version is pinned (`FLOWER`) and every other one is refused in one line.
"""

from __future__ import annotations

import importlib.metadata
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto, message_from_proto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message

from commonground.client.guard import Allowance
from commonground.errors import InputError, TrustError

log = logging.getLogger("commonground.client.executor")

FLOWER = "1.42.0"
SIGNED = frozenset({"/flwr.proto.Runtime/AcquireTask"})  # what the node asks an HMAC for
BEAT = 10.0  # seconds between signs of life of a task; the node gives one up after 60
PULL = 3600.0  # seconds for the parts of a message: the node itself may still be fetching them
LOOK = 0.2  # seconds between looks for a part that the node does not have yet


class Claim:
    """One claimed task of the node.

    Args:
        client: the node's Runtime API, under the task's token.
        kind: the task's type; `mine` says whether it is a ClientApp's.
    """

    def __init__(self, client: RuntimeHttpClient, kind: str) -> None:
        self._client, self.kind = client, kind
        self.mine = kind == TaskType.CLIENT_APP
        self._whole = False

    def start(self) -> tuple[Context, str, bytes]:
        """Begin the task: its context, and the hash and the bytes of the server's bundle."""
        found = self._client.PullTaskInput(PullTaskInputRequest())
        self._context = context_from_proto(found.context)
        # Flower's Message() asks the process which task it belongs to.
        TaskIdentity.task_id, TaskIdentity.run_id = found.task_id, found.run.run_id
        TaskIdentity.node_id = self._context.node_id
        return self._context, found.fab.hash_str, found.fab.content

    def head(self) -> Message | None:
        """The message without its content; None where the node has none for this task."""
        found = self._client.PullMessages(PullAppMessagesRequest())
        if not found.messages_list:
            return None
        self._tree = found.message_object_trees[0]
        head = message_from_proto(found.messages_list[0])
        self._run, self._node = head.metadata.run_id, Node(node_id=head.metadata.dst_node_id)
        return head

    def message(self, head: Message, most: Allowance) -> Message:
        """The whole message.

        Args:
            head: what `head` gave.
            most: how much of it is taken.

        Raises:
            OversizedError: it has more parts or bytes.
            TrustError: it is not what its head says.
        """
        most.count(sum(1 for _ in iterate_object_tree(self._tree)))
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self._node, self._run)
        message: Message = pull_and_inflate_object_from_tree(
            self._tree,
            lambda name: most.take(pull(name)),
            lambda name: None,  # confirmed with the answer, whatever it is
            return_type=Message,
            max_time=PULL,
            max_tries_per_object=None,
            initial_backoff=LOOK,
            backoff_cap=2.0,
        )
        self._whole = True
        if message.metadata.message_type != head.metadata.message_type:
            raise TrustError("the message is of another type than its head said")
        message.metadata.__dict__["_message_id"] = self._tree.object_id  # as Flower does: it does not travel
        return message

    def answer(self, reply: Message) -> None:
        """Hand over the reply and end the task; the node forgets the message."""
        self.wait()
        confirm: Any = self._client.ConfirmMessageReceived
        make_confirm_message_received_fn_protobuf(confirm, self._node, self._run)(self._tree.object_id)
        push_message(self._client, reply, self._context)
        self.end(SubStatus.FAILED if reply.has_error() else SubStatus.COMPLETED)

    def wait(self) -> None:
        """Wait until the node has every part of a message that is refused unread.

        It announces a message before it has fetched it. One that is forgotten meanwhile fails on its side; it
        then sends each later answer one message too late.
        """
        if self._whole:
            return
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self._node, self._run)
        last = time.monotonic() + PULL
        for name in {part.object_id for part in iterate_object_tree(self._tree)}:
            while time.monotonic() < last:
                try:
                    pull(name)
                except ObjectUnavailableError:
                    time.sleep(LOOK)
                    continue
                except ObjectPullError:
                    pass  # the node has given the message up
                break

    def end(self, outcome: str = SubStatus.FAILED) -> None:
        """End the task. No context is handed over: what an app would keep in it, the node does not keep."""
        self._client.PushTaskOutput(PushTaskOutputRequest(context=None, sub_status=outcome, details=""))


class Runtime:
    """The node's Runtime API.

    Args:
        address: host:port on loopback.
        secret: what node and executor share.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self._address = address
        self._client = self._open(
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=SIGNED)
        )

    @contextmanager
    def claim(self) -> Iterator[Claim | None]:
        """Claim the oldest task that waits and keep it alive until the block ends; None where none waits.

        Raises:
            TrustError: the node does not take the secret.
            httpx.HTTPError: it does not answer, or refuses.
        """
        # Both types that a node can have: what is no ClientApp's is claimed to be refused, because the node
        # waits for its end and asks for nothing else meanwhile.
        kinds = {TaskType.CLIENT_APP, TaskType.AGENT_APP}
        try:
            found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=kinds))
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise
            raise TrustError(
                "the node does not take this executor's secret",
                hint="restart the device: commonground device down, then up",
            ) from error
        if not found.HasField("task") or not found.token:
            yield None
            return
        client = self._open(RuntimeTokenHttpInterceptor(found.token))
        try:
            with _Heartbeat(client):
                yield Claim(client, found.task.type)
        finally:
            client.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _open(self, interceptor: Any) -> RuntimeHttpClient:
        # Without Flower's retries: they interrupt the process where the node refuses a token.
        return RuntimeHttpClient.from_server_address(self._address, True, None, [interceptor])


class _Heartbeat:
    """Tells the node that a task is alive while it runs: a local update takes minutes."""

    def __init__(self, client: RuntimeHttpClient) -> None:
        self._client, self._over = client, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="task heartbeat")

    def __enter__(self) -> _Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            try:
                self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except httpx.HTTPError as error:
                log.info("the node does not take a sign of life: %s", type(error).__name__)


def check_flower() -> None:
    """Refuse another version of Flower than this code was tried with; raises `InputError`."""
    found = importlib.metadata.version("flwr")
    if found != FLOWER:
        raise InputError(
            f"flwr {found} is installed; this version of commonground was tried with {FLOWER} alone",
            hint=f"pip install flwr=={FLOWER}",
        )
