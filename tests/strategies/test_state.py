"""Saving the state of strategies that know nothing of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg

from commonground.errors import StrategyError
from commonground.strategies.registry import get_strategy
from commonground.strategies.state import restore_strategy, strategy_state


class Own(FedAvg):  # type: ignore[misc]
    """Brings its own state, which no attribute walk could save."""

    def __init__(self) -> None:
        super().__init__()
        self.tricky = {1, 2}

    def state_dict(self) -> dict[str, Any]:
        return {"tricky": sorted(self.tricky)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tricky = set(state["tricky"])


def test_arrays_of_every_form() -> None:
    source, target = get_strategy("fedavgm"), get_strategy("fedavgm")
    source.momentum_vector = [np.arange(3.0), np.ones((), np.float32)]
    source.current_arrays = ArrayRecord({"w": Array(np.arange(4, dtype=np.float32))})
    restore_strategy(target, strategy_state(source))
    assert isinstance(target.current_arrays, ArrayRecord)
    np.testing.assert_array_equal(target.current_arrays["w"].numpy(), np.arange(4, dtype=np.float32))
    assert [v.dtype.name for v in target.momentum_vector] == ["float64", "float32"]
    source.momentum_vector[0][:] = 9  # a saved state is a copy
    np.testing.assert_array_equal(target.momentum_vector[0], np.arange(3.0))


def test_state_that_cannot_be_saved_is_named() -> None:
    strategy = get_strategy("fedavg")
    strategy.things = {"deep": [object()]}
    with pytest.raises(StrategyError, match=r"FedAvg\.things\['deep'\]\[0\] is a object"):
        strategy_state(strategy)


def test_own_state_is_preferred() -> None:
    source, target = Own(), Own()
    source.tricky = {7}
    restore_strategy(target, strategy_state(source))
    assert target.tricky == {7}
