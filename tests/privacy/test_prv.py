"""PRV, the default accountant: never below what there is to lose, and within 1 % of it; and what else holds.

The reference is `dp_accounting`'s privacy-loss distributions (Doroshenko and others, PoPETs 2022): code of
other people, by another method, with a lower and an upper estimate.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants.analysis import prv as opacus_prv

from commonground.privacy import prv
from commonground.privacy.accounting import (
    DEFAULT,
    epsilon_composed,
    epsilon_gaussian,
    epsilon_sampled_gaussian,
    largest_delta,
    noise_for,
)
from commonground.privacy.prv import AddedUnit, RemovedUnit, epsilon_prv

STEP = 1e-3  # of dp_accounting's grid
# q, T, delta, epsilon: defaults of reward and styles, few and many people, small and large epsilons.
SOLVED = [
    (0.2, 60, largest_delta(200), 8.0),
    (0.2, 40, largest_delta(300), 8.0),
    (0.2, 60, largest_delta(500), 1.0),
    (0.01, 60, largest_delta(100_000), 8.0),
    (1.0, 10, largest_delta(1000), 2.0),
    (0.25, 40, largest_delta(300 * 40), 8.0),
    (0.1, 12, largest_delta(4 * 40), 8.0),
    (0.25, 40, 1e-6, 0.5),
]
# (q, z, T, delta) -> epsilon, as Gopi and others' own numerics gave it with an error of 0.01.
GOLDEN = [
    (1, 1, 1, 1e-5, 4.3874),
    (1, 10, 100, 1e-5, 4.3874),
    (0.01, 1, 1000, 1e-5, 1.8384),
    (0.01, 0.8, 500, 1e-6, 2.9354),
    (0.1, 1, 100, 1e-4, 5.9764),
    (0.001, 0.6, 2000, 1e-6, 2.3652),
    (0.2, 1.5, 60, 1e-3, 4.0042),
]


def bracket(charges: Sequence[tuple[float, float, int]], delta: float) -> tuple[float, float]:
    """Two epsilons, by dp_accounting: the composition costs at least the first, at most the second."""
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    found = []
    for above in (False, True):
        parts = [
            from_gaussian_mechanism(
                z,
                sampling_prob=q,
                value_discretization_interval=STEP,
                pessimistic_estimate=above,
                use_connect_dots=above,
            ).self_compose(steps)
            for q, z, steps in charges
        ]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.compose(part)
        found.append(float(whole.get_epsilon_for_delta(delta)))
    return found[0], found[1]


@pytest.mark.parametrize(("q", "steps", "delta", "target"), SOLVED)
def test_what_is_claimed_is_what_is_lost_and_hardly_more(
    q: float, steps: int, delta: float, target: float
) -> None:
    noise = noise_for(target, delta, q, steps)
    claimed, (least, most) = (
        epsilon_sampled_gaussian(noise, q, steps, delta),
        bracket([(q, noise, steps)], delta),
    )
    assert least <= most * 0.9995 <= claimed <= min(target, most * 1.01)
    assert epsilon_sampled_gaussian(noise, q, steps, delta, "rdp") > 1.05 * claimed


def test_it_is_the_default() -> None:
    assert DEFAULT == "prv"
    assert epsilon_sampled_gaussian(1, 0.2, 40, 1e-4) == epsilon_sampled_gaussian(1, 0.2, 40, 1e-4, "prv")


@pytest.mark.parametrize(("q", "z", "steps", "delta", "epsilon"), GOLDEN)
def test_golden_prv(q: float, z: float, steps: int, delta: float, epsilon: float) -> None:
    assert epsilon_prv(((q, z, steps),), delta) == pytest.approx(epsilon, abs=6e-5)


def test_two_mechanisms() -> None:
    charges = ((0.01, 1, 500), (0.05, 2, 200))
    assert epsilon_prv(charges, 1e-5) == pytest.approx(2.0499, abs=6e-5)
    least, most = bracket(charges, 1e-5)
    assert least <= most * 0.9995 <= epsilon_composed(charges, 1e-5) <= most * 1.01


def test_bounds_the_exact_gaussian_closely() -> None:
    exact = epsilon_gaussian(1, 1e-5)
    assert exact < epsilon_prv(((1.0, 1.0, 1),), 1e-5) < exact + 0.011


@pytest.mark.parametrize(("q", "z"), [(0.3, 0.8), (0.01, 0.4), (1.0, 2.0), (0.2, 9.0)])
def test_losses_have_the_right_distribution(q: float, z: float) -> None:
    """Both directions, against draws; and their means, against Opacus' by scalar integration."""
    rng = np.random.default_rng(5)

    def ratio(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(1 - q + q * np.exp((2 * x - 1) / (2 * z * z))))

    outside = rng.normal(0, z, 200_000)
    inside = outside + (rng.random(len(outside)) < q)
    for loss, drawn in ((AddedUnit(q, z), -ratio(outside)), (RemovedUnit(q, z), ratio(inside))):
        points = np.quantile(drawn, [0.001, 0.1, 0.5, 0.9, 0.999])
        assert loss.cdf(points) == pytest.approx((drawn[:, None] <= points).mean(0), abs=0.005)
        low, high = float(drawn.min()) - 1, float(drawn.max()) + 1
        slow = opacus_prv.TruncatedPrivacyRandomVariable(loss, low, high)
        assert loss.mean(low, high) == pytest.approx(slow.mean(), abs=1e-7)


