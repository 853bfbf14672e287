"""The local update: clipping and noise by hand (methods E1), lifetimes, schedules, chunks of people."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import toy_reward

from commonground.comparisons import Tag
from commonground.losses import LossSettings, get_loss
from commonground.randomness import normal
from commonground.training import optimiser
from commonground.training.model import Batch, Rows, Tensors
from commonground.training.plan import ConstraintPlan, Plan, PrivatePlan, Schedule, SharedPlan
from commonground.training.reward import RewardModel
from commonground.training.update import (
    People,
    PrivateState,
    first_private,
    private_phase,
    release_ready,
    shared_phase,
    take,
    visit,
)

SETTINGS = LossSettings(beta=1.0, flip=0.2)
PRIVATE = PrivatePlan(
    tags=("taste",), steps=6, steps_per_visit=2, sampling=1.0, cap=8, clip=math.inf, noise_multiplier=0.0,
    rate=0.5, ridge=0.0, loss="bradley_terry", settings=SETTINGS,
)  # fmt: skip
NOISY = replace(PRIVATE, sampling=0.5, clip=0.3, noise_multiplier=0.8, ridge=0.02)
SHARED = SharedPlan(
    tags=("safety", "taste"), steps=3, rate=0.5, batch=None, loss="bradley_terry", settings=SETTINGS
)
ONE_STEP = replace(SHARED, tags=("safety",), steps=1, pair_clip=0.2, pair_sampling=1.0, expected_batch=4.0)
UNEVEN = (4, 0, 1, 6, 3, 2, 5)  # taste comparisons of seven people; their safety comparisons: the reverse


def uneven(start: int = 0, stop: int = 7) -> People:
    """Seven people with as many comparisons as `UNEVEN` says, over the table of `uneven_model`."""
    return People(
        tuple(range(start, stop)),
        tuple(
            {
                "safety": np.arange(12 * p, 12 * p + UNEVEN[6 - p]),
                "taste": np.arange(12 * p + 6, 12 * p + 6 + UNEVEN[p]),
            }
            for p in range(start, stop)
        ),
    )


def uneven_model() -> RewardModel:
    own = RewardModel(toy_reward.features({"safety": 6, "taste": 6}, people=7), toy_reward.BOTH)
    return toy_reward.with_public(own)


def moved(model: RewardModel, seed: int = 3) -> Tensors:
    """A shared adapter away from its start, no person axis."""
    return {k: normal(s, seed, "moved", k) for k, s in model.shared_spec().items()}


def close(left: Tensors, right: Tensors, tolerance: float = 1e-6) -> None:
    assert set(left) == set(right)
    for name, value in left.items():
        assert torch.allclose(value, right[name], atol=tolerance, rtol=0), name


def clipped_sum(
    model: RewardModel, person: int, clip: float, shared: Tensors, v: Tensors, seen: list[float]
) -> torch.Tensor:
    """A python loop over the pairs of one person of `toy_reward.crowd`."""
    total = torch.zeros(toy_reward.DIMS)
    for row in range(7 * person + 3, 7 * person + 7):
        rows = Rows(torch.tensor([[row]]), torch.ones(1, 1), torch.zeros(1, 1))
        loss = get_loss("bradley_terry")
        _, gradients = model.pair_gradients(rows, take(shared, 1), v, "private", loss, SETTINGS)
        gradient = gradients["private.v"][0, 0]
        norm = float(gradient.norm())
        seen.append(norm)
        total += gradient * min(1.0, clip / norm)
    return total


@pytest.mark.parametrize("noise", [0.0, 1e-12])
def test_one_step_is_the_sum_of_clipped_pair_gradients(noise: float) -> None:
    """E1 with z = 0 over the pairs there are, and with a z too small to see over the public cap."""
    model, people, clip = toy_reward.model(), toy_reward.crowd(), 0.12
    plan = replace(PRIVATE, clip=clip, noise_multiplier=noise, rate=1.0)
    state = first_private(model, 3, plan)
    after = private_phase(model, people, take(moved(model), 1), state, plan, seed=0, steps=1)
    seen: list[float] = []
    for p in range(3):
        start = {"private.v": state.adapter["private.v"][p : p + 1]}
        wanted = -clipped_sum(model, p, clip, moved(model), start, seen) / (8 if noise else 4)
        assert torch.allclose(after.adapter["private.v"][p], wanted, atol=1e-6)
    assert min(seen) < clip < max(seen)  # some are clipped, some are not


@pytest.mark.parametrize("why", ["no comparisons", "no coin falls"])
def test_an_empty_draw_is_a_step_of_noise_of_the_right_size(why: str) -> None:
    model, count = toy_reward.model(people=1), 2000
    rows: dict[Tag, np.ndarray] = {"safety": np.zeros(0, np.int64), "taste": np.zeros(0, np.int64)}
    plan = replace(NOISY, rate=1.0, ridge=0.0)
    if why == "no coin falls":
        rows["taste"] = np.arange(3, 7)
        plan = replace(plan, sampling=1e-9, cap=4 * 10**9)  # the same expected batch
    people = People(tuple(range(count)), (rows,) * count)
    after = private_phase(model, people, None, first_private(model, count, plan), plan, seed=1, steps=1)
    values = after.adapter["private.v"].double()
    std = 0.8 * 0.3 / 4  # z C / b with b = q cap
    n = values.numel()
    assert abs(float(values.std()) - std) < 3 * std / math.sqrt(2 * n)
    assert abs(float(values.mean())) < 3 * std / math.sqrt(n)
    assert after.steps.eq(1).all()  # it counts, as it is charged
    assert len({row.numpy().tobytes() for row in values}) == count  # nobody shares another's noise


def test_the_noise_of_every_step_and_person_is_fresh() -> None:
    model = toy_reward.model(people=1)
    rows: dict[Tag, np.ndarray] = {"safety": np.zeros(0, np.int64), "taste": np.zeros(0, np.int64)}
    plan = replace(NOISY, rate=1.0, ridge=0.0, steps=400)
    people = People((0, 1), (rows, rows))
    state, iterates = first_private(model, 2, plan), []
    for _ in range(400):
        state = private_phase(model, people, None, state, plan, seed=1, steps=1)
        iterates.append(state.adapter["private.v"])
    steps = torch.stack(iterates).diff(dim=0).double().flatten(1).T  # (2 people x 3 numbers, 399)
    correlations = torch.corrcoef(steps) - torch.eye(6)
    assert correlations.abs().max() < 4 / math.sqrt(399)
    later = (steps[:, 1:] * steps[:, :-1]).mean() / steps.square().mean()
    assert abs(float(later)) < 4 / math.sqrt(6 * 398)


@pytest.mark.parametrize("plan", [PRIVATE, NOISY, replace(NOISY, optimiser="adam", decay=True)])
def test_lifetime_steps_freeze_the_adapter(plan: PrivatePlan) -> None:
    model, people = toy_reward.model(), toy_reward.crowd()
    frozen = take(moved(model), 1)
    state = private_phase(model, people, frozen, first_private(model, 3, plan), plan, seed=0, steps=99)
    assert state.steps.tolist() == [6, 6, 6]
    again = private_phase(model, people, take(moved(model, 4), 1), state, plan, seed=5, steps=99)
    for name, value in again.to_arrays().items():
        assert value.tobytes() == state.to_arrays()[name].tobytes()
    mixed = PrivateState.stack(
        [
            first_private(model, 1, plan),
            PrivateState.from_arrays({k: v[1:2] for k, v in state.to_arrays().items()}),
            first_private(model, 1, plan),
        ]
    )
    after = private_phase(model, people, frozen, mixed, plan, seed=0, steps=1)
    assert after.steps.tolist() == [1, 6, 1]
    assert torch.equal(after.adapter["private.v"][1], state.adapter["private.v"][1])
    assert not torch.equal(after.adapter["private.v"][0], mixed.adapter["private.v"][0])


PLANS = {
    "plain": PRIVATE,
    "drawn": replace(PRIVATE, sampling=0.25),
    "noisy": NOISY,
    "adam": replace(NOISY, optimiser="adam", decay=True),
    "label": replace(PRIVATE, loss="rdpo", flip_probability=0.3, sampling=0.5),
    "constraint": replace(NOISY, constraint=ConstraintPlan(tolerance=-0.2, beta=1.0, rate=1.0)),
}


@pytest.mark.identity
@pytest.mark.parametrize("name", PLANS)
def test_steps_cut_into_visits_are_the_same_steps(name: str) -> None:
    model, people, plan = uneven_model(), uneven(), PLANS[name]
    frozen, start = take(moved(model), 1), first_private(model, 7, plan)
    whole = private_phase(model, people, frozen, start, plan, seed=2, steps=6)
    state = start
    for steps in (1, 3, 0, 2):
        state = PrivateState.from_arrays(state.to_arrays())  # as a device keeps it between visits
        state = private_phase(model, people, frozen, state, plan, seed=2, steps=steps)
    for key, value in whole.to_arrays().items():
        assert value.tobytes() == state.to_arrays()[key].tobytes(), key


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", PLANS)
def test_chunks_of_people_do_not_matter_to_the_private_phase(name: str, size: int) -> None:
    model, plan = uneven_model(), PLANS[name]
    frozen = take(moved(model), 1)

    def run(start: int, stop: int) -> PrivateState:
        people = uneven(start, stop)
        return private_phase(
            model, people, frozen, first_private(model, stop - start, plan), plan, seed=2, steps=4
        )

    whole = run(0, 7)
    parts = PrivateState.stack([run(s, min(7, s + size)) for s in range(0, 7, size)])
    close(parts.adapter, whole.adapter)
    close(parts.total, whole.total)
    close(parts.moments, whole.moments)
    close(parts.dual, whole.dual)
    assert whole.adapter["private.v"].abs().max() > 1e-2


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "plan", [SHARED, replace(SHARED, batch=2, optimiser="adam"), replace(ONE_STEP, pair_sampling=0.5)]
)
def test_chunks_of_people_do_not_matter_to_the_shared_phase(plan: SharedPlan, size: int) -> None:
    model = uneven_model()

    def run(start: int, stop: int) -> Tensors:
        return shared_phase(model, uneven(start, stop), moved(model), plan, seed=2, round=3)

    whole = run(0, 7)
    parts = [run(s, min(7, s + size)) for s in range(0, 7, size)]
    close({k: torch.cat([part[k] for part in parts]) for k in whole}, whole)
    assert whole["shared.safety.u"].abs().max() > 1e-3


@pytest.mark.parametrize("schedule", ["decoupled", "alternating", "joint"])
@pytest.mark.parametrize(
    "shared",
    [
        replace(SHARED, tags=("safety",)),
        replace(SHARED, tags=("safety",), batch=1, optimiser="adam"),
        replace(ONE_STEP, pair_sampling=0.5),
    ],
)
def test_a_person_without_comparisons_sends_exactly_zeros(schedule: Schedule, shared: SharedPlan) -> None:
    """Alone, and beside others: UNEVEN gives person 5 no safety comparison."""
    model = uneven_model()
    for people, place in ((uneven(5, 6), 0), (uneven(), 5)):
        state = first_private(model, len(people.index), NOISY)
        update, _ = visit(model, people, moved(model), state, Plan(shared, NOISY, schedule), 1)
        assert all(torch.count_nonzero(value[place]) == 0 for value in update.values())
        assert torch.count_nonzero(update["shared.safety.u"]) > 0 or len(people.index) == 1
        assert torch.count_nonzero(update["shared.taste.u"]) == 0  # what is not trained does not move


def test_tags_count_the_same_however_many_comparisons_each_has() -> None:
    """One SGD step: minus rate times the mean gradient of each tag, tags added."""
    model, people = toy_reward.model(), toy_reward.crowd()
    update = shared_phase(model, people, moved(model), replace(SHARED, steps=1), seed=0, round=1)
    for tag, first, count in (("safety", 0, 3), ("taste", 3, 4)):
        rows = Rows(torch.arange(first, first + count)[None], torch.ones(1, count), torch.zeros(1, count))
        _, gradients = model.pair_gradients(
            rows, take(moved(model), 1), None, "shared", get_loss("bradley_terry"), SETTINGS
        )
        name = f"shared.{tag}.u"
        assert torch.allclose(update[name][0], -0.5 * gradients[name][0].mean(0), atol=1e-6)


def test_the_shared_gradient_sees_the_private_adapter_only_in_alternating_and_joint() -> None:
    model, people = toy_reward.model(tags=("safety",)), toy_reward.crowd()
    shared = replace(SHARED, tags=("safety",), steps=1)
    start = first_private(model, 3, PRIVATE)
    other = replace(start, adapter={"private.v": normal((3, 3), 9, "other")})

    def update(schedule: Schedule, state: PrivateState) -> Tensors:
        return visit(model, people, moved(model), state, Plan(shared, PRIVATE, schedule), 1)[0]

    name = "shared.safety.u"
    assert torch.equal(update("decoupled", start)[name], update("decoupled", other)[name])
    assert torch.equal(
        update("decoupled", start)[name],
        shared_phase(model, people, moved(model), shared, seed=0, round=1)[name],
    )
    schedules: tuple[Schedule, ...] = ("alternating", "joint")
    for schedule in schedules:
        assert (update(schedule, start)[name] - update(schedule, other)[name]).abs().max() > 1e-3


def test_alternating_trains_the_private_part_first_and_the_shared_part_through_it() -> None:
    model, people, start = toy_reward.model(), toy_reward.crowd(), moved(toy_reward.model())
    before = first_private(model, 3, NOISY)
    update, after = visit(model, people, start, before, Plan(SHARED, NOISY, "alternating"), 1)
    wanted = private_phase(model, people, take(start, 1), before, NOISY, seed=0, steps=2)
    assert after is not None
    assert after.steps.tolist() == [2, 2, 2]
    assert torch.equal(after.adapter["private.v"], wanted.adapter["private.v"])
    through = shared_phase(model, people, start, SHARED, seed=0, round=1, private=wanted.adapter)
    close(update, through, 0.0)


def test_joint_takes_both_gradients_at_the_same_point() -> None:
    model, people, start = toy_reward.model(), toy_reward.crowd(), moved(toy_reward.model())
    before = first_private(model, 3, NOISY)
    before = replace(before, adapter={"private.v": normal((3, 3), 9, "before")})
    plan = Plan(replace(SHARED, steps=2), replace(NOISY, steps_per_visit=2), "joint")
    update, after = visit(model, people, start, before, plan, 1)
    one = replace(SHARED, steps=1)
    first = shared_phase(model, people, start, one, seed=0, round=1, private=before.adapter)
    middle = private_phase(model, people, take(start, 1), before, NOISY, seed=0, steps=1)
    rows_differ = {k: take(start, 3)[k] + v for k, v in first.items()}
    last = private_phase(model, people, rows_differ, middle, NOISY, seed=0, steps=1)
    assert after is not None
    assert torch.allclose(after.adapter["private.v"], last.adapter["private.v"], atol=1e-6)
    for p in range(3):
        mine = People((p,), (people.rows[p],))
        second = shared_phase(
            model, mine, {k: v[p] for k, v in rows_differ.items()}, one, seed=0, round=1,
            private={k: v[p : p + 1] for k, v in middle.adapter.items()},
        )  # fmt: skip
        for name, value in second.items():
            assert torch.allclose(update[name][p], first[name][p] + value[0], atol=1e-6)


def test_a_comparison_moves_its_message_by_at_most_the_bound_of_one_pair() -> None:
    model, people = toy_reward.model(), toy_reward.crowd()
    bound = 0.5 * 0.2 / 4  # rate C / b
    whole = shared_phase(model, people, moved(model), ONE_STEP, seed=0, round=1)["shared.safety.u"]
    assert (whole.norm(dim=1) <= 3 * bound * (1 + 1e-6)).all()
    total = torch.zeros_like(whole)
    for left in range(3):
        rows = [{**r, "safety": r["safety"][r["safety"] % 7 != left]} for r in people.rows]
        less = shared_phase(
            model, People(people.index, tuple(rows)), moved(model), ONE_STEP, seed=0, round=1
        )["shared.safety.u"]
        change = whole - less
        assert (change.norm(dim=1) <= bound * (1 + 1e-6)).all()
        assert (change.norm(dim=1) > 0.3 * bound).all()
        total += change
    assert torch.allclose(total, whole, atol=1e-6)  # a sum over pairs and nothing else
    wide = shared_phase(model, people, moved(model), replace(ONE_STEP, pair_clip=1e-3), seed=0, round=1)
    one = Rows(torch.tensor([[0]]), torch.ones(1, 1), torch.zeros(1, 1))
    _, gradient = model.pair_gradients(
        one, take(moved(model), 1), None, "shared", get_loss("bradley_terry"), SETTINGS
    )
    assert gradient["shared.safety.u"].norm() > 1e-2  # so that a clip of 1e-3 binds
    assert (wide["shared.safety.u"].norm(dim=1) <= 3 * 0.5 * 1e-3 / 4 * (1 + 1e-6)).all()


class Spy(RewardModel):
    """Remembers the rows that count in every call."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[Rows] = []

    def gradient_sums(self, batch: Batch, *args: Any, **kwargs: Any) -> Tensors:
        rows, weights = batch.rows, args[3]
        self.calls.append(Rows(rows.index, rows.mask * weights, rows.flip))
        return super().gradient_sums(batch, *args, **kwargs)


