"""Golden numbers of methods J1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from commonground.evaluation.closed_forms import accuracy_gap, entropy, gaussian, information, two_types


def test_two_types_golden() -> None:
    found = two_types(0.8, 2.0)
    assert found["personal"] == pytest.approx(0.8808, abs=5e-5)
    assert found["pooled"] == pytest.approx(0.7285, abs=5e-5)
    assert found["difference"] == pytest.approx(0.1523, abs=5e-5)
    assert found["nats"] == pytest.approx(0.2194, abs=5e-5)
    assert found["minority"] == pytest.approx(0.1192, abs=5e-5)
    assert found["difference"] == pytest.approx(0.2 * np.tanh(1.0))


def test_gaussian_golden() -> None:
    found = gaussian(0.7, 1.3)
    assert found["pooled"] == pytest.approx(0.7049, abs=5e-5)
    assert found["pooled_noisy"] == pytest.approx(0.6292, abs=5e-5)
    probit = expit(0.7 / np.sqrt(1 + np.pi * 1.3**2 / 8))
    assert probit == pytest.approx(0.6324, abs=5e-5)


def test_gaussian_by_simulation() -> None:
    delta = 0.7 + 1.3 * np.random.default_rng(1).standard_normal(400_000)
    p, found = expit(delta), gaussian(0.7, 1.3)
    assert found["personal_noisy"] == pytest.approx(np.maximum(p, 1 - p).mean(), abs=2e-3)
    assert found["nats"] == pytest.approx(information(p[:, None]), abs=2e-3)


def test_gaussian_without_spread_erases_nothing() -> None:
    found = gaussian(0.7, 1e-9)
    assert found["nats"] == pytest.approx(0, abs=1e-9)
    assert found["personal_noisy"] == pytest.approx(found["pooled_noisy"])


def test_entropy_ends_and_middle() -> None:
    assert entropy([0.0, 0.5, 1.0]) == pytest.approx([0, np.log(2), 0])


@settings(max_examples=50, deadline=None)
@given(st.floats(0.5, 1.0), st.floats(0.01, 6.0))
def test_matrix_forms_agree_with_two_types(share: float, gap: float) -> None:
    n = 200
    first = round(share * n)
    p = np.concatenate([np.full(first, expit(gap)), np.full(n - first, expit(-gap))])[:, None]
    found = two_types(first / n, gap)
    assert information(p) == pytest.approx(found["nats"], abs=1e-12)
    assert accuracy_gap(p) == pytest.approx(found["difference"], abs=1e-12)
    assert found["nats"] >= -1e-12
