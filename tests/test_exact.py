"""Products whose bits depend on nothing but the numbers.

The class of fault: a value that is promised to be the same elsewhere is computed by BLAS, which adds in an
order of its own: by processor, number of rows, a row's place among them, threads and alignment.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from commonground.exact import exact_product, exact_sums

SHAPES = [(1, 1, 1), (3, 2, 2), (700, 384, 64), (4099, 7, 3), (5, 385, 1), (2, 2049, 5)]


def made(rows: int, terms: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of very different sizes, float32, and columns likewise."""
    draws = np.random.default_rng(seed)
    sizes = np.exp2(draws.integers(-20, 20, (rows, 1)))
    left = (draws.standard_normal((rows, terms)) * sizes).astype(np.float32)
    right = draws.standard_normal((terms, columns)) * np.exp2(draws.integers(-9, 9, columns))
    return left, right.astype(np.float32)


def at_offset(values: np.ndarray, offset: int) -> np.ndarray:
    """The same numbers `offset` bytes behind a boundary of 64."""
    raw = np.empty(values.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    found = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    found[...] = values
    return found


@pytest.mark.identity
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_has_the_same_bits_alone_among_others_and_anywhere_in_memory(
    shape: tuple[int, int, int],
) -> None:
    left, right = made(*shape)
    whole = exact_product(left, right)
    draws = np.random.default_rng(1)
    for count in {1, 2, 7, 161, shape[0] - 1} & set(range(1, shape[0] + 1)):
        rows = draws.permutation(len(left))[:count]
        np.testing.assert_array_equal(exact_product(left[rows], right), whole[rows])
    for offset in (4, 16, 32, 60):
        np.testing.assert_array_equal(exact_product(at_offset(left, offset), right), whole)
    np.testing.assert_array_equal(exact_product(np.asfortranarray(left), np.asfortranarray(right)), whole)
    np.testing.assert_array_equal(exact_product(left, right[:, :1]), whole[:, :1])  # nor on other columns
    np.testing.assert_array_equal(exact_product(left, right[:, 0]), whole[:, 0])


@pytest.mark.identity
@pytest.mark.parametrize("shape", SHAPES[:2] + SHAPES[-2:], ids=str)
def test_it_is_the_product_of_the_rounded_numbers_in_whole_numbers_of_any_size(
    shape: tuple[int, int, int],
) -> None:
    """Python's integers have no order of adding; the result of BLAS must be theirs to the bit."""
    left, right = made(*shape, seed=2)
    terms = shape[1]
    bits = (53 - math.ceil(math.log2(terms))) // 2
    found = exact_product(left, right)

    def whole(values: np.ndarray) -> tuple[list[int], int]:
        up = math.frexp(float(np.abs(values).max()))[1]
        return [round(math.ldexp(float(v), bits - up)) for v in values], up

    for i in range(min(shape[0], 3)):
        for j in range(shape[2]):
            (row, down), (column, up) = whole(left[i]), whole(right[:, j])
            total = sum(a * b for a, b in zip(row, column, strict=True))
            assert found[i, j] == math.ldexp(total, down + up - 2 * bits)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_near_the_truth_by_the_bound_that_is_stated(shape: tuple[int, int, int]) -> None:
    left, right = made(*shape, seed=3)
    terms = shape[1]
    bits = (53 - math.ceil(math.log2(terms))) // 2
    truth = left.astype(np.float64) @ right.astype(np.float64)
    bound = terms * 2.0 ** (2 - bits) * np.abs(left).max(1)[:, None] * np.abs(right).max(0)
    assert (np.abs(exact_product(left, right) - truth) <= bound).all()
    typical = 2.0**-bits * np.abs(left).max(1)[:, None] * np.linalg.norm(right.astype(np.float64), axis=0)
    assert np.sqrt(np.mean(np.square((exact_product(left, right) - truth) / typical))) < 4


@pytest.mark.parametrize("terms", [1, 2, 3, 384, 512, 513, 4096])
def test_the_largest_sum_that_can_occur_is_exact(terms: int) -> None:
    """All signs alike and every number the largest that rounds up: the sum comes to 2^53, and not beyond."""
    ones = np.full((2, terms), np.nextafter(1.0, 0.0))
    assert (exact_product(ones, ones.T) == terms).all()


def test_what_is_not_finite_spoils_its_own_row_and_column_alone() -> None:
    left, right = made(6, 9, 4, seed=4)
    clean = exact_product(left, right)
    left[2, 3], left[4, 0], right[5, 1] = np.nan, np.inf, -np.inf
    found = exact_product(left, right)
    assert np.isnan(found[[2, 4]]).all()
    assert np.isnan(found[:, 1]).all()
    rest = np.ix_([0, 1, 3, 5], [0, 2, 3])
    np.testing.assert_array_equal(found[rest], clean[rest])


def test_zeros_none_and_the_smallest_numbers_there_are() -> None:
    assert exact_product(np.zeros((2, 3)), np.ones((3, 4))).tolist() == [[0.0] * 4] * 2
    assert exact_product(np.zeros((0, 3)), np.ones((3, 4))).shape == (0, 4)
    assert exact_product(np.zeros((2, 0)), np.ones((0, 4))).tolist() == [[0.0] * 4] * 2
    tiny = np.full((1, 1), 5e-324)
    assert exact_product(tiny, np.array([[2.0**1000]]))[0, 0] == 5e-324 * 2.0**1000


@pytest.mark.identity
def test_a_weighted_sum_is_rounded_once_alone_and_among_others() -> None:
    left, right = made(40, 385, 1, seed=5)
    weights = right[:, 0].astype(np.float64)
    found = exact_sums(left, weights)
    draws = np.random.default_rng(6)
    rows = draws.permutation(40)[:7]
    np.testing.assert_array_equal(exact_sums(left[rows], weights), found[rows])
    order = draws.permutation(385)
    np.testing.assert_array_equal(exact_sums(left[:, order], weights[order]), found)
    products = [Fraction(float(a) * float(b)) for a, b in zip(left[0], weights, strict=True)]
    assert found[0] == float(sum(products))
    assert exact_sums(left[:0], weights).shape == (0,)
