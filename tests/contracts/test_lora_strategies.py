"""The contract of the strategies that aggregate both low-rank factors, on a bed of such factors.

They pass what every strategy passes, in terms of the product B A (and what is merged) that people meet.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_bed as toy

from commonground.clipping import joint_norm
from commonground.errors import StrategyError
from commonground.server.checkpoint import load_state, save_state
from commonground.strategies.factors import factors_of
from commonground.strategies.hetlora import PRUNED, HetLoRA, held, sizes
from commonground.strategies.lora_algebra import Pair, aggregation_error, mean_product, truncated
from commonground.strategies.person_dp import Arrays
from commonground.strategies.registry import INDIVIDUAL, STRATEGIES, client_half, get_strategy
from commonground.strategies.rolora import resting
from commonground.training.client_half import answer

PEOPLE, OUT, RANK, IN = 7, 4, 2, 3
SHAPES: dict[str, tuple[int, ...]] = {"x.A": (RANK, IN), "x.B": (OUT, RANK)}
MERGED = SHAPES | {"x.merged": (OUT, IN)}
NAMES = sorted(name for name, factory in STRATEGIES.items() if getattr(factory, "factors", ""))
OPTIONS: dict[str, dict[str, Any]] = {"hetlora": {"kinds": 1}}
every_strategy = pytest.mark.parametrize("name", NAMES)


def bed(name: str, alike: bool = False, seed: int = 0) -> toy.Bed:
    """People with a centre in every factor; nobody has one in `merged`, where nothing is learned."""
    rng = np.random.default_rng(seed)
    one = {n: 1 + 0.5 * rng.standard_normal((1 if alike else PEOPLE, *s)) for n, s in SHAPES.items()}
    m = {n: np.broadcast_to(v, (PEOPLE, *v.shape[1:])).copy() for n, v in one.items()}
    half = client_half(name)
    if half is not None and "x.merged" in half.held(MERGED):
        m["x.merged"] = np.zeros((PEOPLE, *MERGED["x.merged"]))
    return toy.Bed([1.0] * PEOPLE if alike else rng.uniform(0.5, 1.5, PEOPLE).tolist(), m)


def run(name: str, own: toy.Bed | None = None, **changes: Any) -> toy.Run:
    clip = changes.pop("clip", 1e6)
    return toy.Run(name, own or bed(name), dict(OPTIONS.get(name, {})), clip=clip, changes=changes)


def first(one: toy.Run, b: float = 0.0) -> Arrays:
    """A at a public start, B at zero (or `b`), everything else zero."""
    a = np.linalg.qr(np.random.default_rng(5).standard_normal((IN, RANK)))[0].T
    sent = one.first(0.0) | {"x.A": a.astype(np.float32)}
    return sent | {"x.B": np.full(SHAPES["x.B"], b, np.float32)}


def change(arrays: Arrays) -> np.ndarray:
    """What the adapter does: B A, and `merged` where there is one."""
    extra = arrays["x.merged"].astype(np.float64) if "x.merged" in arrays else 0.0
    return np.asarray(arrays["x.B"].astype(np.float64) @ arrays["x.A"] + extra)


def pairs(one: toy.Run, shared: Arrays, only_learned: bool = False) -> list[Pair]:
    """Everybody's factors after the last round's messages."""
    found = []
    for sealed in one.messages.values():
        b, a = (shared[n].astype(np.float64) + sealed.tensors.get(n, 0) for n in ("x.B", "x.A"))
        found.append((b, a))
    return found


def go(one: toy.Run, rounds: int, shared: Arrays | None = None) -> Arrays:
    shared = first(one) if shared is None else shared
    for number in range(1, rounds + 1):
        shared = one.round(number, shared)
    return shared


def test_the_family_is_what_it_is() -> None:
    assert NAMES == ["fedex", "fedit", "fedsa", "flexlora", "flora", "hetlora", "rolora"]
    assert {"fedex", "flexlora", "flora", "hetlora"} <= INDIVIDUAL
    with pytest.raises(StrategyError, match="none of the tensors"):
        factors_of(["x.B", "y.A"])
    assert [(f.left, f.right) for f in factors_of(["t.A", "t.u", "s.A", "s.B"])] == [
        ("t.u", "t.A"),
        ("s.B", "s.A"),
    ]


@every_strategy
def test_order_of_replies_changes_no_bit(name: str) -> None:
    straight, turned = run(name), run(name)
    left, right = first(straight, 0.3), first(turned, 0.3)
    for round in (1, 2):
        left = straight.round(round, left)
        right = turned.round(round, right, order=lambda replies: replies.reverse())
    assert toy.bits(left) == toy.bits(right)


@every_strategy
def test_who_is_who_does_not_matter(name: str) -> None:
    order = [3, 4, 5, 6, 0, 1, 2]
    one = run(name)
    left, right = go(one, 3), go(run(name, one.bed.over(order)), 3)
    np.testing.assert_allclose(change(left), change(right), atol=2e-6)


@every_strategy
def test_zero_updates_are_a_fixed_point(name: str) -> None:
    one = run(name)
    start = first(one, 0.3)
    one.bed.m = {n: torch.from_numpy(start[n]).expand(v.shape).clone() for n, v in one.bed.m.items()}
    if name == "fedsa":  # whose B is the device's own, and begins at zero
        one.bed.m["x.B"] *= 0
    if name == "flora":  # which begins every round at B = 0
        start = first(one)
        one.bed.m["x.B"] *= 0
    shared = start
    for round in (1, 2, 3):
        shared = one.round(round, shared)
    np.testing.assert_allclose(change(shared), change(start), rtol=0, atol=1e-7)
    if name not in ("fedex", "hetlora", "flora"):  # whose weights 1/n round
        assert toy.bits(shared) == toy.bits(start)


@every_strategy
def test_identical_people_are_followed_exactly(name: str) -> None:
    """Check (1) of methods C: with identical clients the global change is that client's."""
    one = run(name, bed(name, alike=True))
    start = first(one)
    shared = one.round(1, start)
    if name == "fedsa":
        kept = one.kept[3][1]["x.B"]
        assert (shared["x.B"] == 0).all()
        np.testing.assert_allclose(shared["x.A"], start["x.A"] + one.messages[3].tensors["x.A"], atol=1e-6)
        assert np.abs(kept).max() > 0.1
        return
    b, a = pairs(one, start)[3]
    np.testing.assert_allclose(change(shared), b @ a, atol=1e-5)
    assert np.abs(change(shared)).max() > 0.1


