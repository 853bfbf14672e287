r"""FedEx-LoRA: the average of both factors, and beside them what it misses.

    B <- mean B_i,  A <- mean A_i,  merged <- merged + mean B_i A_i - B A

Singhal, Ponkshe, Vepakomma, ACL 2025, arXiv 2410.09432. B A + merged is the average of people's products,
exactly. The paper adds the residual to the frozen weights; here it stands in a matrix of its own beside the
factors, which devices only receive, so that the adapter disabled is still the base policy. It has as many
numbers as the adapted weights, and it needs everybody's B_i A_i: no central noise, no secure summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commonground.strategies.factors import MERGED, arrived, factors_of
from commonground.strategies.lora_algebra import mean_factors, residual
from commonground.strategies.server_half import Arrays, ServerHalf
from commonground.training.client_half import Answer, ClientHalf, Spec, Visit


class FedEx(ServerHalf):
    """The server's half."""

    individual, factors = True, "product"

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return MergedDevice()

    def settings(self) -> dict[str, Any]:
        """Both factors train beside `merged`; none is averaged over rounds, since their products differ."""
        return {"model.shared_factors": "merged", "strategy.average": False}

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        after = dict(start)
        for one in factors_of(start):
            pairs = arrived(start, moves, one)
            after[one.left], after[one.right] = mean_factors(pairs)
            after[one.merged] = start[one.merged] + residual(pairs)
        return after


class MergedDevice(ClientHalf):
    """The device's half: it trains both factors on top of `merged`, which it only receives."""

    def held(self, shared: Spec) -> tuple[str, ...]:
        """Every `merged`."""
        return tuple(name for name in shared if name.endswith(MERGED))

    def update(self, visit: Visit) -> Answer:
        """The plain update; `merged` has no gradient on a device."""
        return Answer(*visit.train())