def flips(spy: Spy) -> list[dict[tuple[int, int], float]]:
    """(person, row) -> flip, one dictionary a call."""
    return [
        {
            (p, int(rows.index[p, b])): float(rows.flip[p, b])
            for p in range(rows.people)
            for b in range(rows.index.shape[1])
            if rows.mask[p, b]
        }
        for rows in spy.calls
    ]


def test_a_label_is_flipped_once_and_for_all() -> None:
    """A fresh coin at each step would average the protection away."""
    spy = Spy(toy_reward.features({"safety": 6, "taste": 6}, people=7), toy_reward.BOTH)
    plan = replace(PRIVATE, flip_probability=0.4, sampling=0.5, steps=30)
    state = private_phase(spy, uneven(), None, first_private(spy, 7, plan), plan, seed=1, steps=20)
    private_phase(spy, uneven(), None, state, plan, seed=1, steps=10)
    found: dict[tuple[int, int], float] = {}
    uses = 0
    for call in flips(spy):
        for key, flip in call.items():
            assert found.setdefault(key, flip) == flip
            uses += 1
    assert len(found) == sum(UNEVEN)
    assert uses > 3 * len(found)
    assert 0 < sum(found.values()) < len(found)


def test_labels_are_flipped_at_the_right_rate_and_each_by_its_own_coin() -> None:
    spy, count, p = Spy(toy_reward.features({"taste": 8}, people=1), toy_reward.BOTH), 600, 0.27
    rows: dict[Tag, np.ndarray] = {"safety": np.zeros(0, np.int64), "taste": np.arange(8)}
    people = People(tuple(range(count)), (rows,) * count)
    plan = replace(PRIVATE, flip_probability=p)
    private_phase(spy, people, None, first_private(spy, count, plan), plan, seed=1, steps=1)
    table = spy.calls[0].flip.double()
    assert table.shape == (count, 8)
    assert abs(float(table.mean()) - p) < 3 * math.sqrt(p * (1 - p) / table.numel())
    assert (torch.corrcoef(table.T) - torch.eye(8)).abs().max() < 4.5 / math.sqrt(count)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_adam_is_torch_adam(ridge: float) -> None:
    """With a ridge it is AdamW, whose pull is decoupled (Loshchilov and Hutter, ICLR 2019)."""
    start = normal((4,), 0, "start")
    theirs = torch.nn.Parameter(start.clone())
    other = torch.optim.AdamW([theirs], lr=0.05, betas=(0.9, 0.99), eps=1e-8, weight_decay=ridge)
    mine: Tensors = {"x": start.clone()[None]}
    state = optimiser.init("adam", mine)
    for step in range(25):
        gradient = normal((4,), 0, "gradient", step)
        theirs.grad = gradient.clone()
        other.step()
        mine, state = optimiser.update(
            "adam", mine, {"x": gradient[None]}, state, torch.tensor([step]), 0.05, ridge
        )
        assert torch.allclose(mine["x"][0], theirs.detach(), atol=1e-6)


