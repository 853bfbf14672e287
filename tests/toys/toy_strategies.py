"""Strategies of somebody else, named by a dotted path."""

from __future__ import annotations

from flwr.serverapp.strategy import FedMedian


class Middle(FedMedian):  # type: ignore[misc]
    """Says of itself that it needs replies one by one."""

    individual = True
