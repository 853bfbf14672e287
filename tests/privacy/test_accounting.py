import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonground.errors import InputError, PrivacyError
from commonground.privacy import accounting
from commonground.privacy.accounting import (
    Charge,
    default_delta,
    delta_is_meaningful,
    epsilon_composed,
    epsilon_gaussian,
    epsilon_sampled_gaussian,
    flatten,
    noise_for,
    noise_for_gaussian,
)
from commonground.privacy.rdp import ORDERS, epsilon_rdp, rdp_step

# (q, z, T, delta) -> RDP epsilon; measured once with Opacus' default orders, kept as golden values.
GOLDEN = [
    (1, 1, 1, 1e-5, 4.7285),
    (1, 10, 100, 1e-5, 4.7285),
    (0.01, 1, 1000, 1e-5, 2.1014),
    (0.01, 0.8, 500, 1e-6, 3.5302),
    (0.1, 1, 100, 1e-4, 6.8216),
    (0.001, 0.6, 2000, 1e-6, 3.3133),
    (0.2, 1.5, 60, 1e-3, 4.6231),
]

# (people, cohort, rounds, z) -> RDP epsilon at delta = people^-1.1, as printed to that many digits.
POPULATIONS = [
    (1000, 100, 50, 1, "4.32"),
    (1000, 100, 50, 2, "1.34"),
    (1000, 100, 50, 4, "0.54"),
    (1000, 200, 100, 1, "12.8"),
    (1000, 200, 100, 2, "4.28"),
    (1000, 200, 100, 4, "1.74"),
    (10_000, 500, 100, 0.7, "8.29"),
    (10_000, 500, 100, 1, "3.65"),
    (10_000, 500, 100, 2, "1.11"),
    (100_000, 1000, 200, 0.7, "3.90"),
    (100_000, 1000, 200, 1, "1.49"),
    (100_000, 1000, 200, 2, "0.35"),
    (100_000, 5000, 200, 0.7, "12.8"),
    (100_000, 5000, 200, 1, "5.74"),
    (100_000, 5000, 200, 2, "1.84"),
]


@pytest.mark.parametrize(("q", "z", "steps", "delta", "epsilon"), GOLDEN)
def test_golden_rdp(q: float, z: float, steps: int, delta: float, epsilon: float) -> None:
    assert epsilon_sampled_gaussian(z, q, steps, delta, "rdp") == pytest.approx(epsilon, abs=6e-5)


@pytest.mark.parametrize(("people", "cohort", "rounds", "z", "printed"), POPULATIONS)
def test_population_table_rdp(people: int, cohort: int, rounds: int, z: float, printed: str) -> None:
    found = epsilon_sampled_gaussian(z, cohort / people, rounds, people**-1.1, "rdp")
    half = 0.5 * 10.0 ** -len(printed.split(".")[1])
    assert abs(found - float(printed)) <= half * 1.001


def test_two_mechanisms_compose_before_conversion() -> None:
    charges = [(0.01, 1, 500), (0.05, 2, 200)]
    together = epsilon_composed(charges, 1e-5, "rdp")
    assert together == pytest.approx(2.2838, abs=6e-5)
    assert together < sum(epsilon_composed([charge], 5e-6, "rdp") for charge in charges)
    assert epsilon_composed(reversed(charges), 1e-5, "rdp") == together


def test_split_history_costs_the_same() -> None:
    assert epsilon_composed([(0.2, 1.1, 10), (0.2, 1.1, 20)], 1e-3) == epsilon_composed(
        [(0.2, 1.1, 30)], 1e-3
    )
    assert flatten([(0.2, 1.1, 10), (0, 5, 3), (0.2, 1.1, 0), (0.2, 1.1, 20)]) == (Charge(0.2, 1.1, 30),)


def test_edges() -> None:
    assert epsilon_sampled_gaussian(0, 0.1, 1, 1e-5) == math.inf
    assert epsilon_sampled_gaussian(1, 0.1, 0, 1e-5) == 0
    assert epsilon_sampled_gaussian(0, 0.1, 0, 1e-5) == 0
    assert epsilon_sampled_gaussian(1, 0, 10, 1e-5) == 0
    assert epsilon_composed([], 1e-5) == 0


@pytest.mark.parametrize(
    ("z", "q", "steps", "delta", "accountant", "word"),
    [
        (-1, 0.1, 1, 1e-5, "rdp", "noise multiplier"),
        (math.nan, 0.1, 1, 1e-5, "rdp", "noise multiplier"),
        (1, 1.1, 1, 1e-5, "rdp", "sampling rate"),
        (1, 0.1, -1, 1e-5, "rdp", "steps"),
        (1, 0.1, 1.5, 1e-5, "rdp", "steps"),
        (1, 0.1, 1, 0, "rdp", "delta"),
        (1, 0.1, 1, 1, "rdp", "delta"),
        (1, 0.1, 1, 1e-5, "moments", "rdp, prv"),
        (1, 0.1, 1, 1e-5, "gaussian", "sampling rate of 1"),
    ],
)
def test_bad_values_are_named(
    z: float, q: float, steps: int, delta: float, accountant: str, word: str
) -> None:
    with pytest.raises(InputError, match=word):
        epsilon_sampled_gaussian(z, q, steps, delta, accountant)