def test_people_at_different_steps_and_rates_are_updated_in_one_call() -> None:
    start: Tensors = {"x": normal((2, 3, 2), 0, "start")}
    state = {"m.x": normal((2, 3, 2), 0, "m"), "v.x": normal((2, 3, 2), 0, "v").square()}
    gradient = {"x": normal((2, 3, 2), 0, "gradient")}
    steps, rates = torch.tensor([0, 9]), torch.tensor([0.1, 0.02])
    both, moments = optimiser.update("adam", start, gradient, state, steps, rates, 0.1)
    for p in range(2):

        def one(tensors: Tensors, p: int = p) -> Tensors:
            return {k: v[p : p + 1] for k, v in tensors.items()}

        alone, kept = optimiser.update(
            "adam", one(start), one(gradient), one(state), steps[p : p + 1], float(rates[p]), 0.1
        )
        close(alone, one(both))
        close(kept, one(moments))
    assert torch.equal(start["x"], normal((2, 3, 2), 0, "start"))  # the arguments are left alone


def constant_slope() -> tuple[RewardModel, People, torch.Tensor]:
    """The sft loss of a reward model is minus the chosen reward: its gradient is the same everywhere."""
    model = toy_reward.model(people=1)
    slope = -model.features.private[model.features.chosen[3:7]].mean(0)
    return model, toy_reward.crowd(people=1), slope


