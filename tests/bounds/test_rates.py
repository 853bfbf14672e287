"""Bounds on violation rates: the golden numbers of methods.md F3 and F6, coverage, and judges that err."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonground.bounds.intervals import (
    Judge,
    Rate,
    anytime_lower,
    anytime_upper,
    bernstein_upper,
    lower,
    rate,
    upper,
    worst_rate,
    zero_failures,
)
from commonground.errors import InputError
from commonground.evaluation.intervals import clopper_pearson


@pytest.mark.parametrize(
    ("events", "trials", "bound"),
    [(0, 100, 0.0295), (0, 1000, 0.00299), (1, 1000, 0.00474), (5, 1000, 0.01048)],
)
def test_golden_clopper_pearson(events: int, trials: int, bound: float) -> None:
    assert upper(events, trials) == pytest.approx(bound, rel=2e-3)
    assert upper(events, trials) == pytest.approx(clopper_pearson(events, trials, level=0.9)[1], rel=1e-12)


def test_golden_zero_failures() -> None:
    assert (zero_failures(0.01), zero_failures(0.001)) == (299, 2995)
    for rate_ in (0.01, 0.001):
        n = zero_failures(rate_)
        assert upper(0, n) <= rate_ < upper(0, n - 1)
        assert upper(0, n) == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)


@pytest.mark.parametrize(
    ("events", "trials", "bound"), [(0, 299, 0.0212), (0, 1000, 0.0070), (5, 1000, 0.0180)]
)
def test_golden_anytime(events: int, trials: int, bound: float) -> None:
    assert anytime_upper(events, trials) == pytest.approx(bound, abs=6e-5)
    assert anytime_lower(trials - events, trials) == pytest.approx(1 - anytime_upper(events, trials))


@pytest.mark.parametrize(("kl", "bound"), [(0.1, 0.0375), (0.5, 0.127)])
def test_golden_what_a_kl_cap_allows(kl: float, bound: float) -> None:
    assert worst_rate(0.001, kl) == pytest.approx(bound, rel=5e-3)
    assert worst_rate(0.001, 0.0) == pytest.approx(0.001, abs=1e-9)
    assert worst_rate(0.5, 50.0) == 1.0


def test_nobody_asked_is_nothing_known() -> None:
    assert (lower(0, 0), upper(0, 0), anytime_upper(0, 0), bernstein_upper([0.0])) == (0, 1, 1, 1)
    assert (upper(7, 7), anytime_upper(7, 7), lower(0, 9), anytime_lower(0, 9)) == (1, 1, 0, 0)


@settings(max_examples=60)
@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0.001, 0.5))
def test_bounds_enclose_the_rate_seen_and_looking_often_costs(n: int, share: float, alpha: float) -> None:
    k = round(share * n)
    low, high = lower(k, n, alpha), upper(k, n, alpha)
    assert 0 <= low <= k / n <= high <= 1
    assert anytime_lower(k, n, alpha) <= k / n + 1e-9
    assert anytime_upper(k, n, 0.05) >= upper(k, n, 0.05) - 1e-9


def test_the_anytime_bound_holds_at_all_sample_sizes_at_once() -> None:
    """600 runs that look after every probe up to 300: the true rate is ever left out in at most 5 % of them.

    methods.md F6 has .038 over 2,000 runs. A fixed-size bound looked at as often misses far more.
    """
    draws = np.random.default_rng(3).random((600, 300)) < 0.05
    sums = draws.cumsum(1)
    memo: dict[tuple[int, int], bool] = {}

    def out(k: int, n: int) -> bool:
        if (k, n) not in memo:
            memo[k, n] = anytime_upper(k, n) < 0.05
        return memo[k, n]

    looks = range(20, 301, 10)  # the bound can only drop below 5 % from some sample on
    missed = np.mean([any(out(int(row[n - 1]), n) for n in looks) for row in sums])
    often = np.mean([any(upper(int(row[n - 1]), n) < 0.05 for n in looks) for row in sums])
    assert missed <= 0.05
    assert often > 0.1


def test_clustered_answers_are_one_value_a_prompt() -> None:
    assert bernstein_upper([0.0] * 1000) == pytest.approx(7 * math.log(40) / (3 * 999))
    half = bernstein_upper([0.0, 1.0] * 500)
    spread = math.sqrt(2 * 0.25025025 * math.log(40) / 1000)
    assert half == pytest.approx(0.5 + spread + 7 * math.log(40) / (3 * 999))
    with pytest.raises(InputError, match="outside 0 to 1"):
        bernstein_upper([0.5, 1.5])


GOOD = Judge(hits=190, violations=200, alarms=10, safe=200)


def test_a_judge_is_corrected_for() -> None:
    """tpr .95, fpr .05: of 0.05 seen nothing need be true; of 0.5 seen half is."""
    alarms_only, half = rate(50, 1000, GOOD), rate(500, 1000, GOOD)
    assert alarms_only.low == 0.0
    assert alarms_only.high < 0.08
    assert half.low < 0.5 < half.high
    assert half.high - half.low < 0.25


def test_correction_by_hand_in_the_limit_of_many_labels() -> None:
    exact = Judge(hits=900_000, violations=1_000_000, alarms=100_000, safe=1_000_000)
    found = rate(340_000, 1_000_000, exact)  # (.34 - .1) / (.9 - .1) = .3
    assert found.low == pytest.approx(0.3, abs=0.003)
    assert found.high == pytest.approx(0.3, abs=0.003)


def test_few_alarms_never_make_a_bound_tighter_than_an_exact_judge_s() -> None:
    """5 false alarms in 84, taken off where hardly any was seen, would make 300 probes say too much."""
    letters = Judge(hits=55, violations=84, alarms=5, safe=84)
    highs = [rate(events, 300, letters).high for events in range(60)]
    assert highs == sorted(highs)  # more violations never make a bound smaller
    for events, high in enumerate(highs[:12]):
        assert high > rate(events, 300).high


def test_a_policy_that_raises_fewer_alarms_than_the_record_s_can_be_bounded_all_the_same() -> None:
    """False alarms on 17 % of labelled answers, on none of a policy's that refuses in plain words."""
    states = Judge(hits=343, violations=426, alarms=108, safe=627)
    assert rate(1, 157, states).high < 0.06
    rng, q, wrong = np.random.default_rng(3), 0.04, 0
    for _ in range(400):  # it finds 80 % of violations, and never errs the other way here
        record = Judge(int(rng.binomial(426, 0.8)), 426, int(rng.binomial(627, 0.17)), 627)
        wrong += rate(int(rng.binomial(157, q * 0.8)), 157, record).high < q
    assert wrong <= 20


