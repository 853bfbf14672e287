"""Averages of low-rank factors: the identity C0 and the exactness table of methods C."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonground.strategies import lora_algebra as lora

OUT, IN = 5, 7


def people(count: int, rank: int = 2, seed: int = 0, ranks: list[int] | None = None) -> list[lora.Pair]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((OUT, r)), rng.standard_normal((r, IN))) for r in ranks or [rank] * count]


def product(pair: lora.Pair) -> np.ndarray:
    return pair[0] @ pair[1]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 1000))
def test_what_averages_miss_is_the_cross_covariance(count: int, rank: int, seed: int) -> None:
    pairs = people(count, rank, seed)
    weights = np.random.default_rng(seed).uniform(0.1, 2.0, count)
    for p in (None, weights):
        missed = lora.mean_product(pairs, p) - product(lora.mean_factors(pairs, p))
        assert np.abs(missed - lora.cross_covariance(pairs, p)).max() < 1e-12
        assert np.abs(missed - lora.residual(pairs, p)).max() < 1e-12


def test_two_people_with_orthogonal_factors_by_hand() -> None:
    """M = diag(1, 1)/2; the averages give (1/4) of all ones; missed (1/4)(e1 - e2)(e1 - e2)': 0.5/0.7071."""
    e = np.eye(2)
    pairs = [(e[:, :1], e[:1]), (e[:, 1:], e[1:])]
    np.testing.assert_array_equal(lora.mean_product(pairs), np.diag([0.5, 0.5]))
    np.testing.assert_array_equal(product(lora.mean_factors(pairs)), np.full((2, 2), 0.25))
    np.testing.assert_array_equal(lora.cross_covariance(pairs), [[0.25, -0.25], [-0.25, 0.25]])
    assert lora.aggregation_error(pairs) == pytest.approx(np.sqrt(0.5), abs=1e-15)


def test_averages_of_both_factors_are_exact_where_one_is_common_and_nowhere_else() -> None:
    pairs = people(6)
    (b, a), others = pairs[0], pairs[1:]
    for exact in ([pairs[0]], [(left, a) for left, _ in others], [(b, right) for _, right in others]):
        assert np.abs(lora.cross_covariance(exact)).max() < 1e-15
        assert lora.aggregation_error(exact) < 1e-15
    assert lora.aggregation_error(pairs) > 0.3


def test_the_same_functions_in_other_factors_have_another_average() -> None:
    """Gauge: (B R, R^-1 A) is the same person, and FedIT's average is not; the others' are."""
    pairs = people(4)
    turn = np.random.default_rng(1).standard_normal((2, 2))
    turned = [(pairs[0][0] @ turn, np.linalg.inv(turn) @ pairs[0][1]), *pairs[1:]]
    np.testing.assert_allclose(product(turned[0]), product(pairs[0]))
    assert np.abs(product(lora.mean_factors(turned)) - product(lora.mean_factors(pairs))).max() > 0.1
    for exact in (lora.mean_product, lambda those: product(lora.stacked(those))):
        np.testing.assert_allclose(exact(turned), exact(pairs), atol=1e-12)
    cut = [product(lora.truncated(lora.mean_product(those), 2)) for those in (pairs, turned)]
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-12)


@pytest.mark.parametrize("ranks", [[2] * 8, [1, 2, 4]])
def test_stacked_factors_are_exact_whatever_the_ranks(ranks: list[int]) -> None:
    pairs, weights = people(0, ranks=ranks), np.arange(1.0, len(ranks) + 1)
    b, a = lora.stacked(pairs, weights)
    assert b.shape == (OUT, sum(ranks))
    truth = lora.mean_product(pairs, weights)
    assert np.linalg.norm(b @ a - truth) / np.linalg.norm(truth) < 4e-16
    twice = b @ np.concatenate([w * x for w, (_, x) in zip(weights / weights.sum(), pairs, strict=True)])
    assert np.linalg.norm(twice - truth) / np.linalg.norm(truth) > 0.1  # the weight on both factors