@settings(max_examples=15, deadline=None)
@given(
    q=st.floats(0.001, 1),
    z=st.floats(0.4, 8),
    steps=st.integers(1, 500),
    more=st.integers(1, 50),
    delta=st.sampled_from([1e-3, 1e-5]),
)
def test_epsilon_moves_the_right_way(q: float, z: float, steps: int, more: int, delta: float) -> None:
    base = epsilon_sampled_gaussian(z, q, steps, delta, "rdp")
    assert epsilon_sampled_gaussian(z, q, steps + more, delta, "rdp") >= base
    assert epsilon_sampled_gaussian(z * 1.5, q, steps, delta, "rdp") <= base + 1e-12
    assert epsilon_sampled_gaussian(z, q / 2, steps, delta, "rdp") <= base + 1e-9
    assert epsilon_gaussian(math.sqrt(steps) / z, delta) >= epsilon_gaussian(1 / z, delta)
    # Without amplification RDP can only be looser than the exact answer.
    assert epsilon_sampled_gaussian(z, 1, steps, delta, "rdp") >= epsilon_gaussian(
        math.sqrt(steps) / z, delta
    )


def test_exact_gaussian() -> None:
    assert epsilon_gaussian(1, 1e-5) == pytest.approx(4.3772, abs=5e-5)
    assert epsilon_gaussian(0, 1e-5) == 0
    assert epsilon_gaussian(math.inf, 1e-5) == math.inf
    assert epsilon_gaussian(1e-7, 1e-5) == 0  # delta(0) is already below 1e-5
    found = epsilon_composed([(1, 2, 3), (1, 4, 4)], 1e-5, "gaussian")
    assert found == pytest.approx(epsilon_gaussian(1.0, 1e-5), rel=1e-10)


@pytest.mark.parametrize(
    ("k", "z", "epsilon"), [(1, 4, 1.061), (4, 4, 2.254), (10, 4, 3.747), (10, 8, 1.743)]
)
def test_participation_cap_without_amplification(k: int, z: float, epsilon: float) -> None:
    assert epsilon_gaussian(math.sqrt(k) / z, 1e-6) == pytest.approx(epsilon, abs=5e-4)


def test_exact_gaussian_solves_its_equation() -> None:
    from scipy.stats import norm

    for mu in (0.05, 0.7, 3.0):
        epsilon = epsilon_gaussian(mu, 1e-4)
        delta = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
        assert delta == pytest.approx(1e-4, rel=1e-8)


@pytest.mark.parametrize(
    ("epsilon", "delta", "q", "steps", "z"),
    [(8, 1e-3, 0.25, 40, 1.088), (8, 1e-3, 0.25, 20, 0.887), (3, 1e-3, 0.25, 40, 2.056)],
)
def test_noise_for_known_settings(epsilon: float, delta: float, q: float, steps: int, z: float) -> None:
    found = noise_for(epsilon, delta, q, steps, "rdp")
    assert found == pytest.approx(z, rel=2e-3)
    assert epsilon_sampled_gaussian(found, q, steps, delta, "rdp") <= epsilon
    assert epsilon_sampled_gaussian(found / 1.001, q, steps, delta, "rdp") > epsilon


@pytest.mark.parametrize(
    ("epsilon", "delta", "q", "steps", "z"),
    [(8, 1e-3, 0.25, 40, 0.9976), (8, 1.9e-3, 0.2, 40, 0.843), (8, 1e-5, 0.2, 40, 1.078)],
)
def test_noise_for_known_settings_by_default(
    epsilon: float, delta: float, q: float, steps: int, z: float
) -> None:
    found = noise_for(epsilon, delta, q, steps)
    assert found == pytest.approx(z, rel=2e-3)
    assert epsilon_sampled_gaussian(found, q, steps, delta) <= epsilon
    assert epsilon_sampled_gaussian(found / 1.002, q, steps, delta) > epsilon


@settings(max_examples=8, deadline=None)
@given(epsilon=st.floats(0.2, 50), q=st.floats(0.01, 1), steps=st.integers(1, 300))
def test_noise_for_is_enough_and_not_more(epsilon: float, q: float, steps: int) -> None:
    found = noise_for(epsilon, 1e-4, q, steps, "rdp")
    assert epsilon_sampled_gaussian(found, q, steps, 1e-4, "rdp") <= epsilon
    assert epsilon_sampled_gaussian(found / 1.0011, q, steps, 1e-4, "rdp") > epsilon


