"""One step of the decode-time budget: what it spends, what it refuses, what rounding does to it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from commonground.bounds.budget import Budget, Step, check_sampling, spend
from commonground.errors import InputError, ModelError


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def cost(step: Step, shared: Tensor) -> Tensor:
    """The true cost against the shared policy as it would be drawn from, in double precision: (R,)."""
    ratio = step.log_probs.double().log_softmax(1) - shared.log_softmax(1).double().log_softmax(1)
    return torch.where(shared > -math.inf, ratio, -math.inf).amax(1)


def left(*nats: float) -> Tensor:
    return torch.tensor(nats, dtype=torch.float64)


def test_a_step_by_hand() -> None:
    """p_s = (1/2, 1/2), p_i = (9/10, 1/10), Delta = ln 1.5: p = (3/4, 1/4), where 9^l = 3, so l = 1/2."""
    step = spend(double([0.5, 0.5]).log(), double([0.9, 0.1]).log(), left(math.log(1.5)))
    assert step.log_probs.exp()[0].tolist() == pytest.approx([0.75, 0.25], abs=1e-9)
    assert step.weight.item() == pytest.approx(0.5, abs=1e-9)
    assert step.spent.item() == pytest.approx(math.log(1.5), abs=1e-9)


def test_what_can_be_afforded_whole_is_the_personal_policy() -> None:
    shared, personal = double([0.5, 0.3, 0.2]).log(), double([0.2, 0.3, 0.5]).log()
    step = spend(shared, personal, left(1.0))
    assert step.weight.item() == 1.0
    torch.testing.assert_close(step.log_probs, personal)
    assert step.spent.item() == pytest.approx(math.log(2.5), abs=1e-11)


@pytest.mark.identity
def test_nothing_left_is_the_shared_policy_bit_for_bit() -> None:
    shared = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    step = spend(shared, -shared, left(0.0, 1e-9, 0.0))
    assert torch.equal(step.log_probs, shared.log_softmax(1))
    assert step.spent.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_personal_row_that_is_no_number_is_shared_and_the_others_are_not_touched(odd: float) -> None:
    shared = double([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    step = spend(shared, double([1.0, odd, 0.0], [1.0, 0.0, 0.0]), left(0.2, 0.2))
    assert torch.equal(step.log_probs[0], shared[0].log_softmax(0))
    assert step.spent[0] == 0
    assert step.spent[1] == pytest.approx(0.2, abs=1e-9)


@pytest.mark.parametrize("row", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_a_shared_row_that_is_no_distribution_is_refused(row: list[float]) -> None:
    with pytest.raises(ModelError, match="no numbers"):
        spend(double(row), double([0.0, 0.0]), left(1.0))


def test_two_vocabularies_are_refused() -> None:
    with pytest.raises(ModelError, match=r"\(1, 3\) tokens.*\(1, 2\).*one tokenizer"):
        spend(double([0.0, 0.0, 0.0]), double([0.0, 0.0]), left(1.0))


def test_the_gate_spends_nothing_on_cheap_tokens() -> None:
    shared, personal = double([0.5, 0.5]).log(), double([0.9, 0.1]).log()  # the whole step costs 0.588
    assert spend(shared, personal, left(5.0), gate=0.6).spent.item() == 0
    assert spend(shared, personal, left(5.0), gate=0.5).weight.item() == 1


def test_a_token_spends_at_most_its_share() -> None:
    step = spend(double([0.5, 0.5]).log(), double([0.9, 0.1]).log(), left(5.0), most=math.log(1.5))
    assert step.spent.item() == pytest.approx(math.log(1.5), abs=1e-9)


@pytest.mark.parametrize("values", [{"delta": -1}, {"delta": math.nan}, {"delta": math.inf}])
@pytest.mark.parametrize("more", [{}, {"gate": 1.0}])
def test_a_budget_that_is_no_number_is_refused(values: dict[str, Any], more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="budget delta is"):
        Budget(**values, **more)
    with pytest.raises(InputError, match="budget gate"):
        Budget(1.0, gate=-1.0)
    with pytest.raises(InputError, match="budget step"):
        Budget(1.0, step=0.0)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"temperature": 0.0}, r"greedy.*draws"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": 0.7, "top_p": 0.9}, "top_p is 0.9"),
        ({"temperature": 0.7, "top_k": 40}, "top_k is 40"),
    ],
)
def test_what_the_theorem_does_not_cover_is_refused_in_one_line(values: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        check_sampling(**values)
    assert "\n" not in caught.value.message


numbers = st.floats(-1e12, 1e12) | st.floats(-5, 5)
rows = st.integers(2, 6).flatmap(
    lambda size: st.tuples(
        st.lists(st.floats(-30, 30) | st.just(-math.inf), min_size=size, max_size=size).filter(
            lambda row: max(row) > -math.inf
        ),
        st.lists(numbers | st.sampled_from([math.nan, math.inf, -math.inf]), min_size=size, max_size=size),
    )
)


@settings(max_examples=150)
@given(rows, st.floats(0, 40), st.sampled_from([torch.float32, torch.float64]))
def test_the_true_cost_never_exceeds_what_is_charged_or_left(
    both: tuple[list[float], list[float]], nats: float, dtype: torch.dtype
) -> None:
    shared, personal = (torch.tensor([row], dtype=dtype) for row in both)
    step = spend(shared, personal, left(nats))
    assert step.spent.item() <= nats
    assert cost(step, shared).item() <= step.spent.item() + 1e-12
    assert 0 <= step.weight.item() <= 1
    assert (step.log_probs[shared == -math.inf] == -math.inf).all()
    assert float(step.log_probs.double().exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0, 1e6, 1e20])
def test_single_precision_and_a_real_vocabulary_keep_the_bound(scale: float) -> None:
    """49,152 tokens, logits as wide as a language model's: charged cost covers the exact one."""
    draw = torch.Generator().manual_seed(7)
    shared = 6 * torch.randn(8, 49_152, generator=draw)
    personal = shared + scale * torch.randn(8, 49_152, generator=draw)
    allowed = left(0.01, 0.1, 0.5, 1.0, 3.0, 10.0, 30.0, 300.0)
    step = spend(shared, personal, allowed)
    exact = cost(step, shared)
    assert (step.spent <= allowed).all()
    assert (exact <= step.spent).all()
    # and rounding does not eat the budget: within a thousandth of a nat of what could be spent
    full = cost(Step(personal, allowed, allowed), shared)
    assert (torch.minimum(allowed, full) - exact < 2e-3 * (1 + allowed)).all()


def test_half_precision_is_widened() -> None:
    step = spend(torch.zeros(1, 4, dtype=torch.bfloat16), torch.ones(1, 4, dtype=torch.bfloat16), left(1.0))
    assert step.log_probs.dtype == torch.float32
