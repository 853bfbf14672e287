r"""FedIT: both low-rank factors are averaged, each by itself; the baseline of its family.

    B <- mean B_i,  A <- mean A_i        which is not mean B_i A_i

Zhang, Vahidian, Kuo, Li, Zhang, Yu, Wang, Chen, ICASSP 2024, arXiv 2305.05644. It misses the average of
people's products by the cross-covariance of their factors (`lora_algebra`), and it depends on which factors
stand for a product. It is linear, hence private under central noise; and inexact all the same.
"""

from __future__ import annotations

from typing import Any

from flwr.serverapp.strategy import FedAvg

from commonground.strategies.server_half import OWN_SAMPLING


class FedIT(FedAvg):  # type: ignore[misc]
    """Flower's FedAvg over both factors."""

    factors = "each"

    def __init__(self) -> None:
        super().__init__(**OWN_SAMPLING)

    def settings(self) -> dict[str, Any]:
        """Both factors train; factors of several rounds are not averaged, since their products differ."""
        return {"model.shared_factors": "both", "strategy.average": False}
