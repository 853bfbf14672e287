"""The one-shot dual of constrained preference optimisation (methods F2): one price, found before any step.

    max_pi E r - beta KL(pi || pi_s)   subject to   E g >= b

over finitely many answers has the solution pi ~ pi_s exp((r + lam g) / beta), where lam minimises the convex
D(lam) = E_x beta ln E_{y ~ pi_s} exp((r + lam (g - b)) / beta) over lam >= 0 (MoCAN and PeCAN: Huang et al.,
NeurIPS 2024, arXiv 2405.19544). Its slope is E g - b under that policy, so lam is where the slope crosses 0.
It serves wherever a private reward chooses among answers that are already there: draws, or a menu's items.

`guarantee: average`: E g is a mean over prompts and answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

from commonground.errors import InputError

Floats = NDArray[np.float64]
LARGEST = 1e6  # a price above which a constraint counts as out of reach


def dual(
    price: float, rewards: Floats, safety: Floats, log_shared: Floats, *, beta: float, least: float
) -> float:
    """D(price); arguments as in `one_shot_price`."""
    inner = log_shared + (rewards + price * (safety - least)) / beta
    return float(beta * np.mean(logsumexp(inner, axis=1)))


def tilted(rewards: Floats, safety: Floats, log_shared: Floats, price: float, *, beta: float) -> Floats:
    """(X, K) the policy pi_s exp((r + price g) / beta), normalised; arguments as in `one_shot_price`."""
    return np.asarray(softmax(log_shared + (rewards + price * safety) / beta, axis=1))


def one_shot_price(
    rewards: Floats, safety: Floats, log_shared: Floats, *, beta: float, least: float
) -> float:
    """The price lam >= 0 that minimises the dual.

    Args:
        rewards: (X, K) personal rewards of K answers to each of X prompts.
        safety: (X, K) what the constraint is about, larger is safer.
        log_shared: (X, K) log-probabilities under the shared policy, nats; -inf is impossible.
        beta: weight of the KL, above 0.
        least: b, what E g has to reach.

    Returns:
        0 where the constraint holds anyway.

    Raises:
        InputError: beta is not above 0, or no policy that shared allows reaches `least`.
    """
    if not beta > 0:
        raise InputError(f"beta is {beta:g}; accepted: above 0")

    def slope(price: float) -> float:
        policy = tilted(rewards, safety, log_shared, price, beta=beta)
        return float(np.mean((policy * safety).sum(1))) - least

    if slope(0.0) >= 0:
        return 0.0
    best = float(np.where(np.isfinite(log_shared), safety, -np.inf).max(1).mean())
    high = 1.0
    while slope(high) < 0 and high < LARGEST:
        high *= 2
    if slope(high) < 0:
        raise InputError(
            f"the constraint asks for a mean of {least:g}; accepted: below {best:g}, the mean of the safest "
            "answers that the shared policy can give"
        )
    return float(brentq(slope, 0.0, high, xtol=1e-14, rtol=1e-14))
