r"""What averages of low-rank factors are, and by how much they miss the average of the products.

Person i has B_i (outputs, rank_i) and A_i (rank_i, inputs), weight p_i (they add up to 1); the mean change of
the weights is M = sum p_i B_i A_i, to which every scale s of an adapter is a common factor. Two factors of
the same product are as good as each other, (B R, R^-1 A) for any invertible R, but their averages are not.

    sum p_i B_i A_i - Bm Am = sum p_i (B_i - Bm)(A_i - Am)          Bm, Am the averages of the factors

Who is exact, Bm Am (or what takes its place) = M:

    averages of both factors (FedIT, 2305.05644)    where all A_i are equal, or all B_i, or n = 1
    stacked factors (FLoRA, 2409.05976)             always; the rank is the sum of the ranks
    averages and the residual (FedEx, 2410.09432)   always; the residual has a rank of up to n r
    truncated M (FlexLoRA, 2402.11505)              where rank M <= r; else it misses by sqrt(sum_{k>r} s_k^2)
    weighted averages of padded factors (HetLoRA, 2401.06432)       as FedIT with its weights

Everything is float64, arrays in and arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]  # B (outputs, rank), A (rank, inputs)
NOTHING = 1e-12  # singular values below this part of the largest are zero


def mean_product(pairs: Sequence[Pair], weights: np.ndarray | None = None) -> np.ndarray:
    """M = sum p_i B_i A_i, (outputs, inputs); ranks may differ. Weights (n,) are divided by their sum."""
    p = _shares(len(pairs), weights)
    return np.asarray(sum(share * (b @ a) for share, (b, a) in zip(p, pairs, strict=True)))


def mean_factors(pairs: Sequence[Pair], weights: np.ndarray | None = None) -> Pair:
    """(Bm, Am): each factor averaged by itself, all of one rank (FedIT)."""
    p = _shares(len(pairs), weights)
    return (
        np.asarray(sum(share * b for share, (b, _) in zip(p, pairs, strict=True))),
        np.asarray(sum(share * a for share, (_, a) in zip(p, pairs, strict=True))),
    )


def cross_covariance(pairs: Sequence[Pair], weights: np.ndarray | None = None) -> np.ndarray:
    """What the product of the averages lacks of M, sum p_i (B_i - Bm)(A_i - Am)."""
    p, (b_mean, a_mean) = _shares(len(pairs), weights), mean_factors(pairs, weights)
    return np.asarray(sum(s * ((b - b_mean) @ (a - a_mean)) for s, (b, a) in zip(p, pairs, strict=True)))


def aggregation_error(pairs: Sequence[Pair], weights: np.ndarray | None = None) -> float:
    """eps_agg = ||cross-covariance||_F / ||M||_F; 0 where nobody moved anything."""
    missed = float(np.linalg.norm(cross_covariance(pairs, weights)))
    return missed / size if (size := float(np.linalg.norm(mean_product(pairs, weights)))) else 0.0


def residual(pairs: Sequence[Pair], weights: np.ndarray | None = None) -> np.ndarray:
    """M - Bm Am: what FedEx-LoRA adds to the frozen weights, so that Bm Am + residual = M."""
    b, a = mean_factors(pairs, weights)
    return np.asarray(mean_product(pairs, weights) - b @ a)


def stacked(pairs: Sequence[Pair], weights: np.ndarray | None = None) -> Pair:
    """([p_1 B_1 | ... | p_n B_n], [A_1; ...; A_n]), whose product is M (FLoRA).

    The weight stands on ONE factor: on both it would count twice.
    """
    p = _shares(len(pairs), weights)
    left = [share * b for share, (b, _) in zip(p, pairs, strict=True)]
    return np.concatenate(left, axis=1), np.concatenate([a for _, a in pairs])


def truncated(product: np.ndarray, rank: int) -> Pair:
    """The best factors of `rank` of a matrix, U sqrt(S) and sqrt(S) V' (FlexLoRA; Eckart and Young, 1936).

    Components beyond the rank of the matrix add nothing: their column of B is zero and their row of A is a
    unit vector orthogonal to the others, because where both were zero neither could ever learn.

    Args:
        product: (outputs, inputs).
        rank: at least 1 and at most the smaller side.
    """
    u, s, vt = np.linalg.svd(product, full_matrices=False)
    kept = s[:rank]
    there = kept > NOTHING * s[0]
    root = np.sqrt(kept)
    return u[:, :rank] * np.where(there, root, 0.0), vt[:rank] * np.where(there, root, 1.0)[:, None]


def cut_away(product: np.ndarray, rank: int) -> float:
    """sqrt(sum_{k > rank} s_k^2): the Frobenius norm that `truncated` misses."""
    return float(np.linalg.norm(np.linalg.svd(product, compute_uv=False)[rank:]))


def padded(pair: Pair, rank: int) -> Pair:
    """The same product with zeros up to `rank`."""
    b, a = pair
    more = rank - b.shape[1]
    return np.pad(b, ((0, 0), (0, more))), np.pad(a, ((0, more), (0, 0)))


def first(pair: Pair, rank: int) -> Pair:
    """The first `rank` components: what HetLoRA sends to a device that can hold no more."""
    b, a = pair
    return b[:, :rank], a[:rank]


def strengths(pairs: Sequence[Pair]) -> np.ndarray:
    """(n,) HetLoRA's weights ||B_i A_i||_F / sum; all alike where every product is zero."""
    norms = np.array([np.linalg.norm(b @ a) for b, a in pairs])
    return _shares(len(pairs), norms if norms.any() else None)


def _shares(count: int, weights: np.ndarray | None) -> np.ndarray:
    if weights is None:
        return np.full(count, 1 / count)
    return np.asarray(weights / np.sum(weights), np.float64)
