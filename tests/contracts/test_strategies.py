"""One suite that every registered strategy passes, with both of its halves at work, and every wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_bed as toy
from toy_gate import Bowl

from commonground.clipping import joint_norm
from commonground.server.checkpoint import load_state, save_state
from commonground.strategies.norm_bound import NormBound
from commonground.strategies.person_dp import Arrays, PersonLevel
from commonground.strategies.registry import LINEAR, STRATEGIES, client_half, is_linear
from commonground.strategies.safety_gate import SafetyGate
from commonground.training.client_half import answer

PEOPLE = 7
# Those of both low-rank factors are in test_lora_strategies.py.
NAMES = sorted(name for name, factory in STRATEGIES.items() if not getattr(factory, "factors", ""))
HALVES = [name for name in NAMES if client_half(name) is not None]
OPTIONS: dict[str, dict[str, Any]] = {
    "fedadam": {"eta": 0.2},
    "fedyogi": {"eta": 0.2},
    "fedadagrad": {"eta": 0.5},
    "fedavgm": {"server_momentum": 0.5},
    "multikrum": {"num_nodes_to_select": 5},
    "fednova": {"cap": 3.0},
}
# Rules that turn equal updates into another step than theirs: sizes are the server's, or depend on the loss.
OTHER_STEP = {"fedadagrad", "fedadam", "fedyogi", "qfedavg", "fedprox", "fednova"}
# Wrappers around rules that remember where they stand, send more than the adapter, or see people one by one.
WRAPPERS = ("bounded", "gated")
INSIDE = ("centred_clipping", "fedadam", "fedavg", "fedavgm", "krum", "maxmin", "rfa", "scaffold")
WRAPPED = [f"{name}+{wrapper}" for wrapper in WRAPPERS for name in INSIDE]
every_strategy = pytest.mark.parametrize("name", NAMES + WRAPPED)


class Wrapped(toy.Run):
    """A strategy inside one of the wrappers, both of which have something to do on these beds."""

    around = ""
    wants = 0.75  # where the gate's public pairs want every number

    def wrap(self) -> PersonLevel:
        """The wrapper that goes next to the rule."""
        built = super().wrap()
        if self.around == "bounded":
            built.inner = NormBound(built.inner, 0.5, individual=not is_linear(self.name))
        if self.around == "gated":
            built.inner = SafetyGate(built.inner, tolerance=0.2, steps=2, rate=0.05, public=Bowl(self.wants))
        return built


class Bounded(Wrapped):
    """See `Wrapped`."""

    around = "bounded"


class Gated(Wrapped):
    """See `Wrapped`."""

    around = "gated"


class GatedElsewhere(Gated):
    """Public pairs that want what people want on the bed around 2."""

    wants = 2.0


RUNS: dict[str, type[toy.Run]] = {
    "": toy.Run,
    "bounded": Bounded,
    "gated": Gated,
    "elsewhere": GatedElsewhere,
}


def run(name: str, bed: toy.Bed | None = None, **changes: Any) -> toy.Run:
    clip = changes.pop("clip", 1e6)
    name, _, wrapper = name.partition("+")
    options = dict(OPTIONS.get(name, {}))
    return RUNS[wrapper](name, bed or toy.spread(PEOPLE), options, clip=clip, changes=changes)


def bare(name: str) -> str:
    """The rule inside a wrapper."""
    return name.partition("+")[0]


@every_strategy
def test_order_of_replies_changes_no_bit(name: str) -> None:
    straight, turned = run(name), run(name)
    left, right = straight.first(0.25), turned.first(0.25)
    for round in (1, 2):
        left = straight.round(round, left)
        right = turned.round(round, right, order=lambda replies: replies.reverse())
    assert toy.bits(left) == toy.bits(right)


@every_strategy
def test_who_is_who_does_not_matter(name: str) -> None:
    order = [3, 4, 5, 6, 0, 1, 2]
    one = run(name)
    other = type(one)(one.name, one.bed.over(order), one.options, groups=[p % 2 for p in order])
    if name == "fltrust":  # whose root set is the mean of everybody
        toy.ROOTS[:] = [one.bed]
    left, right = one.rounds(3), other.rounds(3)
    assert left.keys() == right.keys()
    for key, value in left.items():
        np.testing.assert_allclose(value, right[key], atol=2e-6)


@every_strategy
def test_zero_updates_are_a_fixed_point(name: str) -> None:
    one = run(name, toy.alike(PEOPLE, 0.75))
    start = shared = one.first(0.75)
    for round in (1, 2, 3):
        shared = one.round(round, shared)
    assert toy.flat(shared).tobytes() == toy.flat(start).tobytes()


@pytest.mark.parametrize("name", [name for name in NAMES + WRAPPED if bare(name) not in OTHER_STEP])
def test_equal_updates_are_applied_as_they_are(name: str) -> None:
    """From 0.5 towards 0.75, ten steps of size 0.1: a part 1 - 0.9^10 of the way."""
    one = run(name, toy.alike(PEOPLE, 0.75))
    moved = one.round(1, one.first(0.5))
    np.testing.assert_allclose(toy.flat(moved), 0.75 - 0.25 * 0.9**10, atol=1e-6)


@every_strategy
def test_dtypes_and_shapes_are_kept(name: str) -> None:
    one = run(name)
    start = one.first(0.5)
    moved = one.round(1, start)
    assert [(n, v.dtype.name, v.shape) for n, v in moved.items()] == [
        (spec.name, spec.dtype, spec.shape) for spec in one.manifest.broadcast
    ]
    assert (toy.flat(moved) != toy.flat(start)).all()


@every_strategy
def test_state_round_trips_through_a_file_in_the_middle_of_a_run(name: str, tmp_path: Path) -> None:
    one = run(name, average=True)
    shared = one.rounds(3)
    save_state(tmp_path / "state.npz", one.wrapper.state_dict())
    resumed, state = one.wrap(), load_state(tmp_path / "state.npz")
    assert state is not None
    resumed.load_state_dict(state)
    assert toy.bits(resumed.current) == toy.bits(shared)
    went_on = one.round(4, shared)
    again = one.round(4, resumed.current, wrapper=resumed)  # devices are asked for round 4 a second time
    assert toy.bits(again) == toy.bits(went_on)
    assert one.wrapper.averaged is not None
    assert resumed.averaged is not None
    assert toy.bits(one.wrapper.averaged) == toy.bits(resumed.averaged)
    assert one.wrapper.counts == resumed.counts


@every_strategy
def test_one_reply_is_enough_or_the_round_is_skipped(name: str) -> None:
    one = run(name)
    start = one.first(0.5)
    moved = one.round(1, start, silent={*range(PEOPLE)} - {4})
    assert np.isfinite(toy.flat(moved)).all()
    skipped = name == "bulyan"  # needs 4 f + 3 replies
    if "+gated" not in name:  # to the gate one person's wish may be no good proposal
        assert (toy.bits(moved) == toy.bits(start)) is skipped
    assert one.wrapper.counts["skipped"] == int(skipped)


@every_strategy
def test_no_reply_at_all_is_survived(name: str) -> None:
    """The parameters stay; only momentum, which is a step decided on earlier, may still be taken."""
    one = run(name)
    start = one.first(0.5)
    still = one.round(1, start, silent=range(PEOPLE))
    assert toy.flat(still).tobytes() == toy.flat(start).tobytes()
    shared = one.round(2, still)
    last = one.round(3, shared, silent=range(PEOPLE))
    assert np.isfinite(toy.flat(last)).all()
    momentum = {"fedadam", "fedyogi", "fedavgm", "centred_clipping"}
    same = toy.flat(last).tobytes() == toy.flat(shared).tobytes()
    assert same if bare(name) not in momentum else "+gated" in name or not same


@every_strategy
def test_a_device_whose_training_breaks_sends_zeros(name: str) -> None:
    bed = toy.spread(PEOPLE)
    bed.m["b"][2] = float("nan")
    one = run(name, bed)
    moved = one.round(1, one.first(0.5), silent=[5])
    sent = one.messages[2].tensors
    assert joint_norm(sent) == 0.0
    assert np.isfinite(toy.flat(moved)).all() or name == "fltrust"
    later = one.round(2, moved)
    assert all(np.isfinite(value).all() for value in later.values())


@every_strategy
def test_a_nan_that_arrives_is_refused_and_not_aggregated(name: str) -> None:
    def broken(person: int, update: Arrays) -> Arrays:
        return {n: v * np.float32("nan") for n, v in update.items()} if person == 3 else update

    one, without = run(name), run(name)
    moved = one.round(1, one.first(0.5), tamper=broken)
    assert one.wrapper.counts["refused"] == 1
    expected = without.round(1, without.first(0.5), silent=[3])
    assert toy.bits(moved) == toy.bits(expected)


@every_strategy
def test_cohorts_of_other_sizes_every_round(name: str) -> None:
    one = run(name, q=0.5, m=PEOPLE / 2)
    shared, sizes = one.first(), set()
    for round in range(1, 9):
        shared = one.round(round, shared)
        sizes.add(len(one.wrapper.cohort))
        assert all(np.isfinite(value).all() for value in shared.values())
    assert len(sizes) > 2
    assert float(np.linalg.norm(toy.flat(shared) - 1)) < np.sqrt(8)  # nearer to where people are


@every_strategy
def test_the_quadratic_is_approached(name: str) -> None:
    """Robust and fair rules settle among people's centres, the others near the optimum (methods D)."""
    rule, exact = bare(name), LINEAR - {"fedadam", "fedyogi"}  # which still swing after so few rounds
    bed = toy.spread(PEOPLE, seed=1, size=0.4, around=2.0)
    shared = run(name.replace("+gated", "+elsewhere"), bed, rounds=25).rounds(25)
    centres = np.concatenate([bed.m[n].reshape(PEOPLE, -1).numpy() for n in toy.SHAPES], axis=1)
    weights = bed.h.numpy() / bed.h.sum().item()
    optimum = weights @ centres
    assert float(np.linalg.norm(optimum)) > 5  # from where it started
    assert float(np.linalg.norm(toy.flat(shared) - optimum)) < (0.6 if rule in exact else 1.3)
    if rule not in {"fedadam", "fedyogi"}:
        assert (toy.flat(shared) > centres.min(0) - 0.05).all()
        assert (toy.flat(shared) < centres.max(0) + 0.05).all()


