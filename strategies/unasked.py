"""A strategy's evaluation half: nobody is asked.

Metrics from devices would be a release outside the ledger. What a run is measured by, only a simulation sees.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy


class Unasked(Strategy):  # type: ignore[misc]  # flwr is not followed by mypy here
    """What all strategies of ours have in common."""

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nobody is asked."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None
