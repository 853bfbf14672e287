"""What a private adapter's claim is worth where the same comparisons are elsewhere too.

A private adapter is shown together with the shared one that it stands on. Where taste comparisons enter the
shared update as well, what one of them costs is both releases together. A claim for one person bounds the
change of one comparison of hers too, but not by adding or removing her: she is in under both, with another
message, which may move by twice the clip. So that part is a *replacement*.

Where the same comparison reaches the eye without any noise (no noise on the shared adapter, choices that
shared training saw as they are, parts of an adapter that a device trains freely), no number holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from commonground.privacy.accounting import Charge, epsilon_together
from commonground.privacy.claims import SharedClaim
from commonground.privacy.private_claims import PrivateClaim

NO_NOISE = (
    "taste comparisons are in the shared update too, which has no noise, and a private adapter stands on the "
    "shared one"
)
UNFLIPPED = (
    "shared training learns from the same choices as they are, before any is turned round, and a private "
    "adapter stands on the shared one"
)
OWN_PART = (
    "the strategy keeps parts of the adapter on each device that learn without noise, a private adapter is "
    "trained on top of them, and both are used together"
)


def beside_shared(
    private: PrivateClaim, shared: SharedClaim, tags: Sequence[str], own_part: bool = False
) -> PrivateClaim:
    """The private claim towards somebody who sees the shared adapter as well.

    Args:
        private: the claim of private training alone.
        shared: of the shared adapter.
        tags: what the shared adapter learns from.
        own_part: whether devices keep a part of the adapter, beside the private one, that learns freely.

    Returns:
        The same claim where nothing else learns from taste; else one with the cost of both, or with an
        infinite epsilon and the reason in `why`.
    """
    if math.isinf(private.epsilon):
        return private
    if own_part:
        return replace(private, epsilon=math.inf, why=OWN_PART)
    if "taste" not in tags:
        return private
    if shared.noise_multiplier == 0:
        return replace(private, epsilon=math.inf, why=NO_NOISE)
    if private.mechanism == "label":
        return replace(private, epsilon=math.inf, why=UNFLIPPED)
    added, replaced = one_comparison(shared)
    own = private.charge(private.steps)
    epsilon = epsilon_together([own, *added], replaced, private.delta)
    return replace(private, epsilon=epsilon, beside=added, replaced=replaced)


def one_comparison(shared: SharedClaim) -> tuple[tuple[Charge, ...], tuple[Charge, ...]]:
    """What the whole shared adapter costs one comparison: charges of adding or removing it, of replacing."""
    whole = shared.charge(shared.most)
    if shared.unit == "comparison":
        return (whole,), ()
    if shared.participations is not None and shared.banded is None:  # its charge is one of replacing already
        return (whole,), ()
    if whole.sampling < 1:
        return (), (whole,)
    return (whole._replace(noise_multiplier=whole.noise_multiplier / 2),), ()
