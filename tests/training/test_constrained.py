"""Constrained DPO: a price by hand, a tight constraint, and nothing else changed by it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_reward

from commonground.losses import LossSettings, get_loss
from commonground.randomness import normal
from commonground.training.constrained import Constraint, first_dual
from commonground.training.model import Rows, Tensors
from commonground.training.people import take
from commonground.training.plan import ConstraintPlan, PrivatePlan
from commonground.training.private_phase import PrivateState, first_private, private_phase
from commonground.training.reward import RewardModel

SETTINGS = LossSettings(beta=1.0)
PLAN = PrivatePlan(
    tags=("taste",), steps=400, steps_per_visit=2, sampling=1.0, cap=8, clip=math.inf, noise_multiplier=0.0,
    rate=0.5, ridge=0.02, loss="bradley_terry", settings=SETTINGS, average_from=1.0,
)  # fmt: skip
TIGHT = ConstraintPlan(tolerance=0.0, beta=1.0, rate=1.0)


def toy() -> tuple[RewardModel, Tensors]:
    """Three people's model with public pairs, and a shared adapter away from its start."""
    model = toy_reward.with_public(toy_reward.model())
    return model, take({k: normal(s, 3, "moved", k) for k, s in model.shared_spec().items()}, 1)


def constraint(model: RewardModel, shared: Tensors, plan: ConstraintPlan, people: int = 3) -> Constraint:
    assert model.public is not None
    frozen = {k: v.expand(people, *v.shape[1:]) for k, v in shared.items()}
    return Constraint(model.public, tuple(range(people)), frozen, plan, 0, "private")


def trained(model: RewardModel, shared: Tensors, plan: PrivatePlan) -> PrivateState:
    start = first_private(model, 3, plan)
    return private_phase(model, toy_reward.crowd(), shared, start, plan, seed=0, steps=plan.steps)


def test_the_chance_and_its_gradient_by_hand() -> None:
    """g = mean of sigma(beta (margin of shared + v . x)) over the public pairs that train."""
    model, shared = toy()
    plan = replace(TIGHT, beta=0.7, tolerance=0.1)
    own = constraint(model, shared, plan)
    assert model.public is not None
    features = model.public.trains.features  # type: ignore[attr-defined]
    x = features.private[features.chosen] - features.private[features.rejected]
    block = features.block["safety"]
    base = (block[features.chosen] - block[features.rejected]) @ shared["shared.safety.u"][0]
    v = normal((3, toy_reward.DIMS), 1, "v")
    leaf = v.double().requires_grad_()
    chance = torch.sigmoid(0.7 * (base.double()[None] + leaf @ x.double().T)).mean(1)
    assert torch.allclose(own.chance({"private.v": v}), chance.detach(), atol=1e-6)
    plain = torch.sigmoid(0.7 * base.double()).mean()
    assert torch.allclose(own.floor, (plain - 0.1).expand(3), atol=1e-6)
    dual: Tensors = {
        "price": torch.tensor([0.5, 0.0, 19.999], dtype=torch.float64),
        "seen": torch.tensor([0.4, 0.9, 0.0], dtype=torch.float64),
        "used": torch.tensor([1.0, 0.0, 20.0], dtype=torch.float64),
    }
    steps = torch.tensor([3, 3, 3])
    pulled, after = own.pull({"private.v": v}, dual, steps)
    seen = 0.9 * dual["seen"] + 0.1 * chance.detach()
    price = (dual["price"] + (plain - 0.1) - seen).clamp(0, 20)
    used = 0.9 * dual["used"] + 0.1 * price
    for name, wanted in (("seen", seen), ("price", price), ("used", used)):
        assert torch.allclose(after[name], wanted, atol=1e-6), name
    assert price[1] == 0  # never negative
    assert price[2] == 20  # never above lam_max
    slope = torch.autograd.grad(chance.sum(), leaf)[0]
    assert torch.allclose(pulled["private.v"].double(), -used[:, None] * slope, atol=1e-6)
    first = own.pull({"private.v": v}, first_dual(3, plan), torch.zeros(3, dtype=torch.int64))[1]
    assert torch.allclose(first["seen"], chance.detach(), atol=1e-6)  # nothing was seen before


