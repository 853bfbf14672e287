"""The reward model's closed-form sums against one gradient a pair, clipped by a loop (methods E1)."""

from __future__ import annotations

import math

import pytest
import torch
import toy_reward
from hypothesis import example, given, settings
from hypothesis import strategies as st

from commonground.losses import LossSettings, get_loss
from commonground.randomness import normal
from commonground.training.model import Part, Rows, Tensors
from commonground.training.pairwise import pairwise_sums
from commonground.training.reward import Form, RewardModel
from commonground.training.reward_kernels import _KEPT, LinearPairs, TanhPairs, bounded

FORMS: tuple[Form, ...] = ("linear", "tanh", "basis")
SETTINGS = LossSettings(beta=0.7, flip=0.1)


def adapters(model: RewardModel, people: int, size: float = 1.0) -> tuple[Tensors, Tensors]:
    """Adapters far from their start, another one for each person."""
    return (
        {k: size * normal((people, *s), 1, "shared", k) for k, s in model.shared_spec().items()},
        {k: size * normal((people, *s), 1, "private", k) for k, s in model.private_spec().items()},
    )


def some_rows() -> Rows:
    """Three people, four columns: both tags in any order, a masked entry in the middle, flips."""
    index = torch.tensor([[0, 3, 1, 4], [7, 12, 9, 11], [14, 15, 19, 20]])
    mask = torch.tensor([[1.0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1]])
    flip = torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]])
    return Rows(index, mask, flip)


def both(
    model: RewardModel,
    rows: Rows,
    part: Part,
    loss: str,
    weights: torch.Tensor,
    clip: float | None,
    *,
    frozen: bool = True,
    size: float = 1.0,
) -> tuple[Tensors, Tensors]:
    shared, private = adapters(model, rows.people, size)
    trained, other = (shared, private) if part == "shared" else (private, shared)
    batch = model.batch(rows, part, other if frozen else None)
    arguments = (batch, trained, get_loss(loss), SETTINGS, weights, clip)
    return model.gradient_sums(*arguments), pairwise_sums(model, *arguments)


def close(left: Tensors, right: Tensors, tolerance: float = 2e-6) -> None:
    assert {k: v.shape for k, v in left.items()} == {k: v.shape for k, v in right.items()}
    for name, value in left.items():
        assert torch.allclose(value, right[name], atol=tolerance, rtol=1e-5), name


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("clip", [None, 0.05, 0.4, math.inf])
@pytest.mark.parametrize("loss", ["bradley_terry", "dpo", "ipo", "cdpo", "rdpo", "sft"])
@pytest.mark.parametrize("part", ["shared", "private"])
@pytest.mark.parametrize("form", FORMS)
def test_sums_are_those_of_one_gradient_a_pair(
    form: Form, part: Part, loss: str, clip: float | None, frozen: bool
) -> None:
    model, rows = toy_reward.model(form), some_rows()
    weights = torch.tensor([[1.0, 1, 0, 1], [1, 1, 1, 1], [1, 0, 1, 1]])
    if clip is None:
        weights = weights * torch.tensor([[0.5, 2.0, 1.0, 0.1]])
    mine, plain = both(model, rows, part, loss, weights, clip, frozen=frozen)
    close(mine, plain)
    assert max(float(v.abs().max()) for v in plain.values()) > 1e-3  # there is something to compare


@pytest.mark.parametrize("form", FORMS)
def test_one_shared_tag_among_rows_of_both(form: Form) -> None:
    model = toy_reward.model(form, tags=("taste",))
    close(*both(model, some_rows(), "shared", "dpo", torch.ones(3, 4), 0.1))


@pytest.mark.parametrize("part", ["shared", "private"])
@pytest.mark.parametrize("form", FORMS)
def test_a_person_without_a_pair_sums_to_zero_and_changes_nobody(form: Form, part: Part) -> None:
    model, rows = toy_reward.model(form), some_rows()
    empty = Rows(rows.index, rows.mask * torch.tensor([[1.0], [0.0], [1.0]]), rows.flip)
    whole, _ = both(model, rows, part, "bradley_terry", torch.ones(3, 4), 0.1)
    less, _ = both(model, empty, part, "bradley_terry", torch.ones(3, 4), 0.1)
    for name, value in less.items():
        assert torch.count_nonzero(value[1]) == 0
        assert torch.equal(value[[0, 2]], whole[name][[0, 2]])
    nobody = Rows(rows.index, torch.zeros_like(rows.mask), rows.flip)
    nothing, _ = both(model, nobody, part, "bradley_terry", torch.ones(3, 4), 0.1)
    assert not any(value.any() for value in nothing.values())


