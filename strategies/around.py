"""What wrappers around a strategy's server half have in common: they pass on, and may change what comes back.

A wrapper stands between `person_dp.PersonLevel` and the rule: it sees where a round began and what the rule
proposes, both after clip, sum and noise, so it is post-processing. Where it changes the proposal, the rule is
told: one that remembers where it stands (Flower's FedAvgM does) then stands where the wrapper left it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from commonground.strategies.records import from_record, to_record
from commonground.strategies.server_half import Arrays
from commonground.strategies.state import RECORD, State, restore_strategy, strategy_state
from commonground.strategies.unasked import Unasked


class Around(Unasked, ABC):
    """A strategy around another one.

    Args:
        inner: the rule, or another wrapper.
    """

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self._start: Arrays = {}
        self._first, self._public = strategy_state(inner), dict[str, float]()
        self._undone = False  # the round before was undone

    def attach(self, *, q: float, noise: float) -> None:
        """What is public about the rounds, passed on to a rule that wants to know."""
        self._public = {"q": q, "noise": noise}
        if hasattr(self.inner, "attach"):
            self.inner.attach(**self._public)

    def seen(self, replies: list[Message]) -> list[Message]:
        """The replies as the rule is to see them."""
        return replies

    @abstractmethod
    def settled(self, round: int, start: Arrays, candidate: Arrays) -> Arrays | None:
        """What becomes of the rule's proposal.

        Args:
            round: the round.
            start: where it began, float64; not to be changed.
            candidate: what the rule proposes; not to be changed.

        Returns:
            `candidate` itself, or other arrays of the same names and shapes; None where the round is undone:
            the adapter stays at `start`, and the rule's state is what it was.
        """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Note where the round begins."""
        self._start = {name: value.copy() for name, value in from_record(arrays).items()}
        return list(self.inner.configure_train(server_round, arrays, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The rule's proposal, settled; None where it has none."""
        before = strategy_state(self.inner)
        result, metrics = self.inner.aggregate_train(server_round, self.seen(list(replies)))
        if result is None:
            return None, metrics
        candidate = from_record(result)
        found = self.settled(server_round, self._start, candidate)
        again, self._undone = self._undone and found is None, found is None
        if found is candidate:
            return result, metrics
        if found is None:
            # Momentum that is kept could propose the same for ever: the second time in a row it is forgotten.
            restore_strategy(self.inner, self._first if again else before)
            if again and self._public:
                self.attach(**self._public)
            return to_record(_stayed(self._start, candidate)), metrics
        restore_strategy(self.inner, _told(strategy_state(self.inner), candidate, found))
        return to_record(found), metrics

    def state_dict(self) -> State:
        """The rule's state; a wrapper with one of its own adds it."""
        return {"inner": strategy_state(self.inner), "undone": self._undone}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        restore_strategy(self.inner, state["inner"])
        self._undone = bool(state["undone"])

    def summary(self) -> None:
        """What the rule says of itself."""
        self.inner.summary()


def _stayed(start: Arrays, candidate: Arrays) -> Arrays:
    """The adapter where the round began; what is sent beside it moves on where it can.

    Devices have kept their half of it already: SCAFFOLD's control that did not move with theirs would differ
    from their mean for ever.
    """
    from commonground.training.client_half import EXTRA

    return {
        name: candidate[name] if name.startswith(EXTRA) and np.isfinite(candidate[name]).all() else value
        for name, value in start.items()
    }


def _told(state: Any, candidate: Arrays, found: Arrays) -> Any:
    """A rule's state in which every record of the proposal is one of what became of it."""
    if isinstance(state, dict):
        record = state.get(RECORD)
        if record is not None and record.keys() == candidate.keys():
            same = all(np.array_equal(record[name], candidate[name]) for name in record)
            return {RECORD: {name: found[name].copy() for name in record}} if same else state
        return {key: _told(inner, candidate, found) for key, inner in state.items()}
    return state
