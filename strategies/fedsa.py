r"""FedSA-LoRA: A is shared, B stays with each person.

    device:  trains (A, B_i) from (A_t, what it kept of B_i);  sends A_i - A_t, keeps B_i
    server:  A <- A + mean

Guo, Zeng, Wang, Fan, Wang, Qu, ICLR 2025, arXiv 2410.01463. Every device uses B_i A exactly, no product of
averages is claimed, and what is sent is half of an adapter: linear, so it meets central noise and secure
summation. B_i is state of the person's own that is trained on the shared tags and never leaves; it is in no
claim, because it changes nothing that leaves but through the next clipped message (methods B2, theorem U).

What a run calls the shared policy is then A with each person's own B_i. Somebody who never took part has
B_i = 0: for her it is the base policy. The adapter that the run saves is A with B = 0. One thing to know
before using it: a person's own B can annihilate what was learned together about safety.
"""

from __future__ import annotations

from typing import Any

import torch
from flwr.serverapp.strategy import FedAvg

from commonground.strategies.factors import factors_of
from commonground.strategies.server_half import OWN_SAMPLING
from commonground.training.client_half import Answer, ClientHalf, Spec, Visit, shrink
from commonground.training.model import Tensors
from commonground.training.people import along, take
from commonground.training.steering import Steering


class FedSA(FedAvg):  # type: ignore[misc]
    """Flower's FedAvg is the server's half: what never arrives does not move."""

    factors = "each"

    def __init__(self) -> None:
        super().__init__(**OWN_SAMPLING)

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return FedSADevice()

    def settings(self) -> dict[str, Any]:
        """Both factors train; A of another round does not fit the B_i of this one, so none is averaged."""
        return {"model.shared_factors": "both", "strategy.average": False}


class FedSADevice(ClientHalf):
    """The device's half."""

    def held(self, shared: Spec) -> tuple[str, ...]:
        """Every B."""
        return tuple(one.left for one in factors_of(shared))

    def kept(self, shared: Spec) -> Spec:
        """The same ones; zeros at first, as an adapter begins."""
        return {name: shared[name] for name in self.held(shared)}

    def own(self, shared: Tensors, memory: Tensors) -> Tensors | None:
        """A from the server, B from the device."""
        return take(shared, len(next(iter(memory.values())))) | memory

    def update(self, visit: Visit) -> Answer:
        """See the module's text; a training that broke leaves B_i as it was."""
        moved, after = visit.train(Steering(start=visit.memory))
        whole = shrink(moved, float("inf")) > 0
        kept = {n: torch.where(along(whole, v), v + moved[n], v) for n, v in visit.memory.items()}
        return Answer(moved, after, kept)
