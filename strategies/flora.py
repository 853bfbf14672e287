r"""FLoRA: everybody's factors are stacked and merged, and the next round begins with fresh ones.

    merged <- merged + mean B_i A_i = merged + [B_1/n | ... | B_n/n] [A_1; ...; A_n];    A <- A_0,  B <- 0

Wang, Tao, Long, Wang, Yang, Pan, He, NeurIPS 2024, arXiv 2409.05976. The stack has the sum of all ranks, so
nothing is lost: what people learn adds up in a matrix of full rank. The paper sends the stack and lets
devices merge it into their weights; here the server multiplies it out, and devices receive the sum of all
rounds in `merged` beside the factors, so that the adapter disabled is still the base policy. The fresh
factors are the public start of the adapter. The weight 1/n stands on one factor only. It needs everybody's
factors: no central noise, no secure summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commonground.strategies.factors import arrived, factors_of
from commonground.strategies.fedex import MergedDevice
from commonground.strategies.lora_algebra import stacked
from commonground.strategies.server_half import Arrays, ServerHalf
from commonground.training.client_half import ClientHalf


class FLoRA(ServerHalf):
    """The server's half."""

    individual, factors = True, "product"

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return MergedDevice()

    def settings(self) -> dict[str, Any]:
        """Both factors train beside `merged`."""
        return {"model.shared_factors": "merged"}

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text; A and B are where every round begins, so they stay."""
        after = dict(start)
        for one in factors_of(start):
            b, a = stacked(arrived(start, moves, one))
            after[one.merged] = start[one.merged] + b @ a - start[one.left] @ start[one.right]
        return after
