"""What passes between the Flower node and the app of this device, checked once more on both ways.

A reply is never passed on: it is built anew from what was checked, so that nothing else of it can carry
anything. What may be in it is what the vault's own manifest says, one constant metric, or one of the constant
errors of `commonground.client.handlers`; everything else becomes a constant refusal.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Error, Message, RecordDict

from commonground.client.handlers import FAILED, FAILED_REASON, REFUSED, REFUSED_REASON
from commonground.errors import EgressError
from commonground.manifest import Manifest, verify
from commonground.strategies.records import CONFIG, read_update, train_content

SHARED, PRIVATE = "train", "train.private"
KINDS = (SHARED, PRIVATE)
CONSTANTS = {FAILED: FAILED_REASON, REFUSED: REFUSED_REASON}
SLACK, LEAST = 1.1, 1 << 20  # a tenth and a megabyte above the tensors themselves: heads, names, the release
OBJECTS = 64  # objects that a message has beside its tensors


class OversizedError(EgressError):
    """A message is larger than the study's manifest has any use for."""


class Allowance:
    """How much of one incoming message is pulled from the node before it is refused.

    Args:
        manifest: the vault's.
    """

    def __init__(self, manifest: Manifest) -> None:
        tensors = manifest.broadcast
        size = sum(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in tensors)
        self._left = self._bytes = int(SLACK * size) + LEAST
        self._objects = OBJECTS + 4 * len(tensors) + self._bytes // LEAST

    def count(self, objects: int) -> None:
        """How many objects the message consists of; raises `OversizedError` where they are too many."""
        if objects > self._objects:
            raise OversizedError(f"a message of {objects} parts; the manifest needs {self._objects} at most")

    def take(self, content: bytes) -> bytes:
        """Count an object; raises `OversizedError` where it is one too much."""
        self._left -= len(content)
        if self._left < 0:
            raise OversizedError(f"a message of more than the {self._bytes} bytes that the manifest needs")
        return content


def guarded(reply: Message, asked: Message, manifest: Manifest | None) -> Message:
    """The reply that may leave, built anew.

    Args:
        reply: what the app answered.
        asked: what the server asked.
        manifest: the vault's; None where it could not be had.

    Returns:
        A message with the manifest's tensors, an empty one, or an error with a constant text.

    Raises:
        EgressError: the reply is anything else; the message is for this device's own log.
    """
    kind = asked.metadata.message_type
    if reply.has_error():
        if CONSTANTS.get(reply.error.code) != reply.error.reason:
            raise EgressError(f"the app answers error {reply.error.code} with a text that is no constant")
        return Message(Error(reply.error.code, CONSTANTS[reply.error.code]), reply_to=asked)
    if kind == PRIVATE:
        if len(reply.content):
            raise EgressError(f"the private phase answers records {sorted(reply.content)}; accepted: none")
        return Message(RecordDict(), reply_to=asked)
    if kind != SHARED or manifest is None:
        raise EgressError(f"a reply to a message of type {kind!r} may not leave without a manifest")
    tensors = read_update(reply, manifest)
    config = asked.content[CONFIG]
    clip = float(config["clip"]) if "clip" in config else None
    verify(manifest, tensors, bounded=not manifest.noise_on_device, clip=clip)
    return Message(train_content(tensors), reply_to=asked)


def refusal(asked: Message, code: int = REFUSED) -> Message:
    """The constant error with one of the known codes."""
    return Message(Error(code, CONSTANTS[code]), reply_to=asked)