def test_the_step_size_falls_linearly_to_zero_where_the_plan_says_so() -> None:
    model, people, slope = constant_slope()
    plan = replace(PRIVATE, loss="sft", rate=1.0, decay=True, average_from=1.0)
    after = private_phase(model, people, None, first_private(model, 1, plan), plan, seed=0, steps=6)
    assert torch.allclose(after.adapter["private.v"][0], -slope * (6 + 5 + 4 + 3 + 2 + 1) / 6, atol=1e-5)
    assert torch.equal(release_ready(after, plan)["private.v"], after.adapter["private.v"])  # the last one


@pytest.mark.parametrize(("steps", "wanted"), [(0, 0.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 4.5), (6, 5.0)])
def test_the_released_adapter_is_the_mean_of_the_second_half(steps: int, wanted: float) -> None:
    """Iterates are -k slope; from step 4 on their mean is released, before that the last one."""
    model, people, slope = constant_slope()
    plan = replace(PRIVATE, loss="sft", rate=1.0, average_from=0.5)
    after = private_phase(model, people, None, first_private(model, 1, plan), plan, seed=0, steps=steps)
    assert torch.allclose(release_ready(after, plan)["private.v"][0], -wanted * slope, atol=1e-5)


def test_without_noise_every_step_draws_as_many_comparisons() -> None:
    spy = Spy(toy_reward.features({"safety": 6, "taste": 6}, people=7), toy_reward.BOTH)
    plan = replace(PRIVATE, sampling=0.25)  # of a cap of 8: two
    private_phase(spy, uneven(), None, first_private(spy, 7, plan), plan, seed=1, steps=6)
    for rows in spy.calls:
        assert rows.mask.sum(1).tolist() == [min(2, n) for n in UNEVEN]
    assert len({tuple(rows.mask[3].tolist()) for rows in spy.calls}) > 1


