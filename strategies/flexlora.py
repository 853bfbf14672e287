r"""FlexLoRA: the average of people's products, cut back to the adapter's rank.

    M = mean B_i A_i = U S V',    B <- U_r sqrt(S_r),  A <- sqrt(S_r) V_r'

Bai, Chen, Qian, Yao, Li, NeurIPS 2024, arXiv 2402.11505. No factors of rank r are nearer to M (Eckart and
Young); what is missed is sqrt(sum_{k>r} s_k^2), and nothing where rank M <= r. It needs everybody's B_i A_i:
no sum of messages gives M, so it does not go with central noise or secure summation. Here every device has
the run's rank. Where nothing moved the factors stay as they are, and not only their product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commonground.strategies.factors import arrived, factors_of
from commonground.strategies.lora_algebra import mean_product, truncated
from commonground.strategies.server_half import Arrays, ServerHalf


class FlexLoRA(ServerHalf):
    """The whole algorithm: devices send their plain updates of both factors."""

    individual, factors = True, "product"

    def settings(self) -> dict[str, Any]:
        """Both factors train; factors of several rounds are not averaged, since their products differ."""
        return {"model.shared_factors": "both", "strategy.average": False}

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        after = dict(start)
        for one in factors_of(start):
            if any(move[name].any() for move in moves for name in (one.left, one.right)):
                product = mean_product(arrived(start, moves, one))
                after[one.left], after[one.right] = truncated(product, start[one.right].shape[0])
        return after
