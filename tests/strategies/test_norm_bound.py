"""The norm bound by hand: (3, 4) is five long."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvgM, Strategy
from hypothesis import given
from hypothesis import strategies as st
from toy_gate import one_round

from commonground.clipping import joint_norm
from commonground.errors import InputError
from commonground.strategies.norm_bound import NormBound, bounded
from commonground.strategies.records import from_record
from commonground.strategies.registry import get_strategy
from commonground.strategies.server_half import Arrays

START: Arrays = {"a": np.array([1.0]), "b": np.array([[2.0]])}


def step(rule: Strategy, *moves: tuple[float, float]) -> Arrays:
    """One round from (1, 2); what it moved by."""
    proposals = [{"a": START["a"] + a, "b": START["b"] + b} for a, b in moves]
    found = one_round(rule, 1, START, *proposals)
    return {name: value - START[name] for name, value in found.items()}


def pair(move: Arrays) -> list[float]:
    return [float(move["a"][0]), float(move["b"][0, 0])]


def test_a_long_step_is_shortened_in_its_own_direction() -> None:
    assert pair(step(NormBound(get_strategy("fedavg"), 2.5), (3.0, 4.0))) == pytest.approx([1.5, 2.0])


def test_a_short_step_keeps_every_bit() -> None:
    plain = step(get_strategy("fedavg"), (0.3, 0.1))
    assert all(
        v.tobytes() == plain[n].tobytes()
        for n, v in step(NormBound(get_strategy("fedavg"), 5.0), (0.3, 0.1)).items()
    )


def test_people_are_bounded_one_by_one_where_the_rule_sees_them() -> None:
    """(30, 40) counts as (3, 4): the mean with (3, 4) and (0, 0) is (2, 8/3)."""
    rule = NormBound(get_strategy("fedavg"), 5.0, individual=True)
    assert pair(step(rule, (30.0, 40.0), (3.0, 4.0), (0.0, 0.0))) == pytest.approx([2.0, 8 / 3])


def test_the_mean_alone_is_bounded_where_the_rule_sees_nobody() -> None:
    rule = NormBound(get_strategy("fedavg"), 5.0)
    assert pair(step(rule, (30.0, 40.0), (0.0, 0.0), (0.0, 0.0))) == pytest.approx([3.0, 4.0])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_step(broken: float) -> None:
    assert pair(step(NormBound(get_strategy("fedavg"), 5.0), (broken, 1.0))) == [0.0, 0.0]
    each = NormBound(get_strategy("fedavg"), 5.0, individual=True)
    assert pair(step(each, (broken, 1.0), (2.0, 2.0))) == [1.0, 1.0]


def test_a_rule_that_remembers_where_it_stands_is_told() -> None:
    inner = FedAvgM(fraction_train=0.0, fraction_evaluate=0.0, min_available_nodes=0, server_momentum=0.5)
    moved = step(NormBound(inner, 2.5), (3.0, 4.0))
    assert inner.current_arrays is not None
    kept = from_record(inner.current_arrays)
    assert all(kept[name].tobytes() == (START[name] + move).tobytes() for name, move in moved.items())


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(InputError, match=r"strategy\.norm_bound is .*accepted: above 0"):
        NormBound(get_strategy("fedavg"), bound)


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=2, max_size=2),
    st.floats(1e-6, 1e6),
)
def test_no_move_is_longer_than_the_bound_and_all_are_finite(move: list[float], bound: float) -> None:
    found = bounded({"a": np.array(move[:1], np.float64), "b": np.array([move[1:]], np.float64)}, bound)
    assert all(np.isfinite(value).all() for value in found.values())
    assert joint_norm(found) <= bound * (1 + 1e-12)
