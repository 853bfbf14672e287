r"""Alpha-fair welfare over people: sum_i U_i^(1-alpha) / (1-alpha), and sum_i log U_i at alpha = 1.

    device:  U_i = max(ln 2 - F_i(u), 0);  w_i = (U_ref / U_i)^alpha, at most cap and at least 1/cap
             sends (w_i (y - u), s w_i, s U_i), clipped jointly to C
    server:  u <- u + mean of w_i (y - u) / mean of w_i;     U_ref <- mean of U_i, averaged over rounds

Mo and Walrand, IEEE/ACM ToN 2000; alpha = 0 utilitarian, 1 Nash (Kaneko and Nakamura, Econometrica 1979),
alpha -> infinity egalitarian. F_i is the mean -log probability of what the person chose, ln 2 at the base
policy: U_i is what she gained over the base policy, in nats a comparison. It has a true zero, the point of
disagreement of Nash's bargaining, and its gradient is the local update's own direction, so that multiplying
the update by U_i^-alpha is the gradient of welfare. (With U = exp(-F) it would not be: there the weight is
U^(1-alpha), and Nash is FedAvg.) Weights are capped relative to a PUBLIC reference and multiplied in before
the clip; weights and utilities leave a device only inside it. Where nobody has gained anything yet all
weigh the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from commonground.strategies.server_half import Arrays, ServerHalf, between
from commonground.training.client_half import EXTRA, Answer, ClientHalf, Spec, Visit
from commonground.training.people import along

WEIGHT, UTILITY, REFERENCE = f"{EXTRA}weight", f"{EXTRA}utility", f"{EXTRA}reference"
LEAST = 1e-3  # nats; the least reference


class AlphaFair(ServerHalf):
    """The server's half.

    Args:
        alpha: 0 or above.
        cap: most that a person weighs, where the one with utility U_ref weighs 1; 1/cap is the least.
        scale: s, how much of the clip the two scalars take.
        memory: part of the old reference that is kept each round, in [0, 1).
    """

    def __init__(
        self,
        alpha: float = 1.0,
        cap: float = 10.0,
        scale: float = 0.5,
        memory: float = 0.5,
    ) -> None:
        super().__init__()
        self.alpha, self.cap = between("alpha", alpha, 0.0, 100.0), between("cap", cap, 1.0, math.inf)
        self.scale = between("scale", scale, 1e-6, math.inf)
        self.memory = between("memory", memory, 0.0, 0.999)

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return AlphaFairDevice(self.alpha, self.cap, self.scale)

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        (mean,) = moves
        weight = max(float(mean[WEIGHT]) / self.scale, 1 / self.cap, 3 * self.noise / self.scale)
        utility = min(max(float(mean[UTILITY]) / self.scale, LEAST), math.log(2))
        own = {n: v + mean[n] / weight for n, v in start.items() if n not in (WEIGHT, UTILITY, REFERENCE)}
        reference = self.memory * float(start[REFERENCE]) + (1 - self.memory) * utility
        return own | {WEIGHT: np.zeros(()), UTILITY: np.zeros(()), REFERENCE: np.asarray(reference)}


def utilitarian(scale: float = 0.5) -> AlphaFair:
    """The sum of what people gain (alpha = 0); FedAvg over those who are there."""
    return AlphaFair(0.0, scale=scale)


def nash(cap: float = 10.0, scale: float = 0.5, memory: float = 0.5) -> AlphaFair:
    """The product of what people gain (alpha = 1)."""
    return AlphaFair(1.0, cap, scale, memory)


def egalitarian(alpha: float = 10.0, cap: float = 10.0, scale: float = 0.5, memory: float = 0.5) -> AlphaFair:
    """A large alpha: the one who gained least, and with the cap about the worst tenth."""
    return AlphaFair(alpha, cap, scale, memory)


class AlphaFairDevice(ClientHalf):
    """The device's half; its arguments are the server's."""

    def __init__(self, alpha: float, cap: float, scale: float) -> None:
        self.alpha, self.cap, self.scale = alpha, cap, scale

    def sent(self, shared: Spec, groups: int) -> Spec:
        """The weight and the utility."""
        return {WEIGHT: (), UTILITY: ()}

    def received(self, shared: Spec, groups: int) -> Spec:
        """U_ref."""
        return {REFERENCE: ()}

    def first(self, shared: Spec, groups: int) -> dict[str, np.ndarray]:
        """A tenth of a nat; the first reports of people put it right."""
        return {REFERENCE: np.asarray(0.1)}

    def update(self, visit: Visit) -> Answer:
        """See the module's text."""
        moved, after = visit.train()
        there = visit.learns.float()
        gained = (math.log(2) - visit.surprise()).clamp(min=0) * there
        weight = welfare_weight(gained, visit.received[REFERENCE], self.alpha, self.cap) * there
        update = {name: along(weight, value) * value for name, value in moved.items()}
        return Answer(update | {WEIGHT: self.scale * weight, UTILITY: self.scale * gained}, after)


def welfare_weight(utility: Tensor, reference: Tensor, alpha: float, cap: float) -> Tensor:
    """(reference / utility)^alpha of (P,) utilities, within 1/cap and cap; `cap` where a utility is 0."""
    if alpha == 0:
        return torch.ones_like(utility)
    ratio = reference.clamp(min=LEAST) / utility.clamp(min=1e-6)
    return torch.exp((alpha * ratio.log()).clamp(-math.log(cap), math.log(cap)))
