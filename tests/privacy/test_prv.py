"""PRV: golden values, both directions, and two other accountants that it must agree with."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonground.privacy.accounting import epsilon_composed, epsilon_gaussian, epsilon_sampled_gaussian
from commonground.privacy.prv import AddedUnit, epsilon_prv

GOLDEN = [
    (1, 1, 1, 1e-5, 4.3874),
    (1, 10, 100, 1e-5, 4.3874),
    (0.01, 1, 1000, 1e-5, 1.8384),
    (0.01, 0.8, 500, 1e-6, 2.9354),
    (0.1, 1, 100, 1e-4, 5.9764),
    (0.001, 0.6, 2000, 1e-6, 2.3652),
    (0.2, 1.5, 60, 1e-3, 4.0042),
]

POPULATIONS = [
    (1000, 100, 50, 1, "3.62"),
    (1000, 100, 50, 2, "1.16"),
    (1000, 100, 50, 4, "0.47"),
    (1000, 200, 100, 1, "11.3"),
    (1000, 200, 100, 2, "3.78"),
    (1000, 200, 100, 4, "1.54"),
    (10_000, 500, 100, 0.7, "7.07"),
    (10_000, 500, 100, 1, "3.14"),
    (10_000, 500, 100, 2, "0.99"),
    (100_000, 1000, 200, 0.7, "3.13"),
    (100_000, 1000, 200, 1, "1.04"),
    (100_000, 1000, 200, 2, "0.30"),
    (100_000, 5000, 200, 0.7, "11.4"),
    (100_000, 5000, 200, 1, "5.14"),
    (100_000, 5000, 200, 2, "1.69"),
]


@pytest.mark.parametrize(("q", "z", "steps", "delta", "epsilon"), GOLDEN)
def test_golden_prv(q: float, z: float, steps: int, delta: float, epsilon: float) -> None:
    assert epsilon_sampled_gaussian(z, q, steps, delta, "prv") == pytest.approx(epsilon, abs=6e-5)


@pytest.mark.parametrize(("people", "cohort", "rounds", "z", "printed"), POPULATIONS)
def test_population_table_prv(people: int, cohort: int, rounds: int, z: float, printed: str) -> None:
    found = epsilon_sampled_gaussian(z, cohort / people, rounds, people**-1.1, "prv")
    half = 0.5 * 10.0 ** -len(printed.split(".")[1])
    assert abs(found - float(printed)) <= half * 1.001


def test_two_mechanisms() -> None:
    assert epsilon_composed([(0.01, 1, 500), (0.05, 2, 200)], 1e-5, "prv") == pytest.approx(2.0499, abs=6e-5)


def test_bounds_the_exact_gaussian_closely() -> None:
    exact = epsilon_gaussian(1, 1e-5)
    assert exact < epsilon_prv(((1.0, 1.0, 1),), 1e-5) < exact + 0.011


def test_loss_of_an_added_unit_has_the_right_distribution() -> None:
    q, z = 0.3, 0.8
    x = np.random.default_rng(5).normal(0, z, 200_000)
    loss = -np.log(1 - q + q * np.exp((2 * x - 1) / (2 * z * z)))
    points = np.array([-2.0, -0.5, 0.0, 0.2, 0.35, -math.log(1 - q) + 0.01])
    empirical = (loss[:, None] <= points).mean(0)
    assert AddedUnit(q, z).cdf(points) == pytest.approx(empirical, abs=4 * 0.5 / math.sqrt(len(x)))
    assert AddedUnit(q, z).cdf(points)[-1] == 1


def test_falls_back_to_rdp_where_prv_cannot_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> float:
        raise RuntimeError("Discrete mean differs significantly from continuous mean.")

    monkeypatch.setattr("commonground.privacy.accounting.epsilon_prv", fail)
    assert epsilon_sampled_gaussian(1, 0.1, 7, 1e-4, "prv") == epsilon_sampled_gaussian(1, 0.1, 7, 1e-4)


def test_never_falls_with_steps() -> None:
    values = [
        epsilon_sampled_gaussian(0.9, 0.25, steps, 1e-3, "prv") for steps in (1, 2, 3, 5, 8, 13, 14, 21)
    ]
    assert values == sorted(values)


# Drawn the same way on every run: numerical accountants are compared here, not fuzzed.
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    q=st.floats(1e-4, 1), z=st.floats(0.5, 5), steps=st.integers(1, 300), delta=st.sampled_from([1e-3, 1e-5])
)
def test_rdp_is_at_least_prv_and_both_are_at_least_pld(q: float, z: float, steps: int, delta: float) -> None:
    """Neither may fall below the optimistic privacy-loss distribution, which is a lower bound."""
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    rdp, prv = epsilon_sampled_gaussian(z, q, steps, delta), epsilon_prv(((q, float(z), steps),), delta)
    pld = from_gaussian_mechanism(
        z, sampling_prob=q, value_discretization_interval=1e-3, pessimistic_estimate=False
    )
    lower = pld.self_compose(steps).get_epsilon_for_delta(delta)
    assert rdp >= prv - 0.021  # PRV adds 0.01 twice: at epsilon near 0 that is more than RDP's looseness
    assert rdp >= lower * 0.999
    assert prv >= lower * 0.999
