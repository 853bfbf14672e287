"""Strategies of somebody else, named by a dotted path."""

from __future__ import annotations

from flwr.serverapp.strategy import FedAvg, FedMedian

from commonground.training.client_half import Answer, ClientHalf, Visit


class Middle(FedMedian):  # type: ignore[misc]
    """Says of itself that it needs replies one by one."""

    individual = True


class Doubled(FedAvg):  # type: ignore[misc]
    """Both halves of an algorithm in one class's file: people send their update `times` over."""

    def __init__(self, times: float = 2.0) -> None:
        super().__init__(fraction_train=0.0)
        self.times = times

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return DoubledDevice(self.times)


class DoubledDevice(ClientHalf):
    """The device's half of `Doubled`."""

    def __init__(self, times: float) -> None:
        self.times = times

    def update(self, visit: Visit) -> Answer:
        """`times` the plain update."""
        moved, after = visit.train()
        return Answer({name: self.times * value for name, value in moved.items()}, after)


class NoHalf(FedAvg):  # type: ignore[misc]
    """Its device's half is none."""

    def client_half(self) -> int:
        """A number."""
        return 7
