"""The one-shot dual against the primal, solved by another method; by hand where that is possible."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from commonground.errors import InputError
from commonground.randomness import generator
from commonground.training.one_shot import dual, one_shot_price, tilted


def drawn(seed: int, prompts: int = 1, answers: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards, safety in (0, 1) against them, and a shared policy."""
    draws = generator(seed, "one shot")
    rewards = draws.standard_normal((prompts, answers))
    safety = 1 / (1 + np.exp(rewards + 0.5 * draws.standard_normal((prompts, answers))))
    log_shared = np.log(draws.dirichlet(np.ones(answers), size=prompts))
    return rewards, safety, log_shared


@pytest.mark.parametrize("seed", range(5))
def test_the_dual_gives_the_solution_of_the_primal(seed: int) -> None:
    """K = 6: SLSQP on max pi r - beta KL(pi || pi_s), g pi >= b, sum pi = 1, which knows of no price."""
    rewards, safety, log_shared = drawn(seed)
    r, g, log_s, beta = rewards[0], safety[0], log_shared[0], 0.5
    free = tilted(rewards, safety, log_shared, 0.0, beta=beta)[0]
    least = 0.5 * float(free @ g) + 0.5 * float(g.max())
    price = one_shot_price(rewards, safety, log_shared, beta=beta, least=least)
    found = tilted(rewards, safety, log_shared, price, beta=beta)[0]
    assert price > 0
    assert abs(found @ g - least) < 1e-10  # tight

    def value(pi: np.ndarray) -> float:
        return float(-(pi @ r) + beta * (pi @ (np.log(pi) - log_s)))

    def slope(pi: np.ndarray) -> np.ndarray:
        return np.asarray(-r + beta * (np.log(pi) - log_s + 1))

    solved = minimize(
        value, np.exp(log_s), jac=slope, method="SLSQP", bounds=[(1e-12, 1)] * 6,
        constraints=[
            {"type": "eq", "fun": lambda pi: pi.sum() - 1, "jac": lambda pi: np.ones(6)},
            {"type": "ineq", "fun": lambda pi: pi @ g - least, "jac": lambda pi: g},
        ],
        options={"ftol": 1e-16, "maxiter": 500},
    )  # fmt: skip
    assert abs(solved.x - found).max() < 2e-8
    assert math.isclose(
        -solved.fun, dual(price, rewards, safety, log_shared, beta=beta, least=least), abs_tol=1e-9
    )


def test_the_price_is_the_minimum_of_the_dual() -> None:
    rewards, safety, log_shared = drawn(7, prompts=20)
    price = one_shot_price(rewards, safety, log_shared, beta=0.3, least=0.6)
    here = dual(price, rewards, safety, log_shared, beta=0.3, least=0.6)
    assert price > 0.1
    for other in (0.0, price - 0.05, price + 0.05, price + 5):
        assert dual(other, rewards, safety, log_shared, beta=0.3, least=0.6) > here


def test_two_answers_by_hand() -> None:
    """pi_s = 1/2 each, r = (0, 0), g = (1, 0): b = e / (1 + e) needs lam = beta."""
    zero, safety, log_shared = np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.log([[0.5, 0.5]])
    least = math.e / (1 + math.e)
    price = one_shot_price(zero, safety, log_shared, beta=0.7, least=least)
    assert math.isclose(price, 0.7, rel_tol=1e-12)
    assert tilted(zero, safety, log_shared, price, beta=0.7)[0, 0] == pytest.approx(least, abs=1e-14)


def test_a_constraint_that_holds_costs_nothing_and_one_out_of_reach_is_refused() -> None:
    rewards, safety, log_shared = drawn(3)
    assert one_shot_price(rewards, safety, log_shared, beta=0.5, least=0.0) == 0.0
    with pytest.raises(InputError, match=r"asks for a mean of 1; accepted: below 0\.\d+"):
        one_shot_price(rewards, safety, log_shared, beta=0.5, least=1.0)
    log_shared[0, safety[0].argmax()] = -math.inf  # what shared cannot say is no way out
    with pytest.raises(InputError, match="the shared policy can give"):
        one_shot_price(rewards, safety, log_shared, beta=0.5, least=float(safety.max()) - 1e-3)
    with pytest.raises(InputError, match="beta is 0; accepted: above 0"):
        one_shot_price(rewards, safety, log_shared, beta=0.0, least=0.5)