@every_strategy
def test_the_exactness_table(name: str) -> None:
    """What each rule misses of the average of people's products, from a point where both factors move."""
    one = run(name)
    start = first(one) if name == "flora" else first(one, 0.3)
    shared = one.round(2, start)
    everybody = pairs(one, start)
    truth = mean_product(everybody) + start.get("x.merged", 0)
    missed = float(np.linalg.norm(change(shared) - truth) / np.linalg.norm(truth))
    if name in ("fedex", "flora", "rolora"):
        assert missed < 1e-6
    elif name == "fedit":
        assert missed == pytest.approx(aggregation_error(everybody), abs=1e-6)
        assert missed > 0.01
    elif name == "flexlora":
        best = truncated(truth, RANK)
        np.testing.assert_allclose(change(shared), best[0] @ best[1], atol=1e-5)
        cut = np.linalg.svd(truth, compute_uv=False)[RANK:]
        assert missed * np.linalg.norm(truth) == pytest.approx(np.linalg.norm(cut), abs=1e-6)
    elif name == "hetlora":
        assert 0.001 < missed < 1
    else:  # fedsa claims no global product
        assert (shared["x.B"] == start["x.B"]).all()


@every_strategy
def test_dtypes_and_shapes_are_kept(name: str) -> None:
    one = run(name)
    moved = one.round(1, first(one, 0.3))
    assert [(n, v.dtype.name, v.shape) for n, v in moved.items()] == [
        (spec.name, spec.dtype, spec.shape) for spec in one.manifest.broadcast
    ]
    sent = {spec.name for spec in one.manifest.tensors}
    assert sent == ({"x.A"} if name == "fedsa" else {"x.A", "x.B"})


@every_strategy
def test_state_round_trips_through_a_file_in_the_middle_of_a_run(name: str, tmp_path: Path) -> None:
    one = run(name)
    shared = go(one, 3)
    save_state(tmp_path / "state.npz", one.wrapper.state_dict())
    resumed, state = one.wrap(), load_state(tmp_path / "state.npz")
    assert state is not None
    resumed.load_state_dict(state)
    assert toy.bits(resumed.current) == toy.bits(shared)
    went_on = one.round(4, shared)
    assert toy.bits(one.round(4, resumed.current, wrapper=resumed)) == toy.bits(went_on)


