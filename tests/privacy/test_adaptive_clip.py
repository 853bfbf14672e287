"""The paper's rule in numbers, the claim that quotes it, and the words of the statement."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonground.errors import ConfigError
from commonground.privacy.accounting import epsilon_sampled_gaussian
from commonground.privacy.adaptive_clip import adaptive_clip, next_clip, update_multiplier
from commonground.privacy.claims import SharedClaim, shared_claim
from commonground.privacy.statement import statement


def claim(**changes: Any) -> SharedClaim:
    values: dict[str, Any] = {
        "people": 500, "cohort": 100, "rounds": 30, "epsilon_target": 8.0, "clip": 2.5, "adaptive": True,
    }  # fmt: skip
    return shared_claim(**values | changes)


def test_the_golden_split() -> None:
    """methods E3: z = 1, s_b = 5 gives z_Delta = 1.00504."""
    assert update_multiplier(1.0, 5.0) == pytest.approx(1.00504, abs=5e-6)
    assert update_multiplier(0.0, 0.0) == 0.0
    assert adaptive_clip(100, 1.0, 2.5).bit_noise == 5.0
    assert adaptive_clip(100, 0.0, 2.5).bit_noise == 0.0


@given(st.floats(0.05, 4.9), st.floats(50, 1e5))
def test_both_releases_together_have_the_multiplier(z: float, cohort: float) -> None:
    """Two Gaussians on one cohort compose like one: 1/z_Delta^2 + (1/2)^2/s_b^2 = 1/z^2."""
    public = adaptive_clip(cohort, z, 1.0)
    whole = public.update_multiplier**-2 + 0.25 / public.bit_noise**2
    assert whole == pytest.approx(z**-2, rel=1e-9)
    assert public.update_multiplier > z


def test_a_step_by_hand() -> None:
    """All within: C e^{-0.1}; none: C e^{0.1}; half of them: C. And never above what a device accepts."""
    assert next_clip(2.0, 1.0) == pytest.approx(2 * math.exp(-0.1))
    assert next_clip(2.0, 0.0) == pytest.approx(2 * math.exp(0.1))
    assert next_clip(2.0, 0.5) == 2.0
    public = adaptive_clip(100, 0.0, 2.1)
    assert public.after(2.0, 50.0) == pytest.approx(2 * math.exp(-0.1))
    assert public.after(2.0, -50.0) == 2.1
    assert public.start == 0.1
    assert adaptive_clip(100, 0.0, 0.05).start == 0.05
    assert adaptive_clip(100, 0.0, 2.0, 1.5).start == 1.5


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("start", [0.1, 10.0])
def test_the_clip_reaches_the_median(start: float, noisy: bool) -> None:
    """methods D2: norms LogNormal(0, 0.3), 100 replies a round; the paper's rule is at 1.007 in 60 rounds."""
    rng = np.random.default_rng(0)
    public, clip, seen = adaptive_clip(100, 1.0 if noisy else 0.0, 100.0, start), start, []
    for _ in range(60):
        bits = np.where(rng.lognormal(0, 0.3, 100) <= clip, 0.5, -0.5).sum()
        clip = public.after(clip, float(bits) + public.bit_noise * rng.standard_normal())
        seen.append(clip)
    assert np.mean(seen[-15:]) == pytest.approx(1.007, abs=0.04)
    assert clip == pytest.approx(1.0, abs=0.08)


def test_too_few_people_and_too_much_noise_are_one_line() -> None:
    with pytest.raises(ConfigError, match="cohort of 49; accepted: with at least 50 people") as few:
        claim(cohort=49)
    assert len(few.value.faults) == 1
    with pytest.raises(ConfigError, match="accepted: a cohort above"):
        claim(people=500, cohort=50, epsilon_target=0.1, rounds=200)
    for wrong in ({"trust": "local"}, {"unit": "comparison", "pair_sampling": 0.25}):
        with pytest.raises(ConfigError, match="clip_mode is adaptive with unit"):
            claim(**wrong)


def test_the_claim_costs_what_the_fixed_clip_costs() -> None:
    adapted, fixed = claim(), claim(adaptive=False)
    assert adapted.noise_multiplier == fixed.noise_multiplier
    assert adapted.epsilon == fixed.epsilon
    assert adapted.epsilon == epsilon_sampled_gaussian(adapted.noise_multiplier, 0.2, 30, adapted.delta)
    assert "adaptive" not in fixed.to_dict()
    values = adapted.to_dict()["adaptive"]
    assert adapted.adaptive is not None
    assert values == {
        "start": 0.1,
        "most": 2.5,
        "cohort": 100,
        "noise_multiplier": adapted.noise_multiplier,
        "bit_noise": 5.0,
        "update_multiplier": adapted.adaptive.update_multiplier,
        "target": 0.5,
        "rate": 0.2,
    }


def test_the_statement_says_every_number() -> None:
    found = claim()
    assert found.adaptive is not None
    text = statement(found, None, people=500, released=["u"], unit_words=[])
    for number in (found.noise_multiplier, found.adaptive.update_multiplier, 5.0, 0.1, 2.5, 0.2, 0.5):
        assert f"{number:.4g}" in text
    for words in ("s_b = 5", "z_Delta = ", "C_t is made public in every round", "begins at C_1 = 0.1"):
        assert words in text
    assert "clipped to C = 2.5" not in text
    loud = statement(claim(epsilon_target=math.inf), None, people=500, released=["u"], unit_words=[])
    assert "The clip is adapted" in loud
    assert "s_b" not in loud
    assert "adapted" not in statement(claim(adaptive=False), None, people=9, released=["u"], unit_words=[])