def test_opacus_own_numerics_agree() -> None:
    """Of removing a unit, the direction that Opacus has."""
    domain = prv._domain(12.0, 2e-4)
    for q, z in ((0.25, 1.0), (0.01, 0.6)):
        theirs = opacus_prv.discretize(
            opacus_prv.TruncatedPrivacyRandomVariable(
                opacus_prv.PoissonSubsampledGaussianPRV(q, z), domain.t_min, domain.t_max
            ),
            domain,
        )
        ours = prv.discretize(RemovedUnit(q, z), domain)
        assert np.abs(ours.pmf - theirs.pmf).max() < 1e-12
        assert ours.domain.shifts == pytest.approx(theirs.domain.shifts, abs=1e-7)


def test_falls_back_to_rdp_where_prv_cannot_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> float:
        raise RuntimeError("the grid is too coarse")

    monkeypatch.setattr("commonground.privacy.accounting.epsilon_prv", fail)
    assert epsilon_sampled_gaussian(1, 0.1, 7, 1e-4, "prv") == epsilon_sampled_gaussian(
        1, 0.1, 7, 1e-4, "rdp"
    )


def test_never_falls_with_steps() -> None:
    values = [epsilon_sampled_gaussian(0.9, 0.25, steps, 1e-3) for steps in (1, 2, 3, 5, 8, 13, 14, 21)]
    assert values == sorted(values)


# Drawn the same way on every run: numerical accountants are compared here, not fuzzed.
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    q=st.floats(1e-4, 1), z=st.floats(0.5, 5), steps=st.integers(1, 300), delta=st.sampled_from([1e-3, 1e-5])
)
def test_no_accountant_falls_below_what_is_lost(q: float, z: float, steps: int, delta: float) -> None:
    truth, _ = bracket([(q, z, steps)], delta)
    for accountant in ("rdp", "prv"):
        assert epsilon_sampled_gaussian(z, q, steps, delta, accountant) >= truth * 0.999


def test_infinite_noise_costs_nothing_and_no_noise_everything() -> None:
    assert epsilon_sampled_gaussian(math.inf, 0.2, 5, 1e-5) == 0
    assert epsilon_sampled_gaussian(0, 0.2, 5, 1e-5) == math.inf


@pytest.mark.parametrize(
    ("q", "z", "steps", "delta"), [(0.2, 0.9, 40, 1e-4), (0.01, 0.6, 60, 1e-5), (1.0, 3.0, 10, 1e-4)]
)
def test_a_replacement_costs_what_dp_accounting_says(q: float, z: float, steps: int, delta: float) -> None:
    """Somebody is in under both neighbours and says something else: more than to be in or out, not twice."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    one = from_gaussian_mechanism(
        z,
        sampling_prob=q,
        value_discretization_interval=STEP,
        neighboring_relation=NeighboringRelation.REPLACE_ONE,
    )
    truth = float(one.self_compose(steps).get_epsilon_for_delta(delta))
    found = epsilon_prv((), delta, replaced=((q, z, steps),))
    assert truth * 0.9995 <= found <= truth * 1.01
    assert found > epsilon_sampled_gaussian(z, q, steps, delta)


def test_adding_and_replacing_compose_below_their_sum() -> None:
    own, other = ((0.25, 1.2, 40),), ((0.2, 1.1, 30),)
    both = epsilon_prv(own, 1e-5, replaced=other)
    assert max(epsilon_prv(own, 1e-5), epsilon_prv((), 1e-5, replaced=other)) < both
    assert both < epsilon_prv(own, 5e-6) + epsilon_prv((), 5e-6, replaced=other)
