"""The egress contract of a run, derived from its configuration."""

from __future__ import annotations

import math

import numpy as np

from commonground.bounds.charter_files import shipped_digest
from commonground.config import Config
from commonground.grid import BITS, grid_step
from commonground.manifest import Manifest, TensorSpec
from commonground.privacy.claims import SharedClaim
from commonground.training.client_half import EXTRA, ClientHalf
from commonground.training.model import PreferenceModel
from commonground.training.plan import Plan

UNBOUNDED = 1e6  # the clip where no privacy is asked for: far above any honest update, yet finite
CHARTER = "charter"  # of the digest in `Manifest.versions`


def charter_digest(config: Config) -> str:
    """Digest of the charter that bounds what a run's policies write; '' where the model writes nothing."""
    if config.bounds.charter or config.model.kind != "policy":
        return config.bounds.charter
    return shipped_digest()


def egress_manifest(
    config: Config,
    model: PreferenceModel,
    plan: Plan,
    claim: SharedClaim,
    half: ClientHalf | None,
    groups: int,
) -> Manifest:
    """What may leave a device in a run, from public things alone: operator and device build it alike.

    Args:
        config: resolved.
        model: the preference model, over any table; its shapes and digests are read.
        plan: of the local updates.
        claim: privacy of the shared adapter.
        half: the device's half of the strategy, where it has one.
        groups: how many public groups the strategy tells apart.
    """
    shared, clip, pair = plan.shared, float(config.privacy.shared.clip or 0), 0.0
    private = bool(np.isfinite(config.privacy.shared.epsilon))
    spec = model.shared_spec()
    bound = None if half is None else half.bound(clip, private)
    if shared.pair_clip is not None:  # a message is a sum of at most `cap` clipped pairs
        pair = shared.rate * shared.pair_clip / shared.expected_batch
        clip = pair * config.data.pairs_per_person
    elif claim.adaptive is not None:  # the clip is what the algorithm learns, with noise or without
        clip = clip if bound is None else min(clip, bound)
    elif bound is not None:
        clip = min(clip, bound) if private else bound
    elif not private:
        clip = UNBOUNDED
    bounded = charter_digest(config)
    sent, received = (spec, {}) if half is None else half.travels(spec, max(1, groups))
    tensors = tuple(TensorSpec(name, shape) for name, shape in sent.items())
    bits = BITS
    if pair:  # one comparison moves a rounded message by up to a step more in every number
        bits += math.ceil(math.log2(sum(math.prod(t.shape) for t in tensors)) / 2)
    return Manifest(
        tensors,
        clip=clip,
        noise_on_device=claim.noise_multiplier > 0 and config.privacy.trust == "local",
        versions=model.public_digests() | ({CHARTER: bounded} if bounded else {}),
        received=tuple(TensorSpec(name, shape) for name, shape in received.items()),
        bit=None if claim.adaptive is None else TensorSpec(f"{EXTRA}within_clip", ()),
        participation=None if claim.banded is None else (claim.banded.participations, claim.banded.band),
        grid=grid_step(deviation(claim, pair or clip), clip, bits),
    )


def deviation(claim: SharedClaim, moved: float) -> float:
    """Deviation of the noise on each number that the grid is made for; 0 without noise.

    Args:
        claim: privacy of the shared adapter.
        moved: most that one protected unit moves a sum; the clip, for a person.
    """
    if claim.adaptive is not None:
        return claim.adaptive.update_multiplier * moved
    if claim.banded is not None:
        return claim.noise_multiplier * claim.banded.sensitivity * moved
    return claim.noise_multiplier * moved