def test_the_constraint_is_tight_and_its_price_is_the_multiplier() -> None:
    """Karush-Kuhn-Tucker at the end: taste pulls exactly as hard as the price of the constraint."""
    model, shared = toy()
    free = trained(model, shared, PLAN)
    held = trained(model, shared, replace(PLAN, constraint=TIGHT, steps=1500))
    own = constraint(model, shared, TIGHT)
    lost = (own.floor - own.chance(free.adapter)).tolist()
    kept = (own.floor - own.chance(held.adapter)).tolist()
    assert lost[0] > 0.015  # without the constraint person 0 loses, the others do not
    assert max(lost[1:]) < 0
    assert abs(kept[0]) < 1e-3
    assert held.dual["price"][0] > 1
    people = toy_reward.crowd()
    index = torch.from_numpy(people.rows[0]["taste"])[None]
    v = {"private.v": held.adapter["private.v"][:1]}
    rows = Rows(index, torch.ones(index.shape), torch.zeros(index.shape))
    loss = get_loss("bradley_terry")
    _, gradients = model.pair_gradients(rows, shared, v, "private", loss, SETTINGS)
    taste = gradients["private.v"][0].mean(0) + PLAN.ridge * v["private.v"][0]
    assert model.public is not None
    public = model.public.rows(model.public.trains, 1)
    pull = constraint(model, shared, TIGHT, 1)._chance(v, public)[1]["private.v"][0]
    assert torch.allclose(taste, -held.dual["used"][0].float() * pull, atol=2e-3)
    assert float(taste.norm()) > 0.02  # and that is not because both are nothing


def test_who_does_not_break_it_is_left_bit_for_bit() -> None:
    model, shared = toy()
    free, held = trained(model, shared, PLAN), trained(model, shared, replace(PLAN, constraint=TIGHT))
    same = [torch.equal(free.adapter["private.v"][p], held.adapter["private.v"][p]) for p in range(3)]
    assert same == [False, True, True]
    assert held.dual["price"].tolist()[1:] == [0, 0]


def test_the_price_stays_in_the_private_state_and_is_kept_between_visits() -> None:
    model, shared = toy()
    plan = replace(PLAN, constraint=TIGHT, noise_multiplier=0.5, clip=0.3, steps=6)
    state = trained(model, shared, plan)
    arrays = state.to_arrays()
    assert {"dual/price", "dual/seen", "dual/used"} <= set(arrays)
    assert PrivateState.from_arrays(arrays).to_arrays().keys() == arrays.keys()
    assert not any(name.startswith("dual/") for name in trained(model, shared, PLAN).to_arrays())
    assert set(model.shared_spec()).isdisjoint(state.dual)


def test_spent_lifetimes_keep_their_price() -> None:
    model, shared = toy()
    plan = replace(PLAN, constraint=TIGHT, steps=4)
    state = trained(model, shared, plan)
    mixed = replace(state, steps=torch.tensor([4, 2, 4]))
    after = private_phase(model, toy_reward.crowd(), shared, mixed, plan, seed=0, steps=1)
    assert torch.equal(after.dual["seen"][[0, 2]], state.dual["seen"][[0, 2]])
    assert after.dual["seen"][1] != state.dual["seen"][1]


def test_noise_and_draws_are_those_of_the_plan_without_it() -> None:
    """The first step has price 0: with the constraint it has the same bits, noise and draws included."""
    model, shared = toy()
    noisy = replace(PLAN, noise_multiplier=0.8, clip=0.3, sampling=0.5, cap=8, steps=1)
    plain = trained(model, shared, noisy)
    held = trained(model, shared, replace(noisy, constraint=TIGHT))
    assert torch.equal(plain.adapter["private.v"], held.adapter["private.v"])


@pytest.mark.parametrize("batch", [3, 8, 99])
def test_a_batch_of_public_pairs_is_drawn_for_each_person_and_step(batch: int) -> None:
    model, shared = toy()
    own = constraint(model, shared, replace(TIGHT, batch=batch))
    drawn = own._drawn(torch.tensor([0, 1, 1]))
    assert drawn.mask.sum(1).tolist() == [min(batch, 8)] * 3
    again = own._drawn(torch.tensor([0, 1, 1]))
    assert torch.equal(drawn.mask, again.mask)
    if batch == 3:
        assert len({tuple(row) for row in drawn.mask.tolist()}) > 1
    v = {"private.v": normal((3, toy_reward.DIMS), 1, "v")}
    chance, gradients = own._chance(v, drawn)
    for p in range(3):  # the mean over what was drawn, by the pairs one by one
        ones = []
        for place in np.flatnonzero(drawn.mask[p].numpy()):
            mask = torch.zeros(3, 8)
            mask[:, place] = 1
            ones.append(own._chance(v, Rows(drawn.index, mask, drawn.flip)))
        assert math.isclose(
            float(chance[p]), float(np.mean([float(one[0][p]) for one in ones])), abs_tol=1e-6
        )
        wanted = torch.stack([one[1]["private.v"][p] for one in ones]).mean(0)
        assert torch.allclose(gradients["private.v"][p], wanted, atol=1e-6)


def test_a_plan_that_needs_public_pairs_says_so() -> None:
    with pytest.raises(ValueError, match="public pairs, and the model was given none"):
        private_phase(
            toy_reward.model(), toy_reward.crowd(), None,
            first_private(toy_reward.model(), 3, replace(PLAN, constraint=TIGHT)),
            replace(PLAN, constraint=TIGHT), seed=0, steps=1,
        )  # fmt: skip
