"""Privacy accounting: what a sequence of noised releases costs, as epsilon at a fixed delta.

Letters: q is the Poisson sampling rate of the protected unit, z the noise multiplier (noise standard
deviation over the clip norm), T the number of steps. Neighbours differ by adding or removing one unit.
Curves are composed first and converted to epsilon once, at the end. Every value is an upper bound.

Accountants: `prv` (prv.py; within 1 % of what there is to lose, the default), `rdp` (rdp.py; 12 to 29 %
above it) and `gaussian`, exact where every unit takes part in every step (q = 1; Balle and Wang 2018, arXiv
1805.06530).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from commonground.errors import InputError, PrivacyError
from commonground.privacy.prv import epsilon_prv
from commonground.privacy.rdp import WHOLE_ORDERS, epsilon_rdp

Accountant = Literal["rdp", "prv", "gaussian"]
ACCOUNTANTS: tuple[str, ...] = ("rdp", "prv", "gaussian")
DEFAULT: Accountant = "prv"
PRV_ERROR = 0.01  # absolute error of epsilon, added so that the value stays an upper bound; less where
PRV_SHARE = 1 / 200  # ... that would be a larger part of epsilon than this
PRV_LIMIT = 200.0  # beyond this RDP epsilon the PRV grid outgrows memory, and the number says nothing anyway
GRID = 2048  # points of the grid of noise multipliers to a doubling: steps of at most 5e-4, relative
MOST_NOISE, LEAST_NOISE = 2.0**17, 1e-2
FEW_PEOPLE = 100  # with fewer no epsilon is claimed; a rule of ours, not of the mathematics
LARGEST_SHARE = 0.1  # of delta times the number of units
LARGEST_DELTA = 1e-3


class Charge(NamedTuple):
    """`steps` releases of one Poisson-sampled Gaussian: q, z, T."""

    sampling: float
    noise_multiplier: float
    steps: int


def epsilon_sampled_gaussian(
    noise_multiplier: float, sampling: float, steps: int, delta: float, accountant: str = DEFAULT
) -> float:
    """Epsilon of T Poisson-sampled Gaussian releases.

    Args:
        noise_multiplier: z; 0 gives infinity.
        sampling: q in [0, 1], the probability that the unit takes part in one step.
        steps: T; 0 gives 0.
        delta: in (0, 1).
        accountant: rdp | prv, or gaussian when q is 1.

    Returns:
        An upper bound of epsilon, in nats.

    Raises:
        InputError: a value is outside its range.
    """
    return epsilon_composed([Charge(sampling, noise_multiplier, steps)], delta, accountant)


def epsilon_composed(
    charges: Iterable[tuple[float, float, int]], delta: float, accountant: str = DEFAULT
) -> float:
    """Epsilon of several sampled Gaussians (q, z, T) on the same units, composed adaptively.

    Under `prv` the smaller of the PRV and the RDP bound is returned (both hold), and the RDP bound where PRV
    cannot be computed. Raises `InputError` like `epsilon_sampled_gaussian`.
    """
    if not 0 < delta < 1:
        raise InputError(f"delta is {delta!r}; a number between 0 and 1 is needed")
    if accountant not in ACCOUNTANTS:
        raise InputError(f"accountant is {accountant!r}; known accountants: {', '.join(ACCOUNTANTS)}")
    merged = flatten(charges)
    if not merged:
        return 0.0
    if any(charge.noise_multiplier == 0 for charge in merged):
        return math.inf
    if accountant == "gaussian":
        return _repeatable(epsilon_gaussian(_mu(merged), delta))
    if accountant == "rdp":
        return _repeatable(epsilon_rdp(merged, delta))
    rough = epsilon_rdp(merged, delta, WHOLE_ORDERS)
    if 0 < rough <= PRV_LIMIT:
        error = max(min(PRV_ERROR, rough * PRV_SHARE), rough / 2000)
        with contextlib.suppress(RuntimeError, ValueError):  # ways to say that the grid does not fit
            return _repeatable(min(rough, epsilon_prv(merged, delta, error=error)))
    return _repeatable(epsilon_rdp(merged, delta))


def epsilon_together(
    charges: Iterable[tuple[float, float, int]],
    replaced: Iterable[tuple[float, float, int]],
    delta: float,
    accountant: str = DEFAULT,
) -> float:
    """Epsilon of mechanisms that add or remove a unit, and of others in which it is replaced.

    Args:
        charges: (q, z, T) of the first kind.
        replaced: (q, z, T) of the second.
        delta: in (0, 1).
        accountant: of the first kind alone; with both it is PRV, and infinity where PRV cannot be computed.
    """
    own, others = flatten(charges), flatten(replaced)
    if not others:
        return epsilon_composed(own, delta, accountant)
    if any(charge.noise_multiplier == 0 for charge in (*own, *others)):
        return math.inf
    try:
        return _repeatable(epsilon_prv(own, delta, error=PRV_ERROR, replaced=others))
    except (RuntimeError, ValueError, MemoryError):
        return math.inf


def flatten(charges: Iterable[tuple[float, float, int]]) -> tuple[Charge, ...]:
    """The same charges, equal (q, z) merged, free ones dropped, in ascending order of (q, z)."""
    steps: dict[tuple[float, float], int] = {}
    for sampling, noise_multiplier, count in charges:
        if not 0 <= sampling <= 1:
            raise InputError(f"sampling rate is {sampling!r}; a number between 0 and 1 is needed")
        if not noise_multiplier >= 0:
            raise InputError(f"noise multiplier is {noise_multiplier!r}; a number of at least 0 is needed")
        if count < 0 or count != int(count):
            raise InputError(f"steps is {count!r}; a whole number of at least 0 is needed")
        if count and sampling and math.isfinite(noise_multiplier):
            pair = (float(sampling), float(noise_multiplier))
            steps[pair] = steps.get(pair, 0) + int(count)
    return tuple(Charge(q, z, steps[q, z]) for q, z in sorted(steps))


def noise_for(epsilon: float, delta: float, sampling: float, steps: int, accountant: str = DEFAULT) -> float:
    """Smallest noise multiplier (to 1e-3 relative) whose epsilon is at most the target.

    Args:
        epsilon: the target; infinity gives 0.
        delta: in (0, 1).
        sampling: q.
        steps: T.
        accountant: rdp | prv, or gaussian when q is 1.

    Raises:
        PrivacyError: the accountant cannot certify so small an epsilon at any noise.
    """
    _check_target(epsilon)
    if epsilon == math.inf or sampling == 0 or steps == 0:
        return 0.0
    what = f"delta {delta:g} with accountant {accountant}"

    def rough(noise: float) -> float:
        return epsilon_rdp([(sampling, noise, steps)], delta, WHOLE_ORDERS)

    def reached(noise: float) -> float:
        return epsilon_sampled_gaussian(noise, sampling, steps, delta, accountant)

    if accountant != "prv":
        return _smallest(reached, epsilon, 1.0, what)
    start = 1.0
    with contextlib.suppress(PrivacyError):  # PRV's bound never exceeds RDP's: begin at the cheap answer
        start = _smallest(rough, epsilon, start, what)
    return _smallest(reached, epsilon, start, what, step=1.25)


def _smallest(
    reached: Callable[[float], float], target: float, start: float, what: str, step: float = 2.0
) -> float:
    """Smallest noise of the grid with `reached(noise)` at most `target`; the value returned always holds.

    The last bits of an epsilon differ from one process to another (Fourier transforms and BLAS round by where
    their operands lie), and noise that followed them would differ too: another noise is another run, which
    can neither be resumed nor repeated on a device. So what is searched is a public grid, whose point is the
    same wherever no epsilon lies within rounding of the target.

    Epsilon is close to a power of the noise, so the bracket is cut by interpolation of logarithms, a point
    to the right and a point to the left of the expected root in turn, and halved every third time. `step`
    is the first bracket's width: less than 2 where `start` is known to be near.
    """
    width = max(1, math.ceil(GRID * math.log2(step)))
    high = _point_above(start)
    above = reached(_grid(high))
    while above > target:
        high += GRID
        if _grid(high) > MOST_NOISE:
            raise PrivacyError(
                f"no noise gives epsilon {target:g} at {what}", hint="ask for a larger epsilon, or use prv"
            )
        above = reached(_grid(high))
    low = high - width
    below = reached(_grid(low))
    while below <= target:
        high, above, low = low, below, low - GRID
        if _grid(high) < LEAST_NOISE:
            return _grid(high)
        below = reached(_grid(low))
    turn = 0
    while high - low > 1:
        middle = (low + high) // 2
        if turn % 3 != 2 and above > 0 and math.isfinite(below):
            share = math.log(below / target) / math.log(below / above)
            middle = min(max(low + math.floor((high - low) * share) + (turn % 3 == 0), low + 1), high - 1)
        value = reached(_grid(middle))
        if value <= target:
            high, above = middle, value
        else:
            low, below = middle, value
        turn += 1
    return _grid(high)


def _grid(point: int) -> float:
    """The grid of noise: exact floats, `GRID` of them to a doubling; ascending, 1 is number 0."""
    doublings, place = divmod(point, GRID)
    return math.ldexp(GRID + place, doublings) / GRID


def _point_above(noise: float) -> int:
    """Number of the first point of the grid that is at least `noise`, above 0."""
    mantissa, exponent = math.frexp(noise)  # noise = mantissa * 2^exponent, 0.5 <= mantissa < 1
    return (exponent - 1) * GRID + math.ceil((2 * mantissa - 1) * GRID)


def _repeatable(epsilon: float) -> float:
    """The epsilon, rounded up to 36 bits: what is beyond them differs between processes (see `_smallest`)."""
    if epsilon <= 0 or not math.isfinite(epsilon):
        return epsilon
    mantissa, exponent = math.frexp(epsilon)
    return math.ldexp(math.ceil(math.ldexp(mantissa, 36)), exponent - 36)


def epsilon_gaussian(mu: float, delta: float) -> float:
    """Epsilon of the Gaussian mechanism with sensitivity / noise deviation = mu.

    Solves Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu) = delta (Balle and Wang, ICML 2018).
    k releases of multiplier z are one with mu = sqrt(k)/z; replacing a unit doubles mu.
    """
    if mu == 0 or _delta_gaussian(0.0, mu) <= delta:
        return 0.0
    if mu == math.inf:
        return math.inf
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # zCDP's bound
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _delta_gaussian(middle, mu) <= delta else (middle, high)
    return high


def noise_for_gaussian(epsilon: float, delta: float, sensitivity: float = 1.0, releases: int = 1) -> float:
    """Noise deviation for `releases` Gaussian releases of L2 sensitivity `sensitivity`, to 1e-3 relative.

    Sensitivity 2 (replace one unit, in units of the clip norm) gives the noise multiplier z of local trust.
    """
    _check_target(epsilon)
    if epsilon == math.inf or releases == 0:
        return 0.0
    unit = _smallest(lambda noise: epsilon_gaussian(1 / noise, delta), epsilon, 1.0, f"delta {delta:g}")
    return sensitivity * math.sqrt(releases) * unit


def _delta_gaussian(epsilon: float, mu: float) -> float:
    from scipy.special import log_ndtr, ndtr

    if mu == math.inf:
        return 1.0
    return float(
        ndtr(mu / 2 - epsilon / mu) - math.exp(min(700.0, epsilon + log_ndtr(-mu / 2 - epsilon / mu)))
    )


def _mu(charges: tuple[Charge, ...]) -> float:
    if any(charge.sampling != 1 for charge in charges):
        raise InputError("accountant gaussian needs a sampling rate of 1 in every charge; use rdp or prv")
    return math.sqrt(sum(charge.steps / charge.noise_multiplier**2 for charge in charges))


def _check_target(epsilon: float) -> None:
    if not epsilon > 0:
        raise InputError(f"epsilon is {epsilon!r}; a number above 0, or inf, is needed")


def largest_delta(units: int) -> float:
    """1/(10 units), and never more than 0.001: the default, and the most that gets a number.

    A mechanism that shows each unit in clear with probability delta keeps an (epsilon, delta) promise; with
    this delta it would show one of all units with probability below 10 %.

    Args:
        units: how many there are of what the claim protects: people, or comparisons.
    """
    return min(LARGEST_SHARE / max(1, units), LARGEST_DELTA)


default_delta = largest_delta


def delta_is_meaningful(units: int, delta: float) -> bool:
    """Whether delta is small enough for a claim over so many units."""
    return delta <= largest_delta(units) * (1 + 1e-9)


def flip_probability(epsilon: float) -> float:
    """Probability 1/(1+e^epsilon) with which randomised response reports the other answer (Warner 1965)."""
    if not epsilon > 0:
        raise InputError(f"epsilon is {epsilon!r}; a number above 0, or inf, is needed")
    return math.exp(-epsilon) / (1 + math.exp(-epsilon))
