"""The state of any Flower strategy as plain values, so that a resumed run is the same run.

Flower's strategies keep momentum and the like in attributes and have no way to save them. What is saved
here is numbers, texts, arrays, and dictionaries and lists of them: nothing is pickled. A strategy with
state of another kind brings its own `state_dict()` and `load_state_dict()`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from commonground.errors import StrategyError
from commonground.strategies.records import from_record, to_record

State = dict[str, Any]
RECORD = "__array_record__"


def strategy_state(strategy: Strategy) -> State:
    """Attribute -> plain value; raises `StrategyError` naming an attribute that cannot be saved."""
    if hasattr(strategy, "state_dict"):
        return dict(strategy.state_dict())
    # Callables are how the strategy was built (its metric functions), not state.
    values = {key: value for key, value in vars(strategy).items() if not callable(value)}
    return {key: _plain(value, f"{type(strategy).__name__}.{key}") for key, value in values.items()}


def restore_strategy(strategy: Strategy, state: State) -> None:
    """Put back what `strategy_state` gave, into a strategy built with the same options."""
    if hasattr(strategy, "load_state_dict"):
        strategy.load_state_dict(state)
        return
    for key, value in state.items():
        setattr(strategy, key, _restored(value))


def _plain(value: Any, place: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str | np.ndarray):
        return value.copy() if isinstance(value, np.ndarray) else value
    if isinstance(value, np.generic):
        return np.asarray(value)
    if isinstance(value, ArrayRecord):
        return {RECORD: from_record(value)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(inner, f"{place}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{place}[{i}]") for i, inner in enumerate(value)]
    raise StrategyError(
        f"{place} is a {type(value).__name__}, which a checkpoint cannot hold",
        hint="give the strategy state_dict() and load_state_dict() of arrays and plain values",
    )


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {RECORD}:
            return to_record(value[RECORD])
        return {key: _restored(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_restored(inner) for inner in value]
    return value.copy() if isinstance(value, np.ndarray) else value