def test_noise_for_edges() -> None:
    assert noise_for(math.inf, 1e-5, 0.1, 10) == 0
    assert noise_for(1, 1e-5, 0.1, 0) == 0
    assert noise_for_gaussian(math.inf, 1e-5) == 0
    for bad in (0, -1, math.nan):
        with pytest.raises(InputError, match="epsilon"):
            noise_for(bad, 1e-5, 0.1, 10)
        with pytest.raises(InputError, match="epsilon"):
            noise_for_gaussian(bad, 1e-5)
    with pytest.raises(PrivacyError, match="no noise gives epsilon"):
        noise_for(1e-6, 1e-9, 0.1, 10)


def test_noise_for_gaussian_inverts_epsilon() -> None:
    noise = noise_for_gaussian(8, 1e-3, sensitivity=2, releases=10)
    assert epsilon_gaussian(2 * math.sqrt(10) / noise, 1e-3) <= 8
    assert epsilon_gaussian(2 * math.sqrt(10) / (noise / 1.001), 1e-3) > 8
    assert noise_for_gaussian(4.37718, 1e-5) == pytest.approx(1, rel=1e-3)


def test_delta() -> None:
    """What is accepted shows nobody in nine cases of ten, even by the worst mechanism that delta allows."""
    assert default_delta(1000) == pytest.approx(1e-4)
    assert default_delta(300 * 40) == pytest.approx(1 / 120_000)
    assert default_delta(12) == default_delta(1) == 1e-3
    for units in (1, 99, 100, 101, 1000, 8000, 10**6):
        delta = default_delta(units)
        assert delta_is_meaningful(units, delta)
        assert -math.expm1(units * math.log1p(-delta)) < 0.1
        assert not delta_is_meaningful(units, delta * 1.01)
    assert not delta_is_meaningful(200, 0.004)
    assert not delta_is_meaningful(1000, 1000**-1.1)


@pytest.mark.parametrize(
    ("q", "z", "steps"), [(0.2, 1.1, 30), (0.01, 0.5, 2000), (1.0, 9.0, 3), (0.5, 0.4, 50)]
)
def test_bisection_finds_the_best_of_all_orders(q: float, z: float, steps: int) -> None:
    every = [
        steps * rdp_step(q, z, a) + math.log((a - 1) / a) - (math.log(1e-5) + math.log(a)) / (a - 1)
        for a in ORDERS
    ]
    assert epsilon_rdp([(q, z, steps)], 1e-5) == pytest.approx(min(every), abs=1e-12)


# --- the same noise in every process ---

TARGETS = [  # what is asked for -> how the noise is found
    ("prv, sampled", lambda: noise_for(8.0, 1e-3, 0.25, 12)),
    ("prv, few steps", lambda: noise_for(2.0, 1e-5, 2 / 3, 3)),
    ("rdp", lambda: noise_for(1.0, 1e-5, 0.1, 100, "rdp")),
    ("gaussian", lambda: noise_for_gaussian(4.0, 1e-6, sensitivity=2.0)),
]


@pytest.mark.parametrize(("name", "noise"), TARGETS, ids=[name for name, _ in TARGETS])
def test_last_bits_of_an_epsilon_do_not_reach_the_noise(
    name: str, noise: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class: a number that a run is known by hangs on how a process rounds.

    Transforms and products round by where their operands lie in memory, so every process has last bits of
    its own; a device, a worker and a resumed run must find the same noise as whoever began.
    """
    plain, wobble = noise(), random.Random(4)

    def rounded(found: Callable[..., float]) -> Callable[..., float]:
        return lambda *given, **named: found(*given, **named) * (1 + wobble.uniform(-1e-13, 1e-13))

    for function in ("epsilon_prv", "epsilon_rdp", "epsilon_gaussian"):
        monkeypatch.setattr(accounting, function, rounded(getattr(accounting, function)))
    assert {noise() for _ in range(5)} == {plain}


@pytest.mark.identity
def test_noise_and_epsilon_are_these_bits() -> None:
    """Under every kernel that `make kernels` takes; written down once, on a processor with AVX2."""
    noise = noise_for(8.0, 1e-3, 0.25, 12)
    together = accounting.epsilon_together([(0.25, noise, 12)], [(0.5, 1.0, 3)], 1e-3)
    assert (noise.hex(), together.hex()) == ("0x1.6780000000000p-1", "0x1.4ddcea2b80000p+3")


@given(st.floats(1e-2, 2.0**17))
def test_a_noise_multiplier_is_a_point_of_a_public_grid(noise: float) -> None:
    above = accounting._point_above(noise)
    assert accounting._grid(above - 1) < noise <= accounting._grid(above)
    assert accounting._grid(above) / accounting._grid(above - 1) <= 1 + 1 / accounting.GRID


def test_what_is_printed_is_never_below_what_was_computed() -> None:
    for value in (0.0, 1e-9, 0.1, 1 / 3, 7.999999999, math.inf):
        assert value <= accounting._repeatable(value) <= value * (1 + 2.0**-34)
