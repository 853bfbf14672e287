"""Matrix products whose bits depend on nothing but the numbers: whole numbers, which float64 adds exactly.

BLAS adds the terms of a product in an order of its own: it differs from one processor to another, with the
number of rows, with a row's place among them and with where they lie in memory, and so do the last bits. Here
rows and columns are first rounded to whole numbers so small that neither a product nor any partial sum leaves
the range in which float64 is exact. Every order then gives the same bits, with or without fused multiplying,
under every kernel and number of threads. (The first slice of the error-free splitting of Ozaki, Ogita, Oishi
and Rump, Numerical Algorithms 59, 2012.)
"""

from __future__ import annotations

import math

import numpy as np

EXACT = 53  # bits of a float64: whole numbers up to 2^53 are added without rounding
BLOCK = 4096  # rows that are held in float64 at once


def exact_product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return `rows @ matrix`, each entry a function of its own row and column alone, bit for bit.

    Each row and each column is scaled by a power of two of its own and rounded to b = (53 - log2 D) / 2 bits:
    22 for D = 384. With m the largest size of an entry of the row, and c of the column, an entry of the
    result is within D 2^(2 - b) m c of the truth, and typically within 2^-b m times the length of the column:
    about what single precision gives.

    Args:
        rows: (n, D) real numbers. A row with one that is not finite gives nan.
        matrix: (D, k) or (D,) real numbers; a column with one that is not finite gives nan.

    Returns:
        (n, k) or (n,) float64.
    """
    columns = matrix[:, None] if matrix.ndim == 1 else matrix
    terms = columns.shape[0]
    bits = (EXACT - max(terms - 1, 0).bit_length()) // 2
    right, up = _whole(np.asarray(columns, np.float64).T, bits)
    right = np.ascontiguousarray(right.T)
    found = np.empty((len(rows), columns.shape[1]))
    for first in range(0, len(rows), BLOCK):
        left, down = _whole(np.asarray(rows[first : first + BLOCK], np.float64), bits)
        found[first : first + BLOCK] = np.ldexp(left @ right, down[:, None] + up - 2 * bits)
        found[first : first + BLOCK][~np.isfinite(left[:, :1]).all(1)] = np.nan
    found[:, ~np.isfinite(right[:1]).all(0)] = np.nan
    return found[:, 0] if matrix.ndim == 1 else found


def exact_sums(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return each row's weighted sum, (n,) float64: the sum of the products, rounded once.

    For a few rows whose last bit decides something, such as scores beside a threshold.

    Args:
        rows: (n, D) real numbers, rounded to float64 once they are multiplied.
        weights: (D,) real numbers.
    """
    wide = np.asarray(weights, np.float64)
    return np.array([math.fsum((np.asarray(row, np.float64) * wide).tolist()) for row in rows], np.float64)


def _whole(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, D) as whole numbers of size at most 2^bits, and the exponent (n,) of each row.

    A row is `whole * 2^(exponent - bits)`, rounded; one that is not finite is nan throughout.
    """
    largest = np.abs(values).max(1, initial=0.0)
    finite = np.isfinite(largest)
    _, exponent = np.frexp(np.where(finite, largest, 0.0))
    whole = np.rint(np.ldexp(np.where(finite[:, None], values, np.nan), bits - exponent[:, None]))
    return whole, exponent
