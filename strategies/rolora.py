r"""RoLoRA: the two low-rank factors take turns.

    odd rounds:   devices train B at the common A;     B <- B + mean
    even rounds:  devices train A at the common B;     A <- A + mean

Chen, Guo, Ju, Dalal, Zhu, Khisti, NeurIPS 2025, arXiv 2502.01755. In every round one factor is the same for
everybody, so the average of the products is the product of the averages, exactly, and the rule is linear: it
meets central noise and secure summation. The factor that rests is sent as zeros, because a message has one
shape in all rounds; what noise adds to it is thrown away. A product whose B is still zero trains B in even
rounds too: at B = 0 the gradient of A is zero. Who rests is decided by the round and by what was broadcast,
so devices and server agree without a word.

In a `reward` model of form tanh the two factors are u and A of u . tanh(A x). Averages of u are exact there
as well, those of A to first order in the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from commonground.strategies.factors import factors_of
from commonground.strategies.server_half import Arrays, ServerHalf
from commonground.training.client_half import Answer, ClientHalf, Visit
from commonground.training.steering import Steering


class RoLoRA(ServerHalf):
    """The server's half."""

    factors = "each"

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return RoLoRADevice()

    def settings(self) -> dict[str, Any]:
        """Both factors train; factors of several rounds are not averaged, since their products differ."""
        return {"model.shared_factors": "both", "strategy.average": False}

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        (mean,) = moves
        still = resting(self.round, start)
        return {name: value if name in still else value + mean[name] for name, value in start.items()}


class RoLoRADevice(ClientHalf):
    """The device's half."""

    def update(self, visit: Visit) -> Answer:
        """Train one factor; the other one has no gradient, so it stays where it is."""
        still = resting(visit.round, {name: value.numpy() for name, value in visit.shared.items()})
        moved, after = visit.train(Steering(free={name: torch.zeros(()) for name in still}))
        return Answer(moved, after)


def resting(round: int, shared: Mapping[str, np.ndarray]) -> set[str]:
    """Names of the factors that do not train in a round at an adapter as it was broadcast (float32)."""
    return {
        one.right if round % 2 or not shared[one.left].astype(np.float32).any() else one.left
        for one in factors_of(shared)
    }
