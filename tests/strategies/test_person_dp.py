"""The wrapper: hand arithmetic, noise, refusals, caps, averages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import toy_grid as toy
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from commonground.errors import StrategyError
from commonground.keystream import secret_normals
from commonground.randomness import key
from commonground.strategies.person_dp import Arrays, PersonLevel
from commonground.strategies.records import to_record, train_content


class Spy(FedAvg):  # type: ignore[misc]
    """Federated averaging that remembers how many replies it was given."""

    def __init__(self) -> None:
        super().__init__(fraction_train=0.0)
        self.given: list[int] = []

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        messages = list(replies)
        self.given.append(len(messages))
        assert all(dict(m.content["metrics"]) == {"num-examples": 1} for m in messages)
        return super().aggregate_train(server_round, messages)


def step(round: int, person: int, shared: Arrays) -> Arrays:
    return toy.random(10 * round + person)


def test_fedavg_is_hand_arithmetic() -> None:
    """u + (x_0 + ... + x_3) / m with m = 5, not the 4 replies that came."""
    moved = toy.run_round(toy.wrap(m=5.0), 1, toy.constant(0.5), step)
    total = sum(toy.flat(toy.random(10 + person)) for person in range(4))
    np.testing.assert_array_equal(toy.flat(moved), (0.5 + np.asarray(total) / 5).astype(np.float32))


def test_one_update_moves_by_the_fixed_denominator() -> None:
    """methods B2 (iii): with one reply of norm 0.3 and m = 4 the step is 0.075, whoever else stayed away."""
    moved = toy.run_round(toy.wrap(), 1, toy.constant(0.0), lambda r, p, s: step(r, p, s) if p == 2 else None)
    assert np.linalg.norm(toy.flat(moved)) == pytest.approx(0.3 / 4, rel=1e-5)


def test_a_linear_rule_sees_one_reply_and_the_others_one_a_person() -> None:
    linear, single = Spy(), Spy()
    arguments: dict[str, Any] = {
        "people": 4,
        "q": 1.0,
        "m": 4.0,
        "noise_multiplier": 0.0,
        "seed": 1,
        "rounds": 2,
    }
    toy.run_round(PersonLevel(linear, toy.manifest(), **arguments), 1, toy.constant(0.0), step)
    toy.run_round(
        PersonLevel(single, toy.manifest(), **arguments, individual=True), 1, toy.constant(0.0), step
    )
    assert (linear.given, single.given) == ([1], [4])


@pytest.mark.parametrize("q", [0.0, 1.0])
def test_noise_has_the_right_size_even_without_anybody(q: float) -> None:
    """std z C / m = 0.7 * 2 / 5 = 0.28, drawn by name; an empty cohort is a round like any other."""
    wrapper = toy.wrap(
        manifest=toy.manifest(2.0, grid=2.0**-12), q=q, m=5.0, noise_multiplier=0.7, rounds=150
    )
    shared, moves = toy.constant(0.0), []
    for round in range(1, 151):
        after = toy.run_round(wrapper, round, shared, lambda r, p, s: toy.constant(0.0))
        moves.append(toy.flat(after) - toy.flat(shared))
        shared = after
    assert wrapper.answered == (list(range(4)) if q else [])
    expected = 0.28 * secret_normals((8,), key(3, "noise", 7))
    np.testing.assert_allclose(moves[6], expected, atol=2.0**-13 / 5 + 1e-6)
    values = np.concatenate(moves)
    assert abs(values.std() - 0.28) < 0.02  # 1,200 draws: standard error 0.0057
    assert abs(values.mean()) < 0.03


def test_noise_repeats_with_its_round_and_differs_between_rounds() -> None:
    def once(round: int) -> np.ndarray:
        wrapper = toy.wrap(manifest=toy.manifest(grid=2.0**-10), noise_multiplier=1.0)
        return toy.flat(toy.run_round(wrapper, round, toy.constant(0.0), lambda r, p, s: toy.constant(0.0)))

    np.testing.assert_array_equal(once(3), once(3))
    assert not np.allclose(once(3), once(4))


def bad_update(fault: str) -> Mapping[str, np.ndarray]:
    update = dict(toy.random(1))
    if fault == "nan":
        update["a"] = np.array([0, np.nan, 0], np.float32)
    if fault == "norm":
        update = dict(toy.random(1, size=1.001))
    if fault == "shape":
        update["b"] = np.zeros((4,), np.float32)
    if fault == "dtype":
        update["a"] = np.zeros(3, np.float64)
    if fault == "missing":
        del update["c"]
    if fault == "extra":
        update["private.v"] = np.zeros(2, np.float32)
    if fault == "huge":
        update["a"] = np.zeros(10_000, np.float32)
    return update


@pytest.mark.parametrize("fault", ["nan", "norm", "shape", "dtype", "missing", "extra", "huge"])
def test_a_bad_reply_is_counted_and_never_aggregated(fault: str) -> None:
    start, wrapper = toy.constant(0.5), toy.wrap()
    moved = toy.run_round(wrapper, 1, start, lambda r, p, s: bad_update(fault) if p == 1 else step(r, p, s))
    without = toy.run_round(toy.wrap(), 1, start, lambda r, p, s: None if p == 1 else step(r, p, s))
    assert wrapper.counts["refused"] == 1
    assert wrapper.answered == [0, 2, 3]
    np.testing.assert_array_equal(toy.flat(moved), toy.flat(without))


def test_noise_on_the_device_may_exceed_the_clip() -> None:
    wrapper = toy.wrap(manifest=toy.manifest(1.0, noise_on_device=True), device_noise=6.0)
    toy.run_round(wrapper, 1, toy.constant(0.0), lambda r, p, s: toy.random(p, size=50.0))
    assert wrapper.counts["refused"] == 0


def reply_with(content: RecordDict) -> PersonLevel:
    wrapper = toy.wrap()
    from commonground.client.app import app
    from commonground.simulations.grid import InProcessGrid

    asked = list(wrapper.configure_train(1, to_record(toy.constant(0.0)), {}, InProcessGrid(app, 4)))
    wrapper.aggregate_train(1, [Message(content, reply_to=asked[0])])
    return wrapper


@pytest.mark.parametrize("metrics", [{"num-examples": 7}, {"num-examples": 1, "loss": 0.3}, {}])
def test_a_metric_that_is_not_the_constant_is_refused(metrics: dict[str, float]) -> None:
    content = train_content(toy.random(1))
    content["metrics"] = MetricRecord(metrics)
    assert reply_with(content).counts["refused"] == 1


def test_a_second_record_of_arrays_is_refused() -> None:
    content = train_content(toy.random(1))
    content["private"] = ArrayRecord({"v": Array(np.zeros(2, np.float32))})
    assert reply_with(content).counts["refused"] == 1


def test_bytes_that_are_no_array_are_refused() -> None:
    content = train_content(toy.random(1))
    content["arrays"]["a"] = Array("float32", (3,), "numpy.ndarray", b"nonsense")
    assert reply_with(content).counts["refused"] == 1


def test_a_second_reply_of_a_person_and_a_stranger_are_refused() -> None:
    """Twice from one person would double the sensitivity that the noise was made for."""
    start, wrapper = toy.constant(0.0), toy.wrap()
    moved = toy.run_round(wrapper, 1, start, step, order=lambda replies: replies.append(replies[0]))
    assert wrapper.counts["refused"] == 1
    np.testing.assert_array_equal(toy.flat(moved), toy.flat(toy.run_round(toy.wrap(), 1, start, step)))

    def stranger(replies: list[Message]) -> None:
        replies[0].metadata.__dict__["_src_node_id"] = 99

    wrapper = toy.wrap()
    toy.run_round(wrapper, 1, start, step, order=stranger)
    assert wrapper.counts["refused"] == 1
    assert wrapper.answered == [1, 2, 3]


def test_people_who_may_not_be_drawn_are_not_asked() -> None:
    wrapper = toy.wrap(eligible=[1, 3])
    toy.run_round(wrapper, 1, toy.constant(0.0), step)
    assert wrapper.answered == [1, 3]


def test_cap_on_participation() -> None:
    asked: list[int] = []
    wrapper, shared = toy.wrap(participations=2, q=0.8, rounds=6), toy.constant(0.0)
    for round in range(1, 7):
        shared = toy.run_round(wrapper, round, shared, step)
        asked += wrapper.answered
    assert sorted(asked) == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(wrapper.taken_part, [2, 2, 2, 2])


def test_average_is_over_the_last_half() -> None:
    """5 rounds: the mean after rounds 3, 4 and 5 (more than 5 // 2)."""
    wrapper, shared, seen = toy.wrap(average=True, rounds=5), toy.constant(0.0), []
    assert wrapper.averaged is None
    for round in range(1, 6):
        shared = toy.run_round(wrapper, round, shared, step)
        seen.append(toy.flat(shared))
        assert (wrapper.averaged is None) is (round < 3)
    assert wrapper.averaged is not None
    np.testing.assert_allclose(toy.flat(wrapper.averaged), np.mean(seen[2:], axis=0), atol=1e-7)
    np.testing.assert_array_equal(toy.flat(wrapper.current), seen[-1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_multiplier": 1.0, "individual": True}, "one by one"),
        ({"noise_multiplier": 1.0, "manifest": toy.manifest(noise_on_device=True)}, "on the device"),
        ({"noise_multiplier": 1.0, "manifest": toy.manifest(float("inf"))}, "finite clip"),
        ({"m": 0.0}, "above 0"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StrategyError, match=words):
        toy.wrap(**changes)


def test_too_few_nodes_and_foreign_arrays() -> None:
    from commonground.client.app import app
    from commonground.simulations.grid import InProcessGrid

    with pytest.raises(StrategyError, match="3 nodes are connected; this run has 4 people"):
        toy.wrap().configure_train(1, to_record(toy.constant(0.0)), {}, InProcessGrid(app, 3))
    with pytest.raises(StrategyError, match="the manifest differs"):
        toy.wrap().configure_train(1, to_record({"a": np.zeros(3)}), {}, InProcessGrid(app, 4))


def test_a_strategy_that_explodes_is_named() -> None:
    wrapper = toy.wrap("fedavgm", {"server_learning_rate": 1e300})
    with pytest.raises(StrategyError, match=r"round 1: FedAvgM gave a non-finite value in 'a'"):
        toy.run_round(wrapper, 1, toy.constant(0.0), step)


def test_arrays_set_from_outside_are_where_the_next_round_starts() -> None:
    """A roll-back: the float64 copy of the parameters follows what is broadcast."""
    wrapper = toy.wrap()
    toy.run_round(wrapper, 1, toy.constant(0.0), step)
    back = toy.run_round(wrapper, 2, toy.constant(0.0), step)
    total = np.asarray(sum(toy.flat(toy.random(20 + person)) for person in range(4)))
    np.testing.assert_array_equal(toy.flat(back), (total / 4).astype(np.float32))
