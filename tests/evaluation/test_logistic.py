"""The solver against scikit-learn and against its own optimality conditions."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from commonground.evaluation.logistic import curvature_bound, fit


def rows(seed: int, n: int = 200, d: int = 5) -> np.ndarray:
    draws = np.random.default_rng(seed)
    x = draws.standard_normal((n, d))
    return x * np.where(draws.random(n) < expit(2 * x[:, 0] - x[:, 1]), 1, -1)[:, None]


def test_it_agrees_with_scikit_learn() -> None:
    x = rows(1)
    found = fit(x[None], ridge=2.0, bound=curvature_bound(x[None]), tolerance=1e-10, steps=500)[0]
    both, label = np.concatenate([x, -x]), np.repeat([1, 0], len(x))
    other = LogisticRegression(C=1 / 4.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(both, label)
    assert found == pytest.approx(other.coef_[0], abs=1e-5)  # every pair twice: half the prior precision each


def test_people_at_once_equal_people_one_by_one() -> None:
    tables = [rows(2, 30), rows(3, 12)]
    padded, mask, offset = np.zeros((2, 30, 5)), np.zeros((2, 30)), np.zeros((2, 30))
    for p, x in enumerate(tables):
        padded[p, : len(x)], mask[p, : len(x)], offset[p, : len(x)] = x, 1, 0.3 * x[:, 0]
    options = {"ridge": 1.5, "tolerance": 1e-11, "steps": 2000}
    together = fit(padded, bound=curvature_bound(padded), offset=offset, mask=mask, **options)  # type: ignore[arg-type]
    for p, x in enumerate(tables):
        alone = fit(x[None], bound=curvature_bound(x[None]), offset=0.3 * x[None, :, 0], **options)[0]  # type: ignore[arg-type]
        assert together[p] == pytest.approx(alone, abs=1e-8)
        gradient = 1.5 * alone - expit(-(x @ alone + 0.3 * x[:, 0])) @ x
        assert np.abs(gradient).max() < 1e-7


def test_infinite_ridge_and_no_rows_give_zero() -> None:
    x = rows(4)[None]
    assert not fit(x, ridge=np.inf, bound=curvature_bound(x)).any()
    empty = np.zeros((1, 0, 5))
    assert not fit(empty, ridge=1.0, bound=curvature_bound(empty)).any()


def test_perfectly_separable_rows_stay_finite() -> None:
    x = np.abs(rows(5, 20))[None]
    found = fit(x, ridge=0.01, bound=curvature_bound(x))
    assert np.isfinite(found).all()
