"""A node without a server: the real Runtime API of Flower's SuperNode on loopback, its messages made by hand.

What the node's own loop does between the server and this API (`flwr.supernode.start_client_internal`) is done
here step by step: a message, its task and its objects are put into the node's state, and replies are read
from it. So everything that an executor sees of a node is Flower's, and everything that a server could send
can be sent.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import toy_device
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from toy_patience import joined, until

SECRET = b"a secret of this machine"
RUN, NODE, TASK = 7, 42, 1
ZERO = {spec.name: np.zeros(spec.shape, np.float32) for spec in toy_device.SPECS}


def bundle(files: Mapping[str, str] | None = None) -> bytes:
    """A bundle as `flwr build` makes it, with these files beside its pyproject.toml."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        archive.writestr("pyproject.toml", "[project]\nname = 'toy'\nversion = '1.0.0'\n")
        for name, text in (files or {}).items():
            archive.writestr(name, text)
        archive.writestr(".info/CONTENT", "")
    return found.getvalue()


def question(kind: str = "train", arrays: Mapping[str, np.ndarray] = ZERO, **config: Any) -> Message:
    """A message as the server of a study sends it."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, 1
    values = {"round": 1, "person": 0, "manifest": toy_device.manifest().digest, "final": False, **config}
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    content = RecordDict({"arrays": record, "config": ConfigRecord(values)})
    return Message(content, dst_node_id=NODE, message_type=kind)


class Node:
    """The state behind one node's Runtime API."""

    def __init__(self, address: str, state: NodeState, content: bytes) -> None:
        self.address, self.state = address, state
        digest = hashlib.sha256(content).hexdigest()
        run = Run.create_empty(RUN)
        run.fab_hash, run.series_id = digest, 3
        state.set_node_id(NODE)
        state.store_run(run)
        state.store_fab(Fab(digest, content, {}))
        self.context = Context(RUN, NODE, {}, RecordDict(), {})
        state.set_run_series_context(3, self.context)
        self._digest = digest

    def give(self, message: Message, task: str = TaskType.CLIENT_APP) -> str:
        """Put a message and its task where an executor finds them; returns the message's id."""
        state, store = self.state, self.state.object_store
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            assert state.create_task(task, RUN, fab_hash=self._digest) is not None
            store.preregister(RUN, get_object_tree(message))
            state.store_message(message)
            for name, thing in get_all_nested_objects(message).items():
                store.put(name, thing.deflate())
        return str(message.metadata.message_id)

    def reply(self) -> Message:
        """The next reply, whole, as the node would send it on."""
        (head,) = until(lambda: self.state.get_messages_legacy(is_reply=True), "a reply")
        store = self.state.object_store
        tree = store.get_object_tree(head.metadata.message_id)
        parts = {}
        for node in iterate_object_tree(tree):
            name = node.object_id
            parts[name] = until(lambda name=name: store.get(name), "a part of the reply")  # type: ignore[misc]
        message = inflate_object_from_contents(tree.object_id, parts)
        assert isinstance(message, Message)
        assert message.metadata.reply_to_message_id
        return message

    @property
    def tasks(self) -> list[str]:
        """How each task stands: its type, status and sub-status."""
        found = self.state.get_tasks()
        return [f"{task.type} {task.status.status} {task.status.sub_status}".strip() for task in found]


@contextmanager
def running_node(content: bytes | None = None, secret: bytes | None = SECRET) -> Iterator[Node]:
    """A node's Runtime API on a free loopback port."""
    import uvicorn
    from flwr.supernode.main import create_app

    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    with socket.socket() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the web framework's own making
        place.bind(("127.0.0.1", 0))
        place.listen()
        app = create_app(state_factory=factory, superexec_auth_secret=secret)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, args=([place],), daemon=True)
        thread.start()
        until(lambda: server.started, "the Runtime API", alive=thread)
        try:
            yield Node(f"127.0.0.1:{place.getsockname()[1]}", factory.state(), content or bundle())
        finally:
            server.should_exit = True
            joined(thread)
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = TASK, TASK, TASK


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that finds the toys."""
    toys = os.path.dirname(__file__)
    path = os.pathsep.join(filter(None, [toys, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "COMMONGROUND_DEVICE": "toy_device:open_device"} | more
