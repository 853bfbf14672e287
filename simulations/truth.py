"""What could be known about planted people: oracle numbers by quadrature, never by training (methods J1, K7).

One pair x is put to people of K kinds with weights. p[x, k] is the probability that kind k prefers the first
answer of x. With pbar(x) = sum_k weight_k p[x, k] and h the entropy of a coin in nats:

    personal accuracy   E_x E_k max(p, 1 - p)            what one model a person can reach
    pooled accuracy     E_x max(pbar, 1 - pbar)          what one model for all can reach
    information erased  E_x [h(pbar) - E_k h(p)] = I(Y; person | x)    the price of one model, nats a pair

Two kinds, a share s with margin +d and the rest with -d: for s = .8, d = 2 personal .8808, pooled .7285,
gap .1523 and .2194 nats erased.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit, roots_hermitenorm, roots_sh_jacobi

from commonground.evaluation.closed_forms import entropy
from commonground.simulations.planting import Planting

NOISE_REACH, NOISE_NODES = 8.0, 161
RATIONALITY_NODES, FLIP_NODES = 12, 5


def personal_accuracy(p: np.ndarray, weights: np.ndarray) -> float:
    """E_x E_k max(p, 1-p). p: (X, K), weights: (K,) summing to 1."""
    return float((np.maximum(p, 1 - p) @ weights).mean())


def pooled_accuracy(p: np.ndarray, weights: np.ndarray, among: np.ndarray | None = None) -> float:
    """Accuracy of the best single model, which answers each pair as most people would.

    Args:
        p: (X, K) probabilities of the first answer.
        weights: (K,) whom the model is made for; sums to 1.
        among: (K,) whom it is scored on; None = the same people.
    """
    right = np.where((p @ weights >= 0.5)[:, None], p, 1 - p)
    return float((right @ (weights if among is None else among)).mean())


def information_erased(p: np.ndarray, weights: np.ndarray) -> float:
    """I(Y; person | x) in nats a comparison, at least 0. p: (X, K), weights: (K,) summing to 1."""
    return float((entropy(p @ weights) - entropy(p) @ weights).mean())


@dataclass(frozen=True, eq=False)
class Oracle:
    """Answer probabilities of every kind of planted person, on a grid that stands for the whole law.

    Attributes:
        pairs: (X, 2) style pairs.
        p: (X, K) probability of preferring the first style of the pair.
        weights: (K,) share of each kind; sums to 1.
        minority: (K,) bool.
    """

    pairs: np.ndarray
    p: np.ndarray
    weights: np.ndarray
    minority: np.ndarray

    @property
    def p_pool(self) -> np.ndarray:
        """(X,) share of all people who prefer the first style."""
        return np.asarray(self.p @ self.weights)

    def summary(self) -> dict[str, float | None]:
        """Accuracies that are attainable on a random pair, and the information erased, for the whole law."""
        inside = np.where(self.minority, self.weights, 0.0)
        inside = inside / inside.sum() if inside.sum() else inside
        few = bool(self.minority.any())
        types = np.stack([self._type(False), self._type(True)], axis=1) if few else self.p_pool[:, None]
        share = float(self.weights[self.minority].sum())
        type_weights = np.array([1 - share, share]) if few else np.ones(1)
        return {
            "personal": personal_accuracy(self.p, self.weights),
            "pooled": pooled_accuracy(self.p, self.weights),
            "two_models": personal_accuracy(types, type_weights),
            "minority_personal": personal_accuracy(self.p, inside) if few else None,
            "minority_pooled": pooled_accuracy(self.p, self.weights, inside) if few else None,
            "erased_nats": information_erased(self.p, self.weights),
            "erased_nats_two_models": information_erased(self.p, self.weights)
            - information_erased(types, type_weights),
        }

    def _type(self, minority: bool) -> np.ndarray:
        part = np.where(self.minority == minority, self.weights, 0.0)
        return np.asarray(self.p @ (part / part.sum()))


def _axis(spread: float, nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A quadrature axis, or the single point 0 where there is no spread (a point mass is exact)."""
    return (nodes, weights / weights.sum()) if spread else (np.zeros(1), np.ones(1))