@pytest.mark.parametrize("name", HALVES)
def test_everything_that_is_sent_is_clipped_jointly(name: str) -> None:
    """One person moves the sum by at most C over all tensors together, extras included."""
    one = run(name, clip=0.05)
    shared = one.first()
    for round in (1, 2, 3):
        shared = one.round(round, shared)
        norms = [joint_norm(sealed.tensors) for sealed in one.messages.values()]
        assert max(norms) <= 0.05 * (1 + 1e-6)
        assert max(norms) > 0.05 * (1 - 1e-6)
        assert {n for sealed in one.messages.values() for n in sealed.tensors} == {
            spec.name for spec in one.manifest.tensors
        }


@pytest.mark.parametrize("name", HALVES)
def test_somebody_without_safety_comparisons_teaches_nothing(name: str) -> None:
    """She is asked like everybody and answers in the same form (methods N1)."""
    one = run(name)
    alone = toy.Run(name, one.bed, one.options, counts=[1, 1, 1, 1, 1, 1, 0])
    other = toy.Run(name, one.bed, one.options, counts=[1, 1, 1, 1, 1, 1, 0])
    other.bed = one.bed.over([0, 1, 2, 3, 4, 5, 0])  # another seventh person, of whom nothing is known either
    left, right = alone.rounds(2), other.rounds(2)
    assert toy.bits(left) == toy.bits(right)
    update = {n: v for n, v in alone.messages[6].tensors.items() if n in toy.SHAPES}
    if name != "centred_clipping":  # where zero is seen from the centre
        assert joint_norm(update) == 0.0


@pytest.mark.parametrize("name", HALVES)
def test_many_people_at_once_are_one_at_a_time(name: str) -> None:
    """The device's half works over the leading person axis alone."""
    one, together = run(name, clip=0.3), run(name, clip=0.3)
    shared = one.rounds(2)
    together.kept = one.kept
    found = answer(together.half, together.visit(3, range(PEOPLE), shared))
    for person in range(PEOPLE):
        single = answer(one.half, one.visit(3, [person], shared))
        for many, few in ((found.update, single.update), (found.memory or {}, single.memory or {})):
            assert many.keys() == few.keys()
            for key, value in few.items():
                np.testing.assert_allclose(many[key][person].numpy(), value[0].numpy(), atol=1e-6)