@every_strategy
def test_one_reply_or_none(name: str) -> None:
    one = run(name)
    start = first(one, 0.3)
    still = one.round(1, start, silent=range(PEOPLE))
    assert toy.bits(still) == toy.bits(start)
    moved = one.round(2, still, silent={*range(PEOPLE)} - {4})
    assert all(np.isfinite(value).all() for value in moved.values())
    assert toy.bits(moved) != toy.bits(start)


@every_strategy
def test_a_device_whose_training_breaks_sends_zeros_and_keeps_what_it_had(name: str) -> None:
    own = bed(name)
    own.m["x.A"][2] = float("nan")
    one = run(name, own)
    shared = go(one, 2)
    assert joint_norm(one.messages[2].tensors) == 0.0
    assert all(np.isfinite(value).all() for value in shared.values())
    assert all(np.isfinite(v).all() for kept in one.kept[2].values() for v in kept.values())


@every_strategy
def test_a_nan_that_arrives_is_refused_and_not_aggregated(name: str) -> None:
    def broken(person: int, update: Arrays) -> Arrays:
        return {n: v * np.float32("nan") for n, v in update.items()} if person == 3 else update

    one, without = run(name), run(name)
    moved = one.round(1, first(one), tamper=broken)
    assert one.wrapper.counts["refused"] == 1
    assert toy.bits(moved) == toy.bits(without.round(1, first(without), silent=[3]))


@every_strategy
def test_cohorts_of_other_sizes_every_round(name: str) -> None:
    one = run(name, q=0.5, m=PEOPLE / 2)
    shared, sizes = first(one), set()
    for round in range(1, 9):
        shared = one.round(round, shared)
        sizes.add(len(one.wrapper.cohort))
        assert all(np.isfinite(value).all() for value in shared.values())
    assert len(sizes) > 2


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"flora", "fedsa", "hetlora", "flexlora"}))
def test_the_quadratic_is_approached(name: str) -> None:
    """The bed's optimum is one of factors; rules that choose other factors of a product are elsewhere."""
    one = run(name)
    weights = one.bed.h.numpy() / one.bed.h.sum().item()
    shared = go(one, 25)
    for n in SHAPES:
        best = np.tensordot(weights, one.bed.m[n].numpy(), 1)
        np.testing.assert_allclose(shared[n], best, atol=0.15)
        assert np.abs(best - first(one)[n]).max() > 0.5


@every_strategy
def test_everything_that_is_sent_is_clipped_jointly(name: str) -> None:
    one = run(name, clip=0.05)
    shared = first(one, 0.3)
    for round in (1, 2, 3):
        shared = one.round(round, shared)
        norms = [joint_norm(sealed.tensors) for sealed in one.messages.values()]
        assert 0.05 * (1 - 1e-6) < max(norms) <= 0.05 * (1 + 1e-6)


@every_strategy
def test_somebody_without_safety_comparisons_teaches_nothing(name: str) -> None:
    counts = [1] * 6 + [0]
    one = toy.Run(name, bed(name), dict(OPTIONS.get(name, {})), counts=counts)
    other = toy.Run(name, one.bed.over([0, 1, 2, 3, 4, 5, 0]), dict(OPTIONS.get(name, {})), counts=counts)
    assert toy.bits(go(one, 2)) == toy.bits(go(other, 2))
    assert joint_norm(one.messages[6].tensors) == 0.0


@pytest.mark.parametrize("name", [name for name in NAMES if client_half(name) is not None])
def test_many_people_at_once_are_one_at_a_time(name: str) -> None:
    one, many = run(name, clip=0.3), run(name, clip=0.3)
    shared = go(one, 2)
    many.kept = one.kept
    found = answer(many.half, many.visit(3, range(PEOPLE), shared))
    for person in range(PEOPLE):
        single = answer(one.half, one.visit(3, [person], shared))
        for left, right in ((found.update, single.update), (found.memory or {}, single.memory or {})):
            assert left.keys() == right.keys()
            for key, value in right.items():
                np.testing.assert_allclose(left[key][person].numpy(), value[0].numpy(), atol=1e-6)


# -- one by one -------------------------------------------------------------------------------------------


def test_rolora_trains_b_then_a_and_the_other_one_is_still() -> None:
    one = run("rolora")
    before = first(one)
    for round, moves, rests in ((1, "x.B", "x.A"), (2, "x.A", "x.B"), (3, "x.B", "x.A")):
        after = one.round(round, before)
        assert (after[rests] == before[rests]).all()
        assert (after[moves] != before[moves]).all()
        assert all((sealed.tensors[rests] == 0).all() for sealed in one.messages.values())
        before = after


