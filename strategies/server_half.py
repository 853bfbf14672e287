"""The server's half of our own strategies: Flower's interface around one pure step.

A half is given the arrays of the round and the moves: one, the (noised) mean, where the rule is linear, or
one a person where `individual` is True. It samples nobody and weighs everybody alike; the wrapper in
`person_dp` does the first, and weights are inside each person's clip.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from commonground.errors import InputError
from commonground.strategies.records import from_record, to_record
from commonground.strategies.unasked import Unasked
from commonground.training.client_half import EXTRA

Arrays = dict[str, np.ndarray]
# Flower's own classes then sample nobody: the cohort is drawn by the wrapper.
OWN_SAMPLING: dict[str, Any] = {"fraction_train": 0.0, "fraction_evaluate": 0.0, "min_available_nodes": 0}


class ServerHalf(Unasked, ABC):
    """A strategy that is one function of where the round began and of how people moved.

    Attributes:
        individual: True where the rule must see people's moves one by one.
        q: the sampling probability of a round.
        noise: standard deviation of the noise on each number of the mean; 0 without central noise.
        round: the round under way.
    """

    individual = False

    def __init__(self) -> None:
        self.q, self.noise = 1.0, 0.0
        self.round = 0
        self._start: Arrays = {}

    def attach(self, *, q: float, noise: float) -> None:
        """Told by the wrapper what is public about the rounds."""
        self.q, self.noise = q, noise

    @abstractmethod
    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """The next arrays.

        Args:
            start: every tensor as it was sent, float64.
            moves: at least one; what was sent minus zero, tensors that are only received being zero.
        """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Note where the round begins."""
        self.round = server_round
        self._start = {name: value.copy() for name, value in from_record(arrays).items()}
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Turn replies into moves and take the step; None where nobody replied."""
        found = [from_record(next(iter(r.content.array_records.values()))) for r in replies]
        if not found:
            return None, None
        moves = [{name: reply[name] - value for name, value in self._start.items()} for reply in found]
        return to_record(self.step(self._start, moves)), None

    def summary(self) -> None:
        """Nothing to say."""


def adapter(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The tensors of the shared adapter alone."""
    return {name: value for name, value in arrays.items() if not name.startswith(EXTRA)}


def flat(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """All numbers of some tensors, in order."""
    return np.concatenate([value.ravel() for value in arrays.values()])


def unflat(numbers: np.ndarray, like: Mapping[str, np.ndarray]) -> Arrays:
    """What `flat` took apart."""
    parts = np.split(numbers, np.cumsum([value.size for value in like.values()])[:-1])
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}


def between(name: str, value: float, low: float, high: float) -> float:
    """`value`; raises `InputError` unless low <= value <= high."""
    if not low <= value <= high:
        upper = f" to {high:g}" if np.isfinite(high) else " or more"
        raise InputError(f"{value:g}; accepted: {low:g}{upper}", key=f"strategy.options.{name}")
    return value
