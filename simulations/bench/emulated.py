"""Light devices: one process that speaks Flower's Fleet API for many nodes, with Flower's own client.

Each has its own node key, connection and heartbeat, looks for a message as often as a SuperNode does, and
answers by a function. There is no vault, no training and no bundle behind it: it is the server that is
measured, or attacked.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supernode.fleet_http_connection import http_request_response

from commonground.manifest import Manifest
from commonground.strategies.records import ARRAYS, CONFIG, METRICS

POLL = 3.0  # seconds between two looks for a message, as a SuperNode has it
PRIVATE = "train.private"
TRIES = 20  # of one request, with Flower's own growing pauses

Answer = Callable[[Message], Message]


class LightDevice:
    """One node.

    Args:
        address: host:port of the front door.
        ca: the authority that it is checked by, PEM.
        key: the node's key; it is enrolled.
        answer: makes the reply to a message.
    """

    def __init__(self, address: str, ca: bytes, key: ec.EllipticCurvePrivateKey, answer: Answer) -> None:
        self._stack, self._answer = ExitStack(), answer
        connection = http_request_response(address, False, ca, (key, key.public_key()), max_retries=TRIES)
        self.node, self._receive, self._send, _, _, self._pull, self._push, self._confirm = (
            self._stack.enter_context(connection)
        )
        self.answered = 0

    def step(self) -> bool:
        """Answer one message; False where none waits."""
        found = self._receive()
        if found is None:
            return False
        head, tree = found
        run = head.metadata.run_id
        message = pull_and_inflate_object_from_tree(
            tree,
            lambda name: self._pull(run, name),
            lambda name: self._confirm(run, name),
            return_type=Message,
        )
        message.metadata.__dict__["_message_id"] = head.metadata.message_id
        self.push(self._answer(message))
        self.answered += 1
        return True

    def push(self, reply: Message) -> None:
        """Send a reply, head first, then every part of it that the SuperLink asks for."""
        run = reply.metadata.run_id
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree, parts = get_object_tree(reply), get_all_nested_objects(reply)
            wanted, session = self._send(reply, tree, 0.0)
            for node in iterate_object_tree(tree):
                if node.object_id in wanted:
                    wanted.discard(node.object_id)
                    self._push(run, session, node.object_id, parts[node.object_id].deflate())

    def close(self) -> None:
        """Leave: the heartbeat ends and the node is offline."""
        self._stack.close()


class Crowd:
    """Many light devices, looked after by a few threads.

    Args:
        devices: who.
        threads: how many.
        poll: seconds between two looks of one device.
    """

    def __init__(self, devices: Sequence[LightDevice], threads: int = 8, poll: float = POLL) -> None:
        self.devices, self._poll = devices, poll
        self.errors: list[str] = []
        self._stop = threading.Event()
        shares = [list(devices[k::threads]) for k in range(min(threads, len(devices)))]
        self._threads = [threading.Thread(target=self._look, args=(share,), daemon=True) for share in shares]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop looking, and close every device."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for device in self.devices:
            device.close()

    def _look(self, share: list[LightDevice]) -> None:
        draw = random.Random(0)  # the first looks are spread, as those of devices that started by themselves
        due = {k: time.monotonic() + draw.uniform(0, self._poll) for k in range(len(share))}
        while not self._stop.is_set():
            first = min(due, key=due.__getitem__)
            if self._stop.wait(max(0.0, due[first] - time.monotonic())):
                return
            worked = False
            try:
                worked = share[first].step()
            except (httpx.HTTPError, RuntimeError, ValueError, TypeError) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            due[first] = time.monotonic() + (0.0 if worked else self._poll)


def honest(manifest: Manifest, size: float = 0.5) -> Answer:
    """Answers in the form of an honest device: numbers of a fixed norm, and nothing learned from anybody.

    Args:
        manifest: of the study.
        size: norm of an update, as a share of the clip.
    """
    count = sum(int(np.prod(spec.shape)) for spec in manifest.tensors)
    each = size * manifest.clip / max(1.0, count) ** 0.5

    def answer(message: Message) -> Message:
        if message.metadata.message_type == PRIVATE:
            return Message(RecordDict(), reply_to=message)
        person = int(message.content[CONFIG]["person"])
        values = {spec.name: np.full(spec.shape, each, spec.dtype) for spec in manifest.sent}
        return update(message, {n: v if person % 2 else -v for n, v in values.items()})

    return answer


def update(message: Message, arrays: dict[str, np.ndarray], **metrics: Any) -> Message:
    """A reply with these tensors, and `num-examples` 1 as every honest one has."""
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    content = RecordDict({ARRAYS: record, METRICS: MetricRecord({"num-examples": 1, **metrics})})
    return Message(content, reply_to=message)
