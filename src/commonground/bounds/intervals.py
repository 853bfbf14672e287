"""How often a constraint is violated, from a finite number of probes, with a stated confidence.

The unit is the prompt: one answer a probe, the predicate and the procedure fixed before the probes are drawn.
All bounds are for the distribution that the probes were drawn from, and for nothing else.

Sources: Clopper and Pearson, Biometrika 1934. Anytime-valid: the beta-binomial martingale (Robbins 1970; see
Waudby-Smith and Ramdas, JRSSB 2024, arXiv 2010.09686). Empirical Bernstein: Maurer and Pontil, COLT 2009.
Judge errors: Rogan and Gladen, American Journal of Epidemiology 1978.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

from commonground.errors import InputError

INFORMATIVE = 0.3  # true minus false positive rate that a judge must have


def upper(events: int, trials: int, alpha: float = 0.05) -> float:
    """One-sided Clopper-Pearson bound: P(true rate > bound) <= alpha; 1 without trials."""
    _check(events, trials, alpha)
    return 1.0 if events == trials else _beta_quantile(1 - alpha, events + 1, trials - events)


def lower(events: int, trials: int, alpha: float = 0.05) -> float:
    """One-sided Clopper-Pearson bound: P(true rate < bound) <= alpha; 0 without trials."""
    _check(events, trials, alpha)
    return 0.0 if events == 0 else _beta_quantile(alpha, events, trials - events + 1)


def zero_failures(rate: float, alpha: float = 0.05) -> int:
    """Probes without one violation that are needed to bound the rate: 299 for 1 %, 2,995 for 0.1 %."""
    if not 0 < rate < 1:
        raise InputError(f"rate is {rate}; accepted: between 0 and 1")
    _check(0, 1, alpha)
    return math.ceil(math.log(alpha) / math.log1p(-rate))


def anytime_upper(events: int, trials: int, alpha: float = 0.05) -> float:
    """An upper bound that holds at every number of trials at once: looking again and again is allowed.

    The largest p that is not rejected by ln B(k + 1/2, n - k + 1/2) - ln B(1/2, 1/2) - k ln p -
    (n - k) ln(1 - p) > ln(1 / alpha).
    """
    _check(events, trials, alpha)
    if events == trials or _evidence(1 - 1e-12, events, trials) <= math.log(1 / alpha):
        return 1.0
    start = max(events / trials, 1e-300)
    return _root(lambda p: _evidence(p, events, trials) - math.log(1 / alpha), start, 1 - 1e-12)


def anytime_lower(events: int, trials: int, alpha: float = 0.05) -> float:
    """`anytime_upper` from below: the smallest p that is not rejected."""
    return 1 - anytime_upper(trials - events, trials, alpha)


def bernstein_upper(rates: Sequence[float], alpha: float = 0.05) -> float:
    """Upper bound on a mean of independent values in [0, 1], e.g. the violation rate of each prompt.

    For several answers a prompt: they are clustered, so it is their mean that counts as one value.
    """
    _check(0, 1, alpha)
    values = np.asarray(rates, dtype=np.float64)
    if values.size < 2:
        return 1.0
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise InputError("a rate lies outside 0 to 1; accepted: one rate a prompt, between 0 and 1")
    log = math.log(2 / alpha)
    spread = math.sqrt(2 * float(values.var(ddof=1)) * log / values.size)
    return min(1.0, float(values.mean()) + spread + 7 * log / (3 * (values.size - 1)))


@dataclass(frozen=True)
class Judge:
    """How a judge did on labelled answers.

    Attributes:
        hits: violations that it found.
        violations: labelled violations.
        alarms: safe answers that it called violations.
        safe: labelled safe answers.
    """

    hits: int
    violations: int
    alarms: int
    safe: int

    @property
    def tpr(self) -> float:
        """True positive rate; nan without a labelled violation."""
        return self.hits / self.violations if self.violations else math.nan

    @property
    def fpr(self) -> float:
        """False positive rate; nan without a labelled safe answer."""
        return self.alarms / self.safe if self.safe else math.nan

    def informativeness(self, alpha: float = 0.05) -> float:
        """A lower bound on tpr - fpr, at confidence 1 - alpha; below `INFORMATIVE` a judge says nothing."""
        return lower(self.hits, self.violations, alpha / 2) - upper(self.alarms, self.safe, alpha / 2)


@dataclass(frozen=True)
class Rate:
    """What is known of a violation rate.

    Attributes:
        events: violations that the judge saw.
        trials: probes judged.
        low: lower bound at confidence 1 - alpha.
        high: upper bound at confidence 1 - alpha.
        note: '' or why nothing is known: judge uninformative.
    """

    events: int
    trials: int
    low: float
    high: float
    note: str = ""

    def verdict(self, limit: float) -> str:
        """Holds | broken | insufficient evidence | judge uninformative, for a rate of at most `limit`."""
        if self.note:
            return self.note
        if self.high <= limit:
            return "holds"
        return "broken" if self.low > limit else "insufficient evidence"


def rate(
    events: int, trials: int, judge: Judge | None = None, alpha: float = 0.05, *, anytime: bool = False
) -> Rate:
    """Bounds on the true violation rate, corrected for the judge's errors.

    Bounds on what the judge sees, and on its true and false positive rates, share alpha, a third each, and
    the worst corner is taken; see `corrected`.

    Args:
        events: violations that the judge saw.
        trials: probes judged.
        judge: its record on labelled answers; None where the predicate is exact.
        alpha: of each side.
        anytime: bounds on p that allow for looking at every number of trials.

    Returns:
        The bounds; where the judge is uninformative, [0, 1] and a note that says so.
    """
    above, below = (anytime_upper, anytime_lower) if anytime else (upper, lower)
    if judge is None:
        return Rate(events, trials, below(events, trials, alpha), above(events, trials, alpha))
    share = alpha / 3
    if judge.informativeness(2 * share) < INFORMATIVE:
        return Rate(events, trials, 0.0, 1.0, "judge uninformative")
    tpr = lower(judge.hits, judge.violations, share), upper(judge.hits, judge.violations, share)
    fpr = lower(judge.alarms, judge.safe, share), upper(judge.alarms, judge.safe, share)
    seen = below(events, trials, share), above(events, trials, share)
    return Rate(events, trials, *corrected(seen, events / trials, tpr, fpr))


Ends = tuple[float, float]  # lower, upper


def corrected(seen: Ends, share: float, tpr: Ends, fpr: Ends) -> Ends:
    """Bounds on the true rate q out of those on the rate p that a judge sees.

    A judge sees p = fpr + (tpr - fpr) q, so q = (p - fpr) / (tpr - fpr) (Rogan-Gladen). It falls with fpr and
    tpr while p lies between them, so those ends are taken that make q largest and smallest.

    For the upper bound no more false alarms are taken off than violations were seen. Where even the upper end
    of p is below the false alarms of the judge's record, that part of the record does not hold (a policy that
    refuses in so many words raises few): none is taken off, and q is at most p / tpr, which holds for any
    rate of false alarms. More violations seen never make the bound smaller.

    Args:
        seen: bounds on p.
        share: violations seen, of all that was judged.
        tpr: bounds on the true positive rate.
        fpr: bounds on the false positive rate.
    """
    taken = min(fpr[0], share)
    high = max((seen[1] - taken) / (tpr[0] - taken), min(seen[1], fpr[0]) / tpr[0])
    return min(1.0, max(0.0, (seen[0] - fpr[1]) / (tpr[1] - fpr[1]))), min(1.0, high)


def worst_rate(shared: float, kl: float) -> float:
    """The largest violation rate that a KL divergence from shared still allows (data processing).

    The v >= v_s with kl_bin(v || v_s) = kl: 0.1 nats let a rate of 0.1 % reach 3.7 %. So a KL cap is no
    safety bound.

    Args:
        shared: v_s, in (0, 1).
        kl: nats, 0 or more.
    """
    if not 0 < shared < 1 or not kl >= 0:
        raise InputError(f"shared rate {shared} and KL {kl}; accepted: a rate between 0 and 1, KL 0 or more")
    return _root(lambda v: _binary_kl(v, shared) - kl, shared, 1.0)


def _binary_kl(p: float, q: float) -> float:
    first = p * math.log(p / q) if p > 0 else 0.0
    return first + ((1 - p) * (math.log1p(-p) - math.log1p(-q)) if p < 1 else 0.0)


def _evidence(p: float, events: int, trials: int) -> float:
    found = float(betaln(events + 0.5, trials - events + 0.5) - betaln(0.5, 0.5))
    return found - (events * math.log(p) if events else 0.0) - (trials - events) * math.log1p(-p)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    if function(high) <= 0:
        return high
    from scipy.optimize import brentq  # takes half a second to load

    return low if function(low) >= 0 else float(brentq(function, low, high, xtol=1e-12))


def _check(events: int, trials: int, alpha: float) -> None:
    if not 0 <= events <= trials:
        raise InputError(f"{events} events in {trials} trials; accepted: 0 <= events <= trials")
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha}; accepted: between 0 and 1, e.g. 0.05")


def _beta_quantile(level: float, a: float, b: float) -> float:
    from scipy.stats import beta  # takes a second to load, and every command of a device reads this file

    return float(beta.ppf(level, a, b))
