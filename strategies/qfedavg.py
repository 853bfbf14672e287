r"""q-FedAvg: people with a larger loss weigh more.

    device:  F = loss at u, before training;  a = F^q (y - u);  b = F^q + q F^(q-1) L ||y - u||^2
             with L = 1/(K eta);  sends (a, s b), clipped jointly to C
    server:  u <- u + mean of a / mean of b

Li, Sanjabi, Beirami, Smith, ICLR 2020, arXiv 1905.10497, with both sums divided by L. F is the mean -log
probability of what the person chose, at most `highest` nats; Flower's QFedAvg takes whatever `train_loss` a
device reports in clear, and most report it after training. A joint clip keeps a person's a/b. L is the
inverse of the step that a whole round makes: the paper's 1/eta with K = 1. q = 0 is FedAvg over those who
are there. With noise the denominator has a floor. A liar who reports a large F gains at most what the clip
leaves: C/m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from commonground.strategies.server_half import Arrays, ServerHalf, between
from commonground.training.client_half import EXTRA, Answer, ClientHalf, Spec, Visit
from commonground.training.people import along

DENOMINATOR = f"{EXTRA}denominator"
LEAST = 1e-10  # nats, as Flower's: F^(q-1) of a loss of exactly 0 would be infinite


class QFedAvg(ServerHalf):
    """The server's half.

    Args:
        q: 0 or above; how much the worst off count.
        scale: s, how much of the clip the scalar takes.
        highest: bound on a person's loss, nats.
        least: floor on the mean of b; more where the noise is louder.
    """

    def __init__(self, q: float = 1.0, scale: float = 0.5, highest: float = 2.0, least: float = 0.05) -> None:
        super().__init__()
        self.power, self.scale = between("q", q, 0.0, 10.0), between("scale", scale, 1e-6, math.inf)
        self.highest, self.least = (
            between("highest", highest, 0.1, math.inf),
            between("least", least, 0.0, 1.0),
        )

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return QFedAvgDevice(self.power, self.scale, self.highest)

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        (mean,) = moves
        below = max(float(mean[DENOMINATOR]) / self.scale, self.least, 3 * self.noise / self.scale, LEAST)
        own = {name: value + mean[name] / below for name, value in start.items() if name != DENOMINATOR}
        return own | {DENOMINATOR: np.zeros(())}


class QFedAvgDevice(ClientHalf):
    """The device's half; its arguments are the server's."""

    def __init__(self, power: float, scale: float, highest: float) -> None:
        self.power, self.scale, self.highest = power, scale, highest

    def sent(self, shared: Spec, groups: int) -> Spec:
        """The scalar s b."""
        return {DENOMINATOR: ()}

    def update(self, visit: Visit) -> Answer:
        """See the module's text."""
        moved, after = visit.train()
        plan, q = visit.plan.shared, self.power
        loss = visit.surprise().clamp(min=LEAST, max=self.highest)
        weight = loss**q * visit.learns
        square = sum(value.square().reshape(len(value), -1).sum(1) for value in moved.values())
        below = weight + q * loss ** (q - 1) * square / (plan.steps * plan.rate)
        update = {name: along(weight, value) * value for name, value in moved.items()}
        return Answer(update | {DENOMINATOR: self.scale * below}, after)
