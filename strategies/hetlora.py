r"""HetLoRA: devices of different ranks share one adapter.

    device:  takes the first r_i components of (B, A), trains them, and is zero in the others
    server:  B <- sum w_i B_i,  A <- sum w_i A_i,    w_i = ||B_i A_i||_F / sum_j ||B_j A_j||_F

Cho, Liu, Xu, Fahrezi, Joshi, EMNLP 2024, arXiv 2401.06432: zero padding, truncation and weights; without the
paper's pruning of a device's own rank. Person i has rank r / 2^(i mod kinds), at least 1: in a simulation
the rank stands for what a device can hold. It is inexact like FedIT; and since a component that few devices
have is averaged with the zeros of the others, the first components grow at the expense of the last ("rank
collapse"). The weights look at everybody's product: no central noise, no secure summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from commonground.strategies.factors import arrived, factors_of
from commonground.strategies.lora_algebra import mean_factors, strengths
from commonground.strategies.server_half import Arrays, ServerHalf, between
from commonground.training.client_half import Answer, ClientHalf, Visit
from commonground.training.model import Tensors
from commonground.training.people import along, take
from commonground.training.steering import Steering, only

NOTHING = 1e-5  # part of a component that float32 may leave of zero


class HetLoRA(ServerHalf):
    """The server's half.

    Args:
        kinds: how many kinds of devices there are; 1 = everybody has the full rank.
    """

    individual, factors = True, "product"

    def __init__(self, kinds: float = 3) -> None:
        super().__init__()
        self.kinds = int(between("kinds", kinds, 1, 16))

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return HetLoRADevice(self.kinds)

    def settings(self) -> dict[str, Any]:
        """Both factors train; factors of several rounds are not averaged, since their products differ."""
        return {"model.shared_factors": "both", "strategy.average": False}

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        after = dict(start)
        for one in factors_of(start):
            pairs = arrived(start, moves, one)
            b, a = mean_factors(pairs, strengths(pairs))
            # What nobody of this round had room for stays: zero in both factors, it could never learn again.
            gone = np.linalg.norm(a, axis=1) <= NOTHING * np.linalg.norm(start[one.right], axis=1)
            after[one.left] = np.where(gone, start[one.left], b)
            after[one.right] = np.where(gone[:, None], start[one.right], a)
        return after


class HetLoRADevice(ClientHalf):
    """The device's half."""

    def __init__(self, kinds: int) -> None:
        self.kinds = kinds

    def update(self, visit: Visit) -> Answer:
        """Its message says that the components it has no room for are zero: that is minus what came."""
        count = len(visit.people.index)
        whole = take(visit.shared, count)
        free = self._room(visit)
        start = {name: value * free[name] for name, value in whole.items()}
        moved, after = visit.train(Steering(free=free, start=start))
        cut = only(visit.learns, {name: start[name] - value for name, value in whole.items()})
        return Answer({name: value + cut[name] for name, value in moved.items()}, after)

    def _room(self, visit: Visit) -> Tensors:
        """Name -> (P, *shape) of ones and zeros: the components that each person's device can hold."""
        room: Tensors = {}
        kind = torch.tensor([person % self.kinds for person in visit.people.index])
        for one in factors_of(visit.shared):
            left, right = visit.shared[one.left], visit.shared[one.right]
            rank = right.shape[0]
            own = torch.clamp(rank // 2**kind, min=1)
            mask = (torch.arange(rank) < along(own, torch.zeros(1, 1))).float()
            room[one.left] = mask[:, None, :].expand(-1, *left.shape)
            room[one.right] = mask[:, :, None].expand(-1, *right.shape)
        return room
