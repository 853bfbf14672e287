"""What comes back from people in a round: read, checked, and counted by whose it is.

A reply is a stranger's bytes. Whatever reading it raises, a `MemoryError` included, is a refusal of that one
reply, under one of the constant reasons below; nothing that it says is kept or logged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message

from commonground.clipping import joint_norm
from commonground.errors import EgressError
from commonground.manifest import TOLERANCE, Manifest, verify
from commonground.privacy.tail import TooLongError, cohort_reach, honest_reach
from commonground.strategies.records import read_update
from commonground.strategies.together import CohortReply

Arrays = dict[str, np.ndarray]
# Why a reply was refused: constants, for the operator.
NOT_ALLOWED, TOO_LONG = "update does not pass the manifest", "update is longer than an honest one can be"
LONGEST_TEXT = 500  # characters of an error's text: Flower's own and ours are shorter


@dataclass
class Arrivals:
    """The replies of a round.

    Attributes:
        updates: person -> the update that counts.
        refused: person -> why a reply of theirs does not; a person can have both.
        refusals: replies refused, those of nobody who was asked among them.
        errors: replies that say that there is no update.
    """

    updates: dict[int, Arrays] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    refusals: int = 0
    errors: int = 0


def arrivals(
    replies: Iterable[Message],
    drawn: Mapping[int, int],
    manifest: Manifest,
    clip: float | None,
    device_noise: float,
) -> Arrivals:
    """Read the replies of people who were asked one by one.

    Args:
        replies: as they came.
        drawn: node -> person, of those who were asked.
        manifest: what may leave a device.
        clip: the clip that this round asked for, or None.
        device_noise: standard deviation of the noise that a device adds to each number; 0 where it adds none.
    """
    found = Arrivals()
    for reply in replies:
        person = None
        try:
            person = drawn.get(reply.metadata.src_node_id)
            if reply.has_error():
                _check_error(reply)
                found.errors += 1
                continue
            if person is None or person in found.updates:
                raise EgressError("a reply from somebody not drawn, or a second one from one person")
            found.updates[person] = _update(reply, manifest, clip, device_noise)
        except Exception as error:  # whatever a stranger's bytes can raise
            found.refusals += 1
            if person is not None:
                found.refused[person] = TOO_LONG if isinstance(error, TooLongError) else NOT_ALLOWED
    return found


def _check_error(reply: Message) -> None:
    length = len(reply.error.reason)
    if length > LONGEST_TEXT:
        raise EgressError(f"an error with a text of {length} characters; accepted: {LONGEST_TEXT}")


def _update(reply: Message, manifest: Manifest, clip: float | None, device_noise: float) -> Arrays:
    update = read_update(reply, manifest)
    verify(manifest, update, bounded=not manifest.noise_on_device, clip=clip)
    if manifest.noise_on_device:  # no norm is promised there, but honest noise has a tail
        honest_reach(manifest, device_noise, clip).check(update)
    return update


def people_within_reach(
    found: CohortReply, manifest: Manifest, device_noise: float
) -> tuple[CohortReply, dict[int, str]]:
    """A cohort's updates without those that no honest device sends; whose those are, and why.

    Args:
        found: name -> (answered, *shape).
        manifest: what may leave a device.
        device_noise: as in `arrivals`.
    """
    if not found.answered:
        return found, {}
    kept = honest_reach(manifest, device_noise).holds(found.arrays)
    refused = {found.answered[place]: TOO_LONG for place in np.flatnonzero(~kept).tolist()}
    return (
        CohortReply(
            [person for person in found.answered if person not in refused],
            found.refused + len(refused),
            {name: value[kept] for name, value in found.arrays.items()},
        ),
        refused,
    )


def check_sum(found: CohortReply, manifest: Manifest, device_noise: float) -> None:
    """Raise `EgressError` where a cohort's sum is longer than honest messages add up to.

    Args:
        found: name -> sum over the people who answered.
        manifest: what may leave a device.
        device_noise: as in `arrivals`.
    """
    most = cohort_reach(manifest, device_noise, len(found.answered))
    norm = joint_norm({spec.name: found.arrays[spec.name] for spec in manifest.tensors})
    if not norm <= most * (1 + TOLERANCE):
        raise EgressError(
            f"a cohort of {len(found.answered)} sent a sum of norm {norm:.6g}; accepted: {most:.6g}"
        )
