"""Strategies of somebody else that take part in a tournament, well or badly."""

from __future__ import annotations

import os
from typing import Any

from flwr.serverapp.strategy import FedAvg


class Mine(FedAvg):  # type: ignore[misc]
    """FedAvg under another name."""


class Broken(FedAvg):  # type: ignore[misc]
    """Raises in its second round."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        if server_round == 2:
            raise ValueError("no second round")
        return super().aggregate_train(server_round, replies)


class Deadly(FedAvg):  # type: ignore[misc]
    """Takes its process with it."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        os._exit(7)
