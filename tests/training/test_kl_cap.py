"""Scaling a finished private adapter back to a KL: the exact factor, the estimate, what is no number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import toy_reward
from toy_models import tiny_base

from commonground.comparisons import Comparison
from commonground.randomness import normal
from commonground.training.kl_cap import FACTORS, binary_kl, divergences, held_back, k3, scaled
from commonground.training.model import Tensors
from commonground.training.people import take
from commonground.training.plan import CapPlan
from commonground.training.policy import PolicyModel
from commonground.training.public_models import PublicModels

OFF = math.inf


def toy() -> tuple[PublicModels, Tensors, Tensors]:
    model = toy_reward.with_public(toy_reward.model())
    assert model.public is not None
    shared = take({k: normal(s, 3, "moved", k) for k, s in model.shared_spec().items()}, 1)
    return model.public, shared, {"private.v": 2 * normal((3, toy_reward.DIMS), 5, "v")}


def test_k3_is_nonnegative_and_its_mean_is_the_kl() -> None:
    """Summed over every answer: sum pi ((q - 1) - ln q) = KL(pi || pi_s), whatever the two are."""
    pi, pi_s = (torch.softmax(normal((9,), seed, "k3").double(), 0) for seed in (1, 2))
    log_ratio = pi_s.log() - pi.log()
    assert bool((k3(log_ratio) >= 0).all())
    assert float(pi @ k3(log_ratio)) == pytest.approx(float(pi @ -log_ratio), abs=1e-12)
    assert k3(torch.tensor([0.0])).item() == 0


def test_kl_of_a_choice_by_hand() -> None:
    p, q = 0.8, 0.3
    wanted = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    margins = [torch.tensor(math.log(x / (1 - x)), dtype=torch.float64) for x in (p, q)]
    assert float(binary_kl(*margins)) == pytest.approx(wanted, abs=1e-14)
    assert float(binary_kl(torch.tensor(3.0), torch.tensor(3.0))) == 0


@pytest.mark.parametrize("which", ["mean", "worst"])
@pytest.mark.parametrize("wanted", FACTORS)
def test_the_exact_factor_is_found(which: str, wanted: float) -> None:
    """A cap between the KL at a factor and at the next larger one picks that factor, person by person."""
    public, shared, private = toy()
    plan, people = CapPlan(OFF, OFF), [0, 1, 2]

    def at(factor: float) -> torch.Tensor:
        own = {"private.v": factor * private["private.v"]}
        found = divergences(public, shared, own, plan, seed=0, people=people)
        return found.mean(1) if which == "mean" else found.amax(1)

    for person in range(3):
        here = 0.0 if wanted == 0 else float(at(wanted)[person])
        above = OFF if wanted == 1 else float(at(round(wanted + 0.2, 1))[person])
        middle = here + 1 if above == OFF else (here + above) / 2
        cap = CapPlan(middle, OFF) if which == "mean" else CapPlan(OFF, middle)
        held = held_back(public, shared, private, cap, seed=0, people=people)
        assert held.factor[person] == wanted
        kept = held.mean if which == "mean" else held.worst
        assert float(kept[person]) == pytest.approx(here, rel=1e-5)
        alone = {"private.v": private["private.v"][person : person + 1]}
        assert held_back(public, shared, alone, cap, seed=0, people=[person]).factor.tolist() == [wanted]


def test_a_cap_of_zero_is_the_shared_policy_and_no_cap_is_the_person_s_own() -> None:
    public, shared, private = toy()
    none = held_back(public, shared, private, CapPlan(0.0, OFF), seed=0, people=[0, 1, 2])
    assert none.factor.tolist() == [0, 0, 0]
    assert not scaled(public.probes, private, none.factor)["private.v"].any()
    everything = held_back(public, shared, private, CapPlan(OFF, OFF), seed=0, people=[0, 1, 2])
    assert torch.equal(scaled(public.probes, private, everything.factor)["private.v"], private["private.v"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_held_back_wholly(value: float) -> None:
    public, shared, private = toy()
    private["private.v"][1, 0] = value
    held = held_back(public, shared, private, CapPlan(100.0, OFF), seed=0, people=[0, 1, 2])
    assert held.factor[1] == 0
    assert held.factor[0] == 1
    kept = scaled(public.probes, private, held.factor)["private.v"]
    assert kept.isfinite().all()
    assert not kept[1].any()


PAIRS = [
    Comparison(p, "yes please", "no never", "safety", "public") for p in ("what is a tide ?", "how", "sun")
]


def policy(form: str = "lora") -> PolicyModel:
    model = PolicyModel(tiny_base(), PAIRS, layers=2, rank=2, seed=1, adapter=form)
    model.public = PublicModels(model, model, (), tuple(p.prompt for p in PAIRS), (3, 3))
    return model


def filled(model: PolicyModel, size: float, people: int = 1) -> tuple[Tensors, Tensors]:
    """A shared and private adapters, moved away from their public starts."""
    shared = {k: v[None] + 0.3 * normal(v.shape, 1, k)[None] for k, v in model.initial_shared().items()}
    private = {
        k: v.expand(people, *v.shape) + size * normal((people, *v.shape), 2, k)
        for k, v in model.initial_private().items()
    }
    return shared, private


def test_the_effect_of_a_language_model_s_adapter_is_scaled_and_its_basis_stays() -> None:
    """B A is multiplied by c once, not by c in both factors."""
    model = policy()
    _, private = filled(model, 0.5)
    half = scaled(model, private, torch.tensor([0.6]))
    for (a, b), (a2, b2) in zip(
        model.adapters.factors("private", {k: v[0] for k, v in private.items()}),
        model.adapters.factors("private", {k: v[0] for k, v in half.items()}),
        strict=True,
    ):
        assert torch.allclose(b2 @ a2, 0.6 * (b @ a), atol=1e-6)
    none = scaled(model, private, torch.tensor([0.0]))
    assert all(torch.equal(none[k][0], v) for k, v in model.initial_private().items())


def test_a_policy_s_estimate_has_the_mean_of_the_kl() -> None:
    """One token an answer: the KL is a sum over the vocabulary; 600 draws come within 4 standard errors."""
    model = policy()
    shared, private = ({k: v[0] for k, v in t.items()} for t in filled(model, 0.6))
    prompt = PAIRS[0].prompt
    ids = model.texts.prompt(prompt)
    logs = []
    size = model.decoder.model.config.vocab_size
    for own in (private, None):
        model._set(shared, own, train=None)
        logs.append(model.decoder.logps([(ids, (token,)) for token in range(size)]).detach().double())
    assert float(logs[0].exp().sum()) == pytest.approx(1, abs=1e-5)
    exact = float(logs[0].exp() @ (logs[0] - logs[1]))
    assert exact > 0.02
    ratios = torch.cat(
        [model.answer_ratios([prompt] * 60, shared, private, tokens=1, seed=seed) for seed in range(10)]
    )
    found = k3(ratios)
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / math.sqrt(len(found))
    plain = model.answer_ratios([prompt], shared, model.initial_private(), tokens=3, seed=1)
    assert abs(float(plain)) < 1e-4  # the public start is the shared policy


def test_a_policy_is_scaled_back_person_by_person() -> None:
    model = policy()
    shared, private = filled(model, 0.8, people=2)
    assert model.public is not None
    free = CapPlan(OFF, OFF, tokens=4)
    found = divergences(model.public, shared, private, free, seed=3, people=[4, 9])
    assert found.shape == (2, 3)
    caps = CapPlan(float(found.mean(1).min()) / 2, OFF, tokens=4)
    together = held_back(model.public, shared, private, caps, seed=3, people=[4, 9])
    assert together.factor.max() < 1
    for place, person in enumerate((4, 9)):
        alone = {k: v[place : place + 1] for k, v in private.items()}
        one = held_back(model.public, shared, alone, caps, seed=3, people=[person])
        assert one.factor[0] == together.factor[place]
        assert one.mean[0] == together.mean[place]
        assert float(one.mean[0]) <= caps.mean
    again = held_back(model.public, shared, private, caps, seed=3, people=[4, 9])
    assert np.array_equal(again.mean.numpy(), together.mean.numpy())