def test_with_noise_every_comparison_is_drawn_by_its_own_coin() -> None:
    spy, count = Spy(toy_reward.features({"taste": 8}, people=1), toy_reward.BOTH), 500
    rows: dict[Tag, np.ndarray] = {"safety": np.zeros(0, np.int64), "taste": np.arange(8)}
    people = People(tuple(range(count)), (rows,) * count)
    private_phase(spy, people, None, first_private(spy, count, NOISY), NOISY, seed=1, steps=1)
    sizes = spy.calls[0].mask.sum(1).double()
    assert abs(float(sizes.mean()) - 4) < 3 * math.sqrt(8 * 0.25 / count)  # binomial(8, 1/2)
    assert float(sizes.var()) == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize("name", PLANS)
def test_a_state_survives_as_arrays(name: str) -> None:
    model, plan = uneven_model(), PLANS[name]
    state = private_phase(model, uneven(), None, first_private(model, 7, plan), plan, seed=1, steps=5)
    arrays = state.to_arrays()
    back = PrivateState.from_arrays(arrays)
    close(back.adapter, state.adapter, 0.0)
    close(back.total, state.total, 0.0)
    close(back.moments, state.moments, 0.0)
    assert torch.equal(back.steps, state.steps)
    assert back.steps.dtype == torch.int64
    assert all(len(value) == 7 for value in arrays.values())
    back.adapter["private.v"].add_(1)  # memory of its own
    assert back.to_arrays()["adapter/private.v"][0, 0] != arrays["adapter/private.v"][0, 0]


