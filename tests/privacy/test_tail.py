"""The longest honest message under local noise: what the formula says, and that honest ones are shorter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from commonground.manifest import Manifest, TensorSpec
from commonground.privacy.tail import TAIL, TooLongError, cohort_reach, honest_reach, weight_in_clips

SPECS = (TensorSpec("u", (383,)), TensorSpec("scalar", ()))
LOCAL = Manifest(SPECS, 2.5, True)
STD = 2.5 * 2.401


def message(size: float, name: str = "u") -> dict[str, np.ndarray]:
    found = {spec.name: np.zeros(spec.shape, np.float32) for spec in SPECS}
    found[name] = np.full_like(found[name], size / math.sqrt(found[name].size))
    return found


def test_the_bound_is_the_clip_and_the_tail_of_the_noise() -> None:
    """384 numbers, C = 2.5, z = 2.401: 2.5 + 6.0025 (19.596 + 6)."""
    reach = honest_reach(LOCAL, STD)
    assert reach.joint == pytest.approx(2.5 + 6.0025 * (math.sqrt(384) + 6))
    assert reach.each["scalar"] == pytest.approx(2.5 + 6.0025 * (1 + math.sqrt(36 + 2 * math.log(2))))
    assert honest_reach(LOCAL, 0.0).joint == 2.5
    assert weight_in_clips(2.401, 384) == pytest.approx(reach.joint / 2.5)
    assert weight_in_clips(0.0, 384) == 1.0
    assert cohort_reach(LOCAL, STD, 4) == pytest.approx(4 * 2.5 + 2 * 6.0025 * (math.sqrt(384) + 6))


@pytest.mark.parametrize("name", ["u", "scalar"])
def test_just_under_it_passes_and_just_over_does_not(name: str) -> None:
    """A scalar that a strategy adds has a bound of its own: it is not given the whole message's length."""
    reach = honest_reach(LOCAL, STD)
    most = min(reach.joint, reach.each[name])
    reach.check(message(0.999 * most, name))
    with pytest.raises(TooLongError, match="an honest one has at most"):
        reach.check(message(1.001 * most, name))
    for large in (3e38, float("inf"), float("nan")):
        with pytest.raises(TooLongError):
            reach.check(message(large, name))
    many = {
        key: np.stack([message(f * most, name)[key] for f in (0.9, 1.1, 0.5)]).astype(np.float32)
        for key in ("u", "scalar")
    }
    assert reach.holds(many).tolist() == [True, False, True]


@pytest.mark.parametrize("size", [1, 7, 384])
def test_honest_messages_are_shorter_and_the_tail_is_the_promised_one(size: int) -> None:
    """At t = 1 at most exp(-1/2) of 20,000 draws may be longer, at t = 3 at most exp(-9/2); at 6 none."""
    manifest = Manifest((TensorSpec("u", (size,)),), 1.0, True)
    draws = np.random.default_rng(5).standard_normal((20_000, size)) * 2.0
    draws[:, 0] += 1.0  # a clipped update of norm C
    norms = np.linalg.norm(draws, axis=1)
    for tail in (1.0, 3.0):
        share = (norms > honest_reach(manifest, 2.0, tail=tail).joint).mean()
        assert share <= math.exp(-(tail**2) / 2)
    assert norms.max() < honest_reach(manifest, 2.0, tail=TAIL).joint
