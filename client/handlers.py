"""What a node answers. Every reply is one of four: a sealed update or one of three constants.

The client half of the person-level wrapper in `commonground.strategies.person_dp`.

The two phases are two messages, so that the sealed update has left before anything private is trained.
Nothing that happens in the private phase, an exception or a stall included, can change a byte of what
leaves: its only answer is a constant. Exceptions never travel (their texts hold content); they are
logged on this machine.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
from flwr.app import Error, Message, MetricRecord, RecordDict

from commonground.client.devices import Device, open_device
from commonground.errors import EgressError
from commonground.manifest import Sealed
from commonground.strategies.records import ARRAYS, CONFIG, METRICS, from_outside, to_record

log = logging.getLogger("commonground.client")

FAILED, REFUSED = 1001, 1002  # our own codes; Flower's are below 100
FAILED_REASON = "the shared phase failed on the device"
REFUSED_REASON = "the device refused the message"
OTHER_MANIFEST, OTHER_CLIP = "another manifest", "another clip"
SHARED_FAILED, PRIVATE_FAILED = "the shared phase failed", "the private phase failed"

refusals: Counter[str] = Counter()  # by reason, since this process began: for the owner, never for the server


def sealed_content(sealed: Sealed) -> RecordDict:
    """The only conversion from a device's update to Flower records; anything but a `Sealed` is refused."""
    # The exact type: a subclass could carry other tensors than those that were checked.
    if type(sealed) is not Sealed:
        raise EgressError(f"a {type(sealed).__name__} may not leave; only a Sealed of manifest.seal() may")
    return RecordDict({ARRAYS: to_record(sealed.tensors), METRICS: MetricRecord(dict(sealed.metrics))})


def shared_phase(message: Message) -> Message:
    """Answer a shared-phase message with the person's sealed update, or with a constant."""
    try:
        round, person = _read(message)
        device = open_device(person)
        if not _same_manifest(message, device):
            log.warning("person %d, round %d: the server's manifest is not ours; refused", person, round)
            refusals[OTHER_MANIFEST] += 1
            return _constant(REFUSED, REFUSED_REASON, message)
        asked = _asked(message)
        try:
            device.manifest.accepted(asked.get("clip"))
        except EgressError as error:
            log.warning("person %d, round %d: %s; refused", person, round, error)
            refusals[OTHER_CLIP] += 1
            return _constant(REFUSED, REFUSED_REASON, message)
        sealed = device.shared_update(round, _shared(message, device), **asked)
        return Message(sealed_content(sealed), reply_to=message)
    except (Exception, SystemExit):
        log.warning("shared phase failed", exc_info=True)
        refusals[SHARED_FAILED] += 1
        return _constant(FAILED, FAILED_REASON, message)


def private_phase(message: Message) -> Message:
    """Run the private phase; the answer is always the same."""
    try:
        round, person = _read(message)
        device = open_device(person)
        if _same_manifest(message, device):
            final = bool(message.content[CONFIG]["final"])
            device.private_update(round, _shared(message, device), final, **_release(message))
        else:
            log.warning("person %d, round %d: the server's manifest is not ours; refused", person, round)
            refusals[OTHER_MANIFEST] += 1
    except (Exception, SystemExit):
        log.warning("private phase failed", exc_info=True)
        refusals[PRIVATE_FAILED] += 1
    return Message(RecordDict(), reply_to=message)


def _read(message: Message) -> tuple[int, int]:
    config = message.content[CONFIG]
    return int(config["round"]), int(config["person"])


def _shared(message: Message, device: Device) -> dict[str, np.ndarray]:
    """The server's arrays, by this device's own manifest."""
    return from_outside(message.content[ARRAYS], device.manifest.broadcast, "the server's message")


def _asked(message: Message) -> dict[str, Any]:
    """What the server sends beside the adapter: this round's clip, where adapted, and the signed release."""
    config = message.content[CONFIG]
    return ({"clip": float(config["clip"])} if "clip" in config else {}) | _release(message)


def _release(message: Message) -> dict[str, str]:
    config = message.content[CONFIG]
    return {"release": str(config["release"])} if "release" in config else {}


def _same_manifest(message: Message, device: Device) -> bool:
    return bool(message.content[CONFIG]["manifest"] == device.manifest.digest)


def _constant(code: int, reason: str, message: Message) -> Message:
    return Message(Error(code, reason), reply_to=message)