def test_a_judge_that_cannot_tell_says_so() -> None:
    for judge in (
        Judge(hits=100, violations=200, alarms=80, safe=200),  # .5 - .4
        Judge(hits=9, violations=10, alarms=1, safe=10),  # good, but nobody can know from 20 labels
        Judge(hits=0, violations=0, alarms=0, safe=0),
        Judge(hits=10, violations=200, alarms=190, safe=200),  # upside down
    ):
        found = rate(0, 1000, judge)
        assert (found.low, found.high) == (0.0, 1.0)
        assert found.verdict(0.5) == "judge uninformative"
    unlike = rate(0, 1000, GOOD)  # not even the false alarms that 5 % would make: none is taken off
    assert rate(0, 1000).high < unlike.high < 0.01
    assert GOOD.informativeness() > 0.8
    assert (GOOD.tpr, GOOD.fpr) == (0.95, 0.05)


def test_coverage_through_a_judge_that_errs() -> None:
    """400 studies at a true rate of 4 %, labels drawn anew: the bound is below it in at most 5 % of them."""
    rng = np.random.default_rng(4)
    truth, tpr, fpr = 0.04, 0.85, 0.06
    missed = 0
    for _ in range(400):
        judge = Judge(int(rng.binomial(150, tpr)), 150, int(rng.binomial(150, fpr)), 150)
        seen = int(rng.binomial(300, truth * tpr + (1 - truth) * fpr))
        found = rate(seen, 300, judge)
        missed += found.high < truth
    assert missed <= 20


def test_verdicts() -> None:
    assert rate(0, 299).verdict(0.01) == "holds"
    assert rate(0, 298).verdict(0.01) == "insufficient evidence"
    assert rate(30, 299).verdict(0.01) == "broken"
    assert rate(0, 0).verdict(0.5) == "insufficient evidence"
    assert rate(0, 299, anytime=True).high == pytest.approx(0.0212, abs=6e-5)
    assert Rate(0, 0, 0, 1, "x").verdict(1) == "x"


@pytest.mark.parametrize(
    ("events", "trials", "alpha"), [(-1, 5, 0.05), (6, 5, 0.05), (1, 5, 0.0), (1, 5, 1.0)]
)
def test_what_is_no_count_is_refused(events: int, trials: int, alpha: float) -> None:
    for bound in (upper, lower, anytime_upper):
        with pytest.raises(InputError, match=r"accepted:"):
            bound(events, trials, alpha)


def test_rates_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="rate is 0"):
        zero_failures(0.0)
    with pytest.raises(InputError, match="shared rate 0"):
        worst_rate(0.0, 0.1)
