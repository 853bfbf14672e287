r"""HetLoRA: devices of different ranks share one adapter.

    device:  takes the first r_i components of (B, A), trains them, and is zero in the others;
             with gamma < 1 on F_i + lam |B_i'| |A_i'|, where ' is the components from gamma r_i on, and where
             |B_i'| |A_i'| is then less than before, r_i <- gamma r_i, already in this message
    server:  B <- sum w_i B_i,  A <- sum w_i A_i,    w_i = ||B_i A_i||_F / sum_j ||B_j A_j||_F

Cho, Liu, Xu, Fahrezi, Joshi, EMNLP 2024, arXiv 2401.06432: zero padding, truncation, weights, and a device's
pruning of its own rank, of each map by itself, rounded down and at least 1; the device remembers it, and it
never grows again. Person i begins with rank r / 2^(i mod kinds), at least 1: in a simulation the rank stands
for what a device can hold. Messages keep their shape, so a pruned component is sent as zeros: pruning takes
work from a device and no bytes. It is inexact like FedIT; and since a component that few devices have is
averaged with the zeros of the others, the first components grow at the expense of the last ("rank
collapse"). The weights look at everybody's product: no central noise, no secure summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from commonground.strategies.factors import Factors, arrived, factors_of
from commonground.strategies.lora_algebra import mean_factors, strengths
from commonground.strategies.server_half import Arrays, ServerHalf, between
from commonground.training.client_half import EXTRA, Answer, ClientHalf, Spec, Visit
from commonground.training.model import Tensors
from commonground.training.people import along, take
from commonground.training.steering import Steering, only

NOTHING = 1e-5  # part of a component that float32 may leave of zero
TINY = 1e-30
PRUNED = f"{EXTRA}pruned"


class HetLoRA(ServerHalf):
    """The server's half.

    Args:
        kinds: how many kinds of devices there are; 1 = everybody has the full rank.
        gamma: what is left of a rank that is pruned; 1 = no device prunes.
        lam: lambda, how hard the last components are held; without effect where gamma is 1.
    """

    individual, factors = True, "product"

    def __init__(self, kinds: float = 3, gamma: float = 1.0, lam: float = 0.01) -> None:
        super().__init__()
        self.kinds = int(between("kinds", kinds, 1, 16))
        self.gamma = between("gamma", gamma, 0.0, 1.0)
        self.lam = between("lam", lam, 0.0, float("inf"))

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return HetLoRADevice(self.kinds, self.gamma, self.lam)

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
    """The device's half; its arguments are the server's."""

    def __init__(self, kinds: int, gamma: float = 1.0, lam: float = 0.0) -> None:
        self.kinds, self.gamma, self.lam = kinds, gamma, lam

    def kept(self, shared: Spec) -> Spec:
        """How many components of each product the device has pruned."""
        return {PRUNED: (len(factors_of(shared)),)} if self.gamma < 1 else {}

    def update(self, visit: Visit) -> Answer:
        """Its message says that the components it has no room for are zero: that is minus what came."""
        whole = take(visit.shared, len(visit.people.index))
        products, room = factors_of(visit.shared), self._room(visit)
        ranks = room - visit.memory[PRUNED].long() if self.gamma < 1 else room
        free = _between(visit.shared, torch.zeros_like(ranks), ranks)
        start = {name: value * free[name] for name, value in whole.items()}
        steering, kept = Steering(free=free, start=start), None
        tails = _between(visit.shared, self._fewer(ranks), ranks)
        if self.gamma < 1:
            steering.added = lambda current: held(products, current, tails, self.lam)
        moved, after = visit.train(steering)
        if self.gamma < 1:
            reached = {name: value + moved[name] for name, value in start.items()}
            less = sizes(products, reached, tails) < sizes(products, start, tails)
            ranks = torch.where(less, self._fewer(ranks), ranks)
            left = _between(visit.shared, torch.zeros_like(ranks), ranks)
            moved = {name: value * left[name] - start[name] for name, value in reached.items()}
            kept = {PRUNED: (room - ranks).float()}
        cut = only(visit.learns, {name: start[name] - value for name, value in whole.items()})
        return Answer({name: value + cut[name] for name, value in moved.items()}, after, kept)

    def _room(self, visit: Visit) -> torch.Tensor:
        """(P, products) int64: the components that each person's device can hold."""
        kind = torch.tensor([person % self.kinds for person in visit.people.index])
        ranks = [visit.shared[one.right].shape[0] for one in factors_of(visit.shared)]
        return torch.stack([torch.clamp(rank // 2**kind, min=1) for rank in ranks], dim=1)

    def _fewer(self, ranks: torch.Tensor) -> torch.Tensor:
        """What is left of ranks that are pruned once."""
        return torch.clamp((self.gamma * ranks).floor().long(), min=1)


def _between(shared: Tensors, low: torch.Tensor, high: torch.Tensor) -> Tensors:
    """Name -> (P, *shape), 1 in the components from low to below high, else 0; (P, products) int64 each."""
    found: Tensors = {}
    for place, one in enumerate(factors_of(shared)):
        left, right = shared[one.left], shared[one.right]
        number = torch.arange(right.shape[0])
        mask = ((low[:, place, None] <= number) & (number < high[:, place, None])).float()
        found[one.left] = mask[:, None, :].expand(-1, *left.shape)
        found[one.right] = mask[:, :, None].expand(-1, *right.shape)
    return found


def sizes(products: Sequence[Factors], current: Tensors, among: Tensors) -> torch.Tensor:
    """(P, products) |B'| |A'|, Frobenius norms of the components that `among` has ones for."""
    return torch.stack([_norm(current, among, p.left) * _norm(current, among, p.right) for p in products], 1)


def held(products: Sequence[Factors], current: Tensors, among: Tensors, lam: float) -> Tensors:
    """Gradient of lam |B'| |A'| of every product, name -> (P, *shape); 0 where either norm is 0."""
    found: Tensors = {}
    for one in products:
        for mine, other in ((one.left, one.right), (one.right, one.left)):
            own, its = _norm(current, among, mine), _norm(current, among, other)
            factor = torch.where(own > 0, lam * its / own.clamp(min=TINY), 0.0)
            found[mine] = along(factor, current[mine]) * current[mine] * among[mine]
    return found


def _norm(current: Tensors, among: Tensors, name: str) -> torch.Tensor:
    found: torch.Tensor = (current[name] * among[name]).flatten(1).norm(dim=1)
    return found
