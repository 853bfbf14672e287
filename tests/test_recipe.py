"""What a configuration means: defaults by model and form, and the plan of local updates."""

from __future__ import annotations

import math

import pytest

from commonground.adapters import FORMS
from commonground.privacy.claims import private_claim, shared_claim
from commonground.recipe import POLICY, POLICY_STYLES, make_plan, resolve
from commonground.rules import value_of
from commonground.settings import load_config
from commonground.training.plan import Plan


def plan_of(*words: str) -> Plan:
    config = resolve(load_config(None, ["people=20", *words]))
    private = config.privacy.private
    shared = shared_claim(people=20, cohort=4, rounds=2, epsilon_target=math.inf, delta=1e-2)
    own = private_claim(
        mechanism=private.mechanism,
        epsilon_target=float(private.epsilon or 0),
        sampling=float(private.sampling or 1),
        steps=int(private.steps or 0),
    )
    return make_plan(config, ["safety"], shared, own)


def test_coefficients_on_styles_have_defaults_of_their_own_and_the_user_wins() -> None:
    full = resolve(load_config(None, ["model.kind=policy", "model.adapter=styles"]))
    for key, default in (POLICY | POLICY_STYLES).items():
        assert value_of(full, key) == default
    assert resolve(full) == full
    own = resolve(load_config(None, ["model.kind=policy", "model.adapter=styles", "privacy.private.steps=3"]))
    assert own.privacy.private.steps == 3
    assert own.privacy.private.rate == POLICY_STYLES["privacy.private.rate"]
    for words in (["model.kind=policy", "model.adapter=core"], ["model.kind=reward"]):  # reward: no styles
        assert resolve(load_config(None, words)).privacy.private.rate != own.privacy.private.rate


def test_only_what_was_found_private_and_good_is_private_by_default() -> None:
    found = {a: resolve(load_config(None, ["model.kind=policy", f"model.adapter={a}"])) for a in FORMS}
    assert {a: full.privacy.private.epsilon for a, full in found.items()} == {
        "lora": math.inf,
        "core": math.inf,
        "styles": 8.0,
    }
    assert resolve(load_config(None, ["model.kind=policy"])) == found["styles"]


@pytest.mark.parametrize("epsilon", ["8", "inf"])
def test_coefficients_take_plain_clipped_steps_whether_noisy_or_not(epsilon: str) -> None:
    """One rate then serves both, and Adam would blow noise up to a full step."""
    private = plan_of(
        "model.kind=policy", "model.adapter=styles", f"privacy.private.epsilon={epsilon}"
    ).private
    assert private.optimiser == "sgd"
    assert private.clip == POLICY_STYLES["privacy.private.clip"]
    assert private.decay
    assert (private.noise_multiplier > 0) == (epsilon == "8")


@pytest.mark.parametrize("adapter", ["lora", "core"])
def test_other_private_adapters_take_adam_and_clip_only_under_noise(adapter: str) -> None:
    plain, noisy = (
        plan_of("model.kind=policy", f"model.adapter={adapter}", f"privacy.private.epsilon={e}").private
        for e in ("inf", "8")
    )
    assert plain.optimiser == noisy.optimiser == "adam"
    assert (plain.clip, noisy.clip) == (math.inf, POLICY["privacy.private.clip"])


def test_a_round_asks_a_device_for_as_much_however_many_others_there_are() -> None:
    """Decoupled, nobody waits for the private adapters; joint, half of a lifetime has to fit the visits."""
    words = ["cohort=4", "rounds=5", "privacy.private.steps=40"]
    few, many = (plan_of(*words, f"people={people}").private.steps_per_visit for people in (8, 4000))
    assert few == many == 4
    joint = [*words, "schedule=joint"]
    few, many = (plan_of(*joint, f"people={people}").private.steps_per_visit for people in (8, 4000))
    assert (few, many) == (8, 20)


@pytest.mark.parametrize("kind", ["reward", "policy"])
def test_the_plan_draws_flips_and_noises_as_the_claim_was_made_for(kind: str) -> None:
    """What is charged is computed from the claim, and what is done from the plan."""
    words = (f"model.kind={kind}", "privacy.private.epsilon=8", "privacy.private.sampling=0.125")
    noisy = plan_of(*words).private
    own = private_claim(mechanism="dp_sgd", epsilon_target=8.0, sampling=0.125, steps=noisy.steps)
    assert (noisy.sampling, noisy.noise_multiplier, noisy.flip_probability) == (
        own.sampling, own.noise_multiplier, 0.0
    )  # fmt: skip
    if kind == "reward":
        label = plan_of("privacy.private.mechanism=label", "privacy.private.epsilon=2").private
        assert label.flip_probability == pytest.approx(1 / (1 + math.exp(2)), rel=1e-6)
        assert label.noise_multiplier == 0