def test_rolora_does_not_train_a_where_b_is_zero() -> None:
    start = first(run("rolora"))
    assert resting(1, start) == resting(2, start) == {"x.A"}
    assert resting(2, first(run("rolora"), 0.1)) == {"x.B"}


def test_rolora_throws_away_the_noise_on_the_factor_that_rests() -> None:
    one = run("rolora", clip=1.0, noise_multiplier=2.0)
    start = first(one)
    moved = one.round(1, start)
    assert (moved["x.A"] == start["x.A"]).all()
    assert np.abs(moved["x.B"]).min() > 0


def test_fedsa_keeps_b_on_the_device_and_never_sends_it() -> None:
    one = run("fedsa", noise_multiplier=0.0)
    shared = go(one, 3)
    assert (shared["x.B"] == 0).all()
    assert all(set(sealed.tensors) == {"x.A"} for sealed in one.messages.values())
    own = [one.kept[p][3]["x.B"] for p in range(PEOPLE)]
    assert all((a != b).all() for a, b in pairwise(own))
    centre = one.bed.m["x.B"].numpy()
    for person in range(PEOPLE):  # each goes on from where it was: nearer to its own centre every round
        away = [float(np.abs(one.kept[person][r]["x.B"] - centre[person]).max()) for r in (1, 2, 3)]
        assert away[0] > away[1] > away[2]


def test_flora_adds_up_more_than_its_rank() -> None:
    one = run("flora")
    start = first(one)
    shared = go(one, 3, start)
    assert all((shared[n] == start[n]).all() for n in SHAPES)
    assert np.linalg.matrix_rank(shared["x.merged"].astype(np.float64), tol=1e-3) == IN > RANK


def test_hetlora_truncates_pads_and_weighs_by_hand() -> None:
    half = HetLoRA(kinds=2)
    start = {"x.A": np.array([[1.0, 0.0], [0.0, 1.0]]), "x.B": np.zeros((1, 2))}
    full = {"x.A": np.zeros((2, 2)), "x.B": np.array([[3.0, 0.0]])}  # product (3, 0)
    small = {"x.A": np.array([[0.0, 0.0], [0.0, -1.0]]), "x.B": np.array([[1.0, 0.0]])}  # product (1, 0)
    moved = half.step(start, [full, small])
    np.testing.assert_allclose(moved["x.B"], [[0.75 * 3 + 0.25 * 1, 0.0]])
    np.testing.assert_allclose(moved["x.A"], [[1.0, 0.0], [0.0, 0.75]])
    nobody = half.step(start, [small, small])  # the second component is in nobody's room: it stays
    np.testing.assert_allclose(nobody["x.A"], start["x.A"])


def test_hetlora_devices_say_zero_where_they_have_no_room() -> None:
    one = toy.Run("hetlora", bed("hetlora"), {"kinds": 2})
    start = first(one, 0.3)
    one.round(1, start)
    for person, (b, a) in enumerate(pairs(one, start)):
        spare = (np.abs(b[:, 1]).max() < 1e-6, np.abs(a[1]).max() < 1e-6)
        assert spare == ((True, True) if person % 2 else (False, False))


PRUNING = {"kinds": 1, "gamma": 0.5, "lam": 0.1}


def fading() -> toy.Bed:
    """People of whom the even ones want nothing of the second component, and the odd ones much of it."""
    own = bed("hetlora")
    for name, part in (("x.B", (slice(None), slice(None), 1)), ("x.A", (slice(None), 1))):
        own.m[name][part] = torch.where(
            (torch.arange(PEOPLE) % 2 == 0).reshape(-1, *[1] * (own.m[name][part].dim() - 1)), 0.0, 2.0
        )
    return own