@pytest.mark.parametrize("part", ["shared", "private"])
@pytest.mark.parametrize("form", FORMS)
def test_no_adapter_is_too_large_for_the_bound(form: Form, part: Part) -> None:
    """At 1e20 margins overflow: such a pair counts as zero, and nothing that is not finite comes out."""
    mine, _ = both(toy_reward.model(form), some_rows(), part, "ipo", torch.ones(3, 4), 0.1, size=1e20)
    norm = torch.stack([v.flatten(1).square().sum(1) for v in mine.values()]).sum(0).sqrt()
    assert torch.isfinite(norm).all()
    assert (norm <= 4 * 0.1 * (1 + 1e-6)).all()


def linear_slope(margin: torch.Tensor) -> torch.Tensor:
    return -torch.sigmoid(-margin)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), near=st.floats(1e-7, 1.0), clip=st.floats(1e-6, 1.0))
@example(seed=25, near=1e-6, clip=1e-6)
@example(seed=7, near=1e-7, clip=1e-6)
def test_a_pair_never_exceeds_the_clip_even_where_its_answers_nearly_agree(
    seed: int, near: float, clip: float
) -> None:
    """Nearly equal numbers are subtracted there, in norm and sum: plain float32 would lose the bound."""
    block = normal((2, 24), seed, "text")
    block[1] = block[0] + near * block[1]
    one, other, ones = torch.tensor([[0]]), torch.tensor([[1]]), torch.ones(1, 1)
    base = torch.zeros(1, 1)
    a, u, v = normal((1, 4, 24), seed, "a"), normal((1, 4), seed, "u"), normal((1, 24), seed, "v")
    parts = TanhPairs.of(block, one, other, base).sums(a, u, linear_slope, ones, clip)
    straight = LinearPairs.of(block, one, other, base).sums(v, linear_slope, ones, clip)
    for found in (parts, (straight,)):
        norm = math.sqrt(sum(float(part.double().square().sum()) for part in found))
        assert norm <= clip * (1 + 1e-6)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_gram_norm_is_the_norm_of_the_materialised_gradient(seed: int) -> None:
    block = normal((6, 10), seed, "text")
    chosen, rejected = torch.tensor([[0, 1, 2]]), torch.tensor([[3, 4, 5]])
    a, u = normal((1, 4, 10), seed, "a"), normal((1, 4), seed, "u")
    pairs = TanhPairs.of(block, chosen, rejected, torch.zeros(1, 3))
    for b in range(3):
        only = torch.zeros(1, 3)
        only[0, b] = 1
        free = pairs.sums(a, u, linear_slope, only, None)
        norm = math.sqrt(sum(float(part.double().square().sum()) for part in free))
        half = pairs.sums(a, u, linear_slope, only, norm / 2)
        for part, whole in zip(half, free, strict=True):
            assert torch.allclose(part, whole / 2, atol=1e-6)


def test_a_pair_that_is_not_finite_counts_as_zero() -> None:
    slopes, norms = torch.tensor([[1.0, math.nan, -2.0]]), torch.tensor([[1.0, math.nan, math.inf]])
    kept, factors = bounded(slopes, norms.double(), 0.5)
    assert kept.tolist() == [[1.0, 0.0, 0.0]]
    assert factors.tolist() == [[0.5, 1.0, 1.0]]


def test_lengths_of_texts_are_kept_only_for_the_table_they_are_of() -> None:
    """They are taken once a table; another table, or the same one changed in place, has its own."""
    one, other, base = torch.tensor([[0]]), torch.tensor([[1]]), torch.zeros(1, 1)
    block = normal((5, 8), 1, "text")
    for _ in range(3):
        found = TanhPairs.of(block, one, other, base).squares
        assert torch.equal(found, block[:2].double().square().sum(1)[None])
        block *= 2.0
    kept = len(_KEPT)
    for k in range(50):
        TanhPairs.of(normal((5, 8), k, "text"), one, other, base)
    assert len(_KEPT) <= kept + 1  # tables that are gone are forgotten
