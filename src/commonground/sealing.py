"""From an update to the message that leaves, in one place for devices, simulations and the fleet.

The order is: the clip of the round, which the manifest must allow; clip, and round to the grid; the device's
own noise, where the manifest says that it adds it; seal. Nothing else builds a message out of an update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from commonground.clipping import clip_update, clip_updates, joint_norm, joint_norms, within_bits
from commonground.manifest import Manifest, Sealed, SealedBatch, seal, seal_many
from commonground.privacy.mechanisms import gaussian_noise, noise_on_grid
from commonground.randomness import Streams

Arrays = dict[str, np.ndarray]
Draw = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def clip_for(manifest: Manifest, update: Mapping[str, np.ndarray], clip: float) -> Arrays:
    """The clipped update on the grid, and the bit where there is one: was it within `clip` before?"""
    found = clip_update(update, clip, manifest.step(clip))
    if manifest.bit is not None:
        found[manifest.bit.name] = within_bits(np.asarray(joint_norm(update)), clip)
    return found


def clip_for_many(manifest: Manifest, updates: Mapping[str, np.ndarray], clip: float) -> Arrays:
    """`clip_for` for many people at once: name -> (P, *shape)."""
    found = clip_updates(updates, clip, manifest.step(clip))
    if manifest.bit is not None:
        found[manifest.bit.name] = within_bits(joint_norms(updates), clip)
    return found


def seal_update(
    manifest: Manifest,
    update: Mapping[str, np.ndarray],
    *,
    round: int,
    clip: float | None = None,
    deviation: float = 0.0,
    draw: Draw | None = None,
) -> Sealed:
    """The sealed message of one device.

    Args:
        manifest: what may leave.
        update: name -> array, as it was trained.
        round: the round it answers.
        clip: the clip that the server asked for; None where the manifest has one for all rounds.
        deviation: of the device's noise on each number, where it adds any.
        draw: makes standard normals of the clipped update, name -> float64 array of its shapes; called
            only where the device adds noise.

    Raises:
        EgressError: the manifest does not allow the clip or the message.
        InputError: the noise has no finite deviation.
    """
    clipped = clip_for(manifest, update, manifest.accepted(clip))
    noise = _noise(manifest, clipped, deviation, draw)
    return seal(manifest, clipped, round=round, noise=noise, clip=clip)


def seal_updates(
    manifest: Manifest,
    updates: Mapping[str, np.ndarray],
    *,
    round: int,
    clip: float | None = None,
    deviation: float = 0.0,
    draw: Draw | None = None,
) -> SealedBatch:
    """`seal_update` for many people at once: name -> (P, *shape)."""
    clipped = clip_for_many(manifest, updates, manifest.accepted(clip))
    noise = _noise(manifest, clipped, deviation, draw)
    return seal_many(manifest, clipped, round=round, noise=noise, clip=clip)


def seeded_normals(manifest: Manifest, seed: int, people: Sequence[int], round: int) -> Arrays:
    """The reproducible draws of simulated people's devices, name -> (P, *shape) float64 standard normal."""
    found = Arrays()
    for spec in manifest.tensors:
        streams = Streams(seed, ["device noise"], [spec.name])
        found |= gaussian_noise({spec.name: spec.shape}, (streams.at(round, person) for person in people))
    return found


def _noise(manifest: Manifest, clipped: Arrays, deviation: float, draw: Draw | None) -> Arrays | None:
    if not manifest.noise_on_device or draw is None:
        return None
    normals = draw({spec.name: clipped[spec.name] for spec in manifest.tensors})
    return {name: noise_on_grid(value, deviation, manifest.grid) for name, value in normals.items()}