def test_hetlora_holds_the_last_components_by_the_gradient_of_their_size() -> None:
    rng = np.random.default_rng(4)
    current = {n: torch.from_numpy(rng.standard_normal((3, *s))).requires_grad_() for n, s in SHAPES.items()}
    among = {n: torch.zeros(3, *s) for n, s in SHAPES.items()}
    among["x.B"][:2, :, 1], among["x.A"][:2, 1] = 1.0, 1.0  # the third person has one component left
    size = sizes(factors_of(SHAPES), current, among)
    assert size[2] == 0 < size[0]
    slopes = torch.autograd.grad(0.3 * size[:2].sum(), list(current.values()), retain_graph=True)
    found = held(factors_of(SHAPES), {n: v.detach() for n, v in current.items()}, among, 0.3)
    for name, slope in zip(current, slopes, strict=True):
        assert torch.allclose(found[name], slope, atol=1e-12)
        assert torch.count_nonzero(found[name][2]) == 0
        assert torch.count_nonzero(found[name][0]) > 0
    nothing = {n: torch.zeros_like(v) for n, v in current.items()}
    assert all(torch.count_nonzero(v) == 0 for v in held(factors_of(SHAPES), nothing, among, 0.3).values())


def test_hetlora_prunes_what_fades_and_sends_zeros_of_it() -> None:
    one = toy.Run("hetlora", fading(), PRUNING)
    start = first(one, 0.5)
    shared = one.round(1, start)
    for round in (1, 2, 3):
        for person, (b, a) in enumerate(pairs(one, start)):
            spare = np.abs(b[:, 1]).max() < 1e-6 and np.abs(a[1]).max() < 1e-6
            assert spare == (person % 2 == 0), (round, person)
            assert float(one.kept[person][round][PRUNED][0]) == (1.0 if person % 2 == 0 else 0.0)
            assert np.abs(b[:, 0]).max() > 0.1
        start, shared = shared, one.round(round + 1, shared)
    assert {spec.name for spec in one.manifest.tensors} == {"x.A", "x.B"}  # a rank is not told


def test_hetlora_with_pruning_is_one_device_at_a_time_and_never_grows_again() -> None:
    one, many = (toy.Run("hetlora", fading(), PRUNING, clip=0.3) for _ in range(2))
    shared = go(one, 2, first(one, 0.5))
    many.kept = one.kept
    found = answer(many.half, many.visit(3, range(PEOPLE), shared))
    assert found.memory is not None
    for person in range(PEOPLE):
        single = answer(one.half, one.visit(3, [person], shared))
        assert single.memory is not None
        assert float(single.memory[PRUNED][0]) == float(found.memory[PRUNED][person])
        assert float(single.memory[PRUNED][0]) >= float(one.kept[person][2][PRUNED][0])
        for key, value in single.update.items():
            np.testing.assert_allclose(found.update[key][person].numpy(), value[0].numpy(), atol=1e-6)


def test_a_hetlora_device_that_breaks_prunes_nothing() -> None:
    own = fading()
    own.m["x.A"][0] = float("nan")
    one = toy.Run("hetlora", own, PRUNING)
    shared = one.round(1, first(one, 0.5))
    assert joint_norm(one.messages[0].tensors) == 0.0
    assert float(one.kept[0][1][PRUNED][0]) == 0.0
    assert float(one.kept[2][1][PRUNED][0]) == 1.0
    assert all(np.isfinite(value).all() for value in shared.values())


def test_without_pruning_a_hetlora_device_remembers_nothing() -> None:
    plain, same = run("hetlora"), toy.Run("hetlora", bed("hetlora"), {"kinds": 1, "gamma": 1.0, "lam": 5.0})
    assert toy.bits(go(plain, 3)) == toy.bits(go(same, 3))
    assert all(not kept for kept in plain.kept.values())


@pytest.mark.parametrize("name", ["fedex", "flexlora", "flora", "hetlora"])
def test_factors_may_have_other_gauges(name: str) -> None:
    """What people send in other factors of the same products gives the same, but for HetLoRA (and FedIT)."""
    rng = np.random.default_rng(3)
    extra = {"x.merged": np.zeros((OUT, IN))} if name in ("fedex", "flora") else {}
    start = {"x.A": rng.standard_normal((RANK, IN)), "x.B": np.zeros((OUT, RANK)), **extra}
    found = []
    for turned in (False, True):
        rng, moves = np.random.default_rng(4), []
        for person in range(4):
            b, a = rng.standard_normal((OUT, RANK)), rng.standard_normal((RANK, IN))
            if turned and person == 0:
                turn = np.array([[2.0, 1.0], [0.5, 1.0]])
                b, a = b @ turn, np.linalg.inv(turn) @ a
            moves.append({"x.A": a - start["x.A"], "x.B": b, **extra})
        found.append(change(get_strategy(name).step(start, moves)))
    same = bool(np.allclose(found[0], found[1], atol=1e-9))
    assert same is (name != "hetlora")
