r"""FedProx: a pull back to where the round began.

    device:  K steps on F_i(y) + (mu/2) ||y - u||^2, sends y - u, clipped to C;     server:  u <- u + mean

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, MLSys 2020, arXiv 1812.06127. Flower's FedProx is the server's
half and says nothing to the device: mu is part of the configuration that a device has a copy of. mu = 0 is
FedAvg bit for bit.
"""

from __future__ import annotations

from flwr.serverapp.strategy import FedProx as FlowerFedProx

from commonground.strategies.server_half import OWN_SAMPLING, between
from commonground.training.client_half import Answer, ClientHalf, Visit
from commonground.training.steering import Steering


class FedProx(FlowerFedProx):  # type: ignore[misc]
    """The server's half, Flower's.

    Args:
        proximal_mu: mu; Flower's own default of 0 would make it FedAvg.
    """

    def __init__(self, proximal_mu: float = 0.1) -> None:
        mu = between("proximal_mu", proximal_mu, 0.0, float("inf"))
        super().__init__(proximal_mu=mu, **OWN_SAMPLING)

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return FedProxDevice(self.proximal_mu)


class FedProxDevice(ClientHalf):
    """The device's half."""

    def __init__(self, mu: float) -> None:
        self.mu = mu

    def update(self, visit: Visit) -> Answer:
        """See the module's text."""
        return Answer(*visit.train(Steering(pull=self.mu) if self.mu else None))