def test_averages_with_their_residual_are_exact_and_its_rank_grows_with_people() -> None:
    pairs = people(2, rank=1)
    rest = lora.residual(pairs)
    np.testing.assert_allclose(product(lora.mean_factors(pairs)) + rest, lora.mean_product(pairs), atol=1e-15)
    assert np.linalg.matrix_rank(rest) == 1  # (1/4)(b1 - b2)(a1 - a2)'
    assert np.linalg.matrix_rank(lora.residual(people(4, rank=1))) == 3


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_a_truncation_misses_exactly_the_singular_values_that_are_cut(rank: int) -> None:
    truth = lora.mean_product(people(6))
    b, a = lora.truncated(truth, rank)
    s = np.linalg.svd(truth, compute_uv=False)
    missed = float(np.linalg.norm(truth - b @ a))
    assert missed == pytest.approx(float(np.sqrt((s[rank:] ** 2).sum())), abs=1e-12)
    assert missed == pytest.approx(lora.cut_away(truth, rank), abs=1e-12)
    np.testing.assert_allclose(np.linalg.norm(b, axis=0), np.linalg.norm(a, axis=1), atol=1e-12)
    for seed in range(20):  # nothing of that rank is nearer
        other = product(people(1, rank, seed)[0])
        nearest = other * (other * truth).sum() / (other * other).sum()
        assert np.linalg.norm(truth - nearest) >= missed - 1e-12


def test_a_truncation_is_exact_where_the_rank_suffices_and_leaves_nothing_that_cannot_learn() -> None:
    one = people(1, rank=1)[0]
    b, a = lora.truncated(product(one), 3)
    np.testing.assert_allclose(b @ a, product(one), atol=1e-14)
    assert (b[:, 1:] == 0).all()
    np.testing.assert_allclose(a[1:] @ a.T, [[0, 1, 0], [0, 0, 1]], atol=1e-12)
    b, a = lora.truncated(np.zeros((OUT, IN)), 2)
    assert (b == 0).all()
    np.testing.assert_allclose(a @ a.T, np.eye(2), atol=1e-12)


def test_padding_changes_no_product_and_the_first_components_come_back() -> None:
    pairs = people(0, ranks=[1, 3])
    wide = [lora.padded(pair, 4) for pair in pairs]
    for pair, more in zip(pairs, wide, strict=True):
        assert more[0].shape == (OUT, 4)
        np.testing.assert_array_equal(product(more), product(pair))
        back = lora.first(more, pair[0].shape[1])
        assert all((x == y).all() for x, y in zip(back, pair, strict=True))


def test_strengths_are_norms_of_products_and_alike_where_nothing_was_learned() -> None:
    b, a = np.array([[3.0], [4.0]]), np.array([[1.0, 0.0]])
    np.testing.assert_allclose(lora.strengths([(b, a), (3 * b, a)]), [0.25, 0.75])
    np.testing.assert_array_equal(lora.strengths([(0 * b, a), (0 * b, a)]), [0.5, 0.5])


def test_identical_people_lose_nothing_and_their_order_does_not_matter() -> None:
    same = [people(1)[0]] * 5
    truth = product(same[0])
    for found in (
        product(lora.mean_factors(same)),
        product(lora.mean_factors(same, lora.strengths(same))),
        product(lora.stacked(same)),
        product(lora.mean_factors(same)) + lora.residual(same),
        product(lora.truncated(lora.mean_product(same), 2)),
    ):
        np.testing.assert_allclose(found, truth, atol=1e-12)
    pairs = people(5)
    for rule in (lora.mean_product, lora.cross_covariance, lora.strengths):
        turned, straight = rule(pairs[::-1]), rule(pairs)
        np.testing.assert_allclose(turned[::-1] if turned.ndim == 1 else turned, straight, atol=1e-12)
