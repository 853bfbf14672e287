"""A public safety set over the quadratic bed: L(x) = ||x - at||^2 / 2, right where x is within 1 of `at`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy

from commonground.simulations.grid import InProcessGrid
from commonground.strategies.records import from_record, to_record, train_content
from commonground.strategies.server_half import Arrays


@dataclass(frozen=True)
class Bowl:
    """See the module's text.

    Attributes:
        at: where the public pairs want the adapter, in every number.
    """

    at: float = 1.0

    def score(self, shared: Arrays) -> tuple[float, float]:
        """(loss, accuracy)."""
        apart = np.concatenate([np.asarray(value, np.float64).ravel() - self.at for value in shared.values()])
        return float(0.5 * apart @ apart), float((np.abs(apart) < 1).mean())

    def gradient(self, shared: Arrays) -> Arrays:
        """x - at."""
        return {name: np.asarray(value, np.float64) - self.at for name, value in shared.items()}


def bowl() -> Bowl:
    """Named by its path."""
    return Bowl()


def one_round(rule: Strategy, round: int, start: Arrays, *proposals: Arrays) -> Arrays:
    """What a rule makes of replies, the way `PersonLevel` calls it."""
    grid = InProcessGrid(ClientApp(), 1)  # Flower's Message() asks the process which task it belongs to
    rule.configure_train(round, to_record(start), ConfigRecord(), grid)
    replies = [
        Message(train_content(proposal), dst_node_id=0, message_type=MessageType.TRAIN)
        for proposal in proposals
    ]
    found, _ = rule.aggregate_train(round, replies)
    assert found is not None
    return from_record(found)
