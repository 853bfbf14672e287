"""The hooks of the shared phase, and what a client half sees of people."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import toy_reward

from commonground.comparisons import TAGS, Tag
from commonground.losses import LossSettings
from commonground.training.client_half import Answer, ClientHalf, Visit, answer, initial, shrink, split
from commonground.training.people import People
from commonground.training.plan import Plan, PrivatePlan, SharedPlan
from commonground.training.shared_phase import shared_phase
from commonground.training.steering import Steering

SETTINGS = LossSettings(beta=1.0)


def plan(**changes: object) -> Plan:
    values: dict[str, object] = {"tags": ("safety", "taste"), "steps": 3, "rate": 0.5, "batch": None}
    shared = SharedPlan(loss="bradley_terry", settings=SETTINGS, **{**values, **changes})  # type: ignore[arg-type]
    private = PrivatePlan(("taste",), 4, 2, 1.0, 9, 1.0, 0.0, 0.1, 0.0, "bradley_terry", SETTINGS)
    return Plan(shared, private)


def visit(people: People | None = None, **changes: object) -> Visit:
    model, crowd = toy_reward.model(), people or toy_reward.crowd()
    start = {name: torch.randn(value.shape) * 0 + 0.3 for name, value in model.initial_shared().items()}
    groups = torch.zeros(len(crowd.index), dtype=torch.int64)
    return Visit(model, crowd, start, {}, {}, groups, 1.0, None, plan(**changes), 1)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_steering_that_does_nothing_changes_no_bit(optimiser: str) -> None:
    one = visit(optimiser=optimiser)
    plain, _ = one.train()
    held = Steering(steps=torch.full((3,), 3), watch=True)
    for steering in (Steering(), held):
        steered, _ = one.train(steering)
        assert all(torch.equal(plain[name], steered[name]) for name in plain)


def test_what_is_seen_is_the_mean_gradient() -> None:
    """With SGD the update is -K eta times it."""
    one, steering = visit(), Steering(watch=True)
    moved, _ = one.train(steering)
    for name, value in moved.items():
        torch.testing.assert_close(value, -3 * 0.5 * steering.seen[name], atol=1e-6, rtol=1e-5)


def test_a_constant_is_added_to_every_gradient() -> None:
    one = visit(steps=1)
    plain, _ = one.train()
    constant = {name: torch.full_like(value, 0.2) for name, value in plain.items()}
    steered, _ = one.train(Steering(constant=constant))
    for name, value in plain.items():
        torch.testing.assert_close(steered[name], value - 0.1)


def test_a_pull_holds_people_back_after_the_first_step() -> None:
    free, _ = visit(steps=6).train()
    held, _ = visit(steps=6).train(Steering(pull=0.5))
    one, _ = visit(steps=1).train()
    same, _ = visit(steps=1).train(Steering(pull=0.5))
    for name, value in free.items():
        assert float(held[name].norm()) < float(value.norm())
        assert torch.equal(one[name], same[name])


def test_people_stop_after_their_own_steps() -> None:
    three, _ = visit().train()
    one, _ = visit(steps=1).train()
    mixed, _ = visit().train(Steering(steps=torch.tensor([1, 3, 1])))
    for name in three:
        assert torch.equal(mixed[name][1], three[name][1])
        torch.testing.assert_close(mixed[name][[0, 2]], one[name][[0, 2]])


def test_a_clipped_step_a_pair_cannot_be_steered() -> None:
    one = visit()
    shared = plan(pair_clip=1.0).shared
    with pytest.raises(ValueError, match="cannot be steered"):
        shared_phase(one.model, one.people, one.shared, shared, seed=0, round=1, steering=Steering())


def test_surprise_is_ln_2_at_the_base_policy_and_the_mean_of_tags_elsewhere() -> None:
    one = visit()
    base = Visit(**{**vars(one), "shared": one.model.initial_shared()})
    assert base.surprise().tolist() == pytest.approx([math.log(2)] * 3)
    found = one.surprise()
    for person in range(3):
        rows = one.people.rows[person]
        by_tag = []
        for tag in TAGS:
            alone = Visit(**{**vars(one), "people": People((0,), ({**_none(), tag: rows[tag]},))})
            by_tag.append(float(alone.surprise()))
        assert float(found[person]) == pytest.approx(np.mean(by_tag), abs=1e-6)


def test_nobody_is_surprised_by_nothing() -> None:
    crowd = People((0, 1), ({**_none(), "safety": np.arange(3)}, _none()))
    one = visit(crowd)
    assert one.learns.tolist() == [True, False]
    assert one.surprise().tolist()[1] == 0.0
    moved, _ = one.train(Steering(constant={n: torch.ones(2, *v.shape) for n, v in one.shared.items()}))
    assert all((value[1] == 0).all() and (value[0] != 0).any() for value in moved.values())


def _none() -> dict[Tag, np.ndarray]:
    return {tag: np.zeros(0, np.int64) for tag in TAGS}


def test_shrink_is_the_manifests_factor() -> None:
    update = {"a": torch.tensor([[3.0], [0.3], [float("nan")]]), "b": torch.tensor([4.0, 0.4, 1.0])}
    assert shrink(update, 1.0).tolist() == pytest.approx([0.2, 1.0, 0.0])


class Half(ClientHalf):
    """Sends one number more."""

    def sent(self, shared: dict[str, tuple[int, ...]], groups: int) -> dict[str, tuple[int, ...]]:
        return {"extra.n": (groups,)}

    def update(self, visit: Visit) -> Answer:
        moved, after = visit.train()
        return Answer(moved | {"extra.n": torch.ones(len(visit.people.index), 2)}, after)


def test_defaults_of_a_half() -> None:
    one, half = visit(), Half()
    assert answer(None, one).update.keys() == one.shared.keys()
    assert answer(half, one).update.keys() == one.shared.keys() | {"extra.n"}
    assert (half.received({}, 2), half.kept({}), half.first({}, 2)) == ({}, {}, {})
    assert half.bound(1.0, True) is None
    first = initial(half, {"u": (3,)}, 2)
    assert [(n, v.dtype.name, v.tolist()) for n, v in first.items()] == [("extra.n", "float32", [0.0, 0.0])]
    own, received = split({"u": torch.ones(3), "extra.n": torch.zeros(2)}, {"u": (3,)})
    assert (list(own), list(received)) == (["u"], ["extra.n"])