def test_an_update_leaves_its_arguments_alone() -> None:
    model, people = toy_reward.model(), toy_reward.crowd()
    shared, state = moved(model), first_private(model, 3, NOISY)
    schedules: tuple[Schedule, ...] = ("decoupled", "alternating", "joint")
    for schedule in schedules:
        visit(model, people, shared, state, Plan(SHARED, NOISY, schedule), 1)
    close(shared, moved(model), 0.0)
    assert torch.count_nonzero(state.adapter["private.v"]) == 0
    assert state.steps.tolist() == [0, 0, 0]


def test_a_state_of_other_people_is_refused() -> None:
    model = toy_reward.model()
    with pytest.raises(ValueError, match="state of 2 people; 3 people were given"):
        private_phase(
            model, toy_reward.crowd(), None, first_private(model, 2, PRIVATE), PRIVATE, seed=0, steps=1
        )


def test_every_round_of_one_comparison_each_draws_its_own_at_the_claimed_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`unit=comparison` is charged for a Poisson draw a round: not for the same one, nor for a larger one."""
    model, people, seen = toy_reward.model(), toy_reward.crowd(), list[Rows]()
    real = model.batch

    def noted(rows: Rows, *more: Any) -> Batch:
        seen.append(rows)
        return real(rows, *more)

    monkeypatch.setattr(model, "batch", noted)
    plan, rounds = replace(ONE_STEP, pair_sampling=0.2), 60
    for round in range(1, rounds + 1):
        shared_phase(model, people, moved(model), plan, seed=5, round=round)
    drawn = [sorted(rows.index[rows.mask > 0].tolist()) for rows in seen]
    trials = rounds * sum(len(mine["safety"]) for mine in people.rows)
    count = sum(map(len, drawn))
    assert abs(count - 0.2 * trials) < 5 * math.sqrt(trials * 0.2 * 0.8)
    assert len({tuple(one) for one in drawn}) > rounds // 2
    assert {index for one in drawn for index in one} == {
        int(i) for mine in people.rows for i in mine["safety"]
    }
