r"""FedNova: people who take more local steps do not count more.

    device:  tau_i steps, sends (K / tau_i) (y - u), clipped to C;     server:  u <- u + mean

Wang, Liu, Liang, Joshi, Poor, NeurIPS 2020, arXiv 2007.07481, for plain SGD and with tau_eff = K, the most
steps that anybody takes, which is public. Normalised on the device before the clip, so that no tau is
released. Here tau_i = ceil(K n_i / cap), n_i a person's comparisons of the shared tags and `cap` the number
that earns all K steps: who has more comparisons trains longer, as with local epochs. Exact as the step size
goes to 0; for F = h(x - m_i)^2/2 it settles at sum_i((1-(1-eta h)^tau_i)/tau_i m_i) / sum_i((1-(1-eta
h)^tau_i)/tau_i).
"""

from __future__ import annotations

import torch
from flwr.serverapp.strategy import FedAvg

from commonground.strategies.server_half import OWN_SAMPLING, between
from commonground.training.client_half import Answer, ClientHalf, Visit
from commonground.training.people import along
from commonground.training.steering import Steering


class FedNova(FedAvg):  # type: ignore[misc]
    """Flower's FedAvg is the server's half.

    Args:
        cap: comparisons of the shared tags that earn all local steps; 0 = everybody takes all of them, which
            makes this FedAvg.
    """

    def __init__(self, cap: float = 10.0) -> None:
        super().__init__(**OWN_SAMPLING)
        self.cap = between("cap", cap, 0, float("inf"))

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return FedNovaDevice(self.cap)


class FedNovaDevice(ClientHalf):
    """The device's half."""

    def __init__(self, cap: float) -> None:
        self.cap = cap

    def update(self, visit: Visit) -> Answer:
        """See the module's text."""
        plan = visit.plan.shared
        if not self.cap:
            return Answer(*visit.train())
        sizes = torch.tensor([sum(len(rows[tag]) for tag in plan.tags) for rows in visit.people.rows])
        steps = torch.ceil(plan.steps * sizes / self.cap).clamp(1, plan.steps).long()
        moved, after = visit.train(Steering(steps=steps))
        return Answer(
            {name: along(plan.steps / steps, value) * value for name, value in moved.items()}, after
        )
