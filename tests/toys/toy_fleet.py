"""A light device on the real Fleet API: enrols, asks, and answers whatever a test wants, right or wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from toy_patience import LIMIT, a_while

from commonground.study.enrolment import enrolment_request
from commonground.study.invitation import Invitation

Answer = Callable[[Message], RecordDict | None]
PAUSE = 0.2


class LightDevice:
    """One device; no Flower process behind it.

    Args:
        invitation: address and authority are taken from it.
    """

    def __init__(self, invitation: Invitation) -> None:
        self.invitation, self.key, self.node = invitation, ec.generate_private_key(ec.SECP384R1()), 0
        ca = invitation.ca.encode()
        context = httpx.create_ssl_context()
        context.load_verify_locations(cadata=invitation.ca)
        self.web = httpx.Client(base_url=f"https://{invitation.address}", verify=context, timeout=LIMIT)
        node_auth = NodeAuthHttpInterceptor(self.key, self.key.public_key())
        version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
        self.fleet = FleetHttpClient.from_server_address(invitation.address, False, ca, [version, node_auth])
        self.before_push: Callable[[Any], Any] = lambda objects: objects
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1

    def enrol(self, token: str | None = None) -> httpx.Response:
        """POST /enrol."""
        return self.web.post("/enrol", json=enrolment_request(token or self.invitation.token, self.key))

    def activate(self) -> int:
        """Come online; the node's id."""
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(self.key.public_key()), heartbeat_interval=30
        )
        self.node = int(self.fleet.ActivateNode(request).node_id)
        return self.node

    def close(self) -> None:
        """Close its connections."""
        self.web.close()
        self.fleet.close()

    def heartbeat(self) -> None:
        """Stay online."""
        request = SendNodeHeartbeatRequest(node=Node(node_id=self.node), heartbeat_interval=30)
        self.fleet.SendNodeHeartbeat(request)

    def pull(self) -> Message | None:
        """The next message, whole, or None."""
        node = Node(node_id=self.node)
        found = self.fleet.PullMessages(PullMessagesRequest(node=node))
        if not found.messages_list:
            return None
        head = message_from_proto(found.messages_list[0])
        names = [tree.object_id for tree in iterate_object_tree(found.message_object_trees[0])]
        contents = {}
        while missing := [name for name in names if name not in contents]:
            for name in missing:
                request = PullObjectRequest(node=node, run_id=head.metadata.run_id, object_id=name)
                part = self.fleet.PullObject(request)
                if not part.object_found:
                    return None  # of a run that has ended
                if part.object_available:  # a message is named before all of it is there
                    contents[name] = part.object_content
            a_while(PAUSE if len(contents) < len(names) else 0)
        message = inflate_object_from_contents(head.metadata.message_id, contents)
        message.metadata.__dict__["_message_id"] = head.metadata.message_id
        assert isinstance(message, Message)
        return message

    def push(self, message: Message, content: RecordDict, *, objects: bool = True) -> None:
        """Answer a message; without `objects` they are named and never sent."""
        self.speak(Message(content, reply_to=message), message.metadata.run_id, objects=objects)

    def speak(self, reply: Message, run: int, *, objects: bool = True, **head: Any) -> None:
        """Push any message, with whatever its head is made to say."""
        reply.metadata.__dict__.update({f"_{name}": value for name, value in head.items()})
        reply.metadata.__dict__["_message_id"] = reply.object_id
        parts = get_all_nested_objects(reply)
        head = message_to_proto(_bare(reply))
        request = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[head],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[0.0],
        )
        answer = self.fleet.PushMessages(request)
        for name, part in parts.items() if objects else ():
            self.fleet.PushObject(
                PushObjectRequest(
                    node=Node(node_id=self.node),
                    run_id=run,
                    session_id=answer.session_id,
                    object_id=name,
                    object_content=self.before_push(part.deflate()),
                )
            )


def _bare(reply: Message) -> Message:
    from flwr.app.message import remove_content_from_message

    return remove_content_from_message(reply)


def update(arrays: dict[str, np.ndarray], **metrics: int) -> RecordDict:
    """A reply with these tensors and the constant metric."""
    found = {"num-examples": 1, **metrics}
    return RecordDict({"arrays": ArrayRecord(_arrays(arrays)), "metrics": MetricRecord(dict(found))})


def _arrays(arrays: dict[str, np.ndarray]) -> Any:
    from flwr.app import Array

    return {name: Array(value) for name, value in arrays.items()}


class Loop:
    """A device that goes on whatever happens, in a thread.

    Args:
        device: enrolled.
        answer: gives the content of the reply to a shared-phase message; None answers nothing.
    """

    def __init__(self, device: LightDevice, answer: Answer) -> None:
        self.device, self.answer, self.stop = device, answer, threading.Event()
        self.releases: list[tuple[int, str]] = []
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        beat = 0.0
        while not self.stop.wait(PAUSE):
            try:
                if time.monotonic() - beat > 10:
                    self.device.activate() if not self.device.node else self.device.heartbeat()
                    beat = time.monotonic()
                message = self.device.pull()
                if message is None:
                    continue
                config: ConfigRecord = message.content["config"]
                self.releases.append((int(config["round"]), str(config["release"])))
                if message.metadata.message_type == "train":
                    content = self.answer(message)
                    if content is not None:
                        self.device.push(message, content)
                else:
                    self.device.push(message, RecordDict())
            except httpx.HTTPError as error:  # the server is away, or refuses
                self.failures.append(repr(error)[:200])
                beat = 0.0

    def end(self) -> None:
        """Stop it."""
        self.stop.set()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