def oracle(planting: Planting) -> Oracle:
    """Quadrature over majority and minority, a person's own noise, rationality and flips.

    The noise in w_s - w_t is N(0, 2 tau^2) for every pair. Its axis is a fine even grid, since max(p, 1-p)
    has a kink that Gauss rules handle badly; the other axes are Gauss-Hermite and Gauss-Jacobi. Errors are
    below 1e-4 in accuracy.
    """
    pairs = planting.style_pairs()
    grid = np.linspace(-NOISE_REACH, NOISE_REACH, NOISE_NODES)
    noise, noise_weights = _axis(planting.tau, grid, np.exp(-(grid**2) / 2))
    log_b, log_b_weights = _axis(planting.rationality, *roots_hermitenorm(RATIONALITY_NODES))
    strength = planting.flip_strength
    eta, eta_weights = np.zeros(1), np.ones(1)
    if planting.flip:  # weight (1-x)^(b-1) x^(a-1) of Beta(a, b): p = a + b - 1, q = a in scipy's letters
        eta, eta_weights = _axis(1.0, *roots_sh_jacobi(FLIP_NODES, strength - 1, planting.flip * strength))
    centres = planting.centres
    delta = centres[:, pairs[:, 0]] - centres[:, pairs[:, 1]]  # (2, X)
    margin = delta.T[:, :, None] + np.sqrt(2) * planting.tau * noise  # (X, 2, noise)
    margin = planting.gamma * margin[..., None] * np.exp(planting.rationality * log_b)  # (X, 2, noise, b)
    straight = expit(margin)[..., None]
    p = (1 - eta) * straight + eta * (1 - straight)  # (X, 2, noise, b, eta)
    share = planting.minority_share
    types = np.array([1 - share, share])
    weights = np.einsum("t,n,b,e->tnbe", types, noise_weights, log_b_weights, eta_weights).ravel()
    minority = np.repeat([False, True], weights.size // 2)
    keep = weights > 0
    return Oracle(pairs, p.reshape(len(pairs), -1)[:, keep], weights[keep], minority[keep])


@dataclass(frozen=True, eq=False)
class Truth:
    """True probabilities of test comparisons, in their order; NaN where a comparison was not planted.

    Attributes:
        p_own: (n,) probability that this person would answer as recorded if asked again.
        p_pool: (n,) share of the whole planted population that would.
        taste: (n,) bool: a planted taste comparison.
        safety: (n,) bool: a planted safety comparison.
        owner: (n,) index into the people of the population.
        minority: (people,) bool, or None where no minority is planted.
        law: `Oracle.summary` of the planting, or {} where taste is not planted.
    """

    p_own: np.ndarray
    p_pool: np.ndarray
    taste: np.ndarray
    safety: np.ndarray
    owner: np.ndarray
    minority: np.ndarray | None
    law: dict[str, float | None]

    def personal(self) -> np.ndarray:
        """(n,) accuracy that a model knowing the person can expect on each comparison: max(p, 1-p)."""
        return np.asarray(np.maximum(self.p_own, 1 - self.p_own))

    def pooled(self) -> np.ndarray:
        """(n,) accuracy that the best single model can expect on each comparison."""
        return np.asarray(np.where(self.p_pool >= 0.5, self.p_own, 1 - self.p_own))

    def among(self, people: np.ndarray) -> Truth:
        """The truth about some people only. people: (people,) bool; owners keep their indices."""
        return self.where(people[self.owner])

    def where(self, keep: np.ndarray) -> Truth:
        """The truth about some comparisons only. keep: (n,) bool."""
        return replace(
            self,
            p_own=self.p_own[keep],
            p_pool=self.p_pool[keep],
            taste=self.taste[keep],
            safety=self.safety[keep],
            owner=self.owner[keep],
        )

    def summary(self) -> dict[str, Any]:
        """Plain values for result.json.

        Returns:
            ``taste`` (where planted): attainable accuracies on these very test comparisons, as means over
            people, the same for the whole law, and the information erased in nats a comparison, exact.
            ``safety`` (where planted): the consensus accuracy that nobody can exceed on average.
        """
        result: dict[str, Any] = {}
        if self.taste.any():
            few = self.minority[self.owner] if self.minority is not None else np.zeros_like(self.taste)
            attainable = {
                "personal": self._mean(self.personal(), self.taste),
                "pooled": self._mean(self.pooled(), self.taste),
                "minority_personal": self._mean(self.personal(), self.taste & few),
                "minority_pooled": self._mean(self.pooled(), self.taste & few),
            }
            result["taste"] = {
                "comparisons": int(self.taste.sum()),
                "attainable": attainable,
                "law": self.law,
                "erased_nats": self.law["erased_nats"],
            }
        if self.safety.any():
            result["safety"] = {
                "comparisons": int(self.safety.sum()),
                "attainable": self._mean(self.personal(), self.safety),
            }
        return result

    def _mean(self, values: np.ndarray, where: np.ndarray) -> float | None:
        """Mean over people of each person's mean over the comparisons in `where`; None without any."""
        if not where.any():
            return None
        count = np.bincount(self.owner[where])
        total = np.bincount(self.owner[where], weights=values[where])
        return float((total[count > 0] / count[count > 0]).mean())
