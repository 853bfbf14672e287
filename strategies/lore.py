r"""LoRe: a few directions of reward are learned together, each person's weights on them alone.

    r_i(x) = u_tag . f_tag(x) + v_i . R f_taste(x)
    device:  trains v_i at (u, R), then (u, R) through v_i;  sends the change of (u, R), clipped jointly
    server:  (u, R) <- (u, R) + mean

Bose, Xiong, Chi, Du, Xiao, Fazel, COLM 2025, arXiv 2504.14439. K is `model.dims`. The paper's weights lie on
a simplex; ours are free, beside a common u, which says at least as much (`training.reward_basis`). The
paper fits everybody's likelihood in one place; here the order of FedAlt does it. The name sets
`model.form=basis` and `schedule=alternating`; every other strategy runs on that form too.

Weights never leave a device, but the gradient of R passes through them: a claim holds for persons (methods
B2, theorem U) and not for single comparisons. R has K times the numbers of u under the same clip, and
central noise reaches all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.serverapp.strategy import FedAvg

from commonground.errors import StrategyError
from commonground.strategies.server_half import OWN_SAMPLING


class LoRe(FedAvg):  # type: ignore[misc]
    """Flower's FedAvg is the server's half; see the module's text."""

    def __init__(self) -> None:
        super().__init__(**OWN_SAMPLING)

    def settings(self) -> dict[str, Any]:
        """The keys that this name sets; not `shared.tags`, which would let tastes leave the device."""
        return {"schedule": "alternating", "model.form": "basis"}

    @staticmethod
    def check_model(kind: str, form: str, tags: Sequence[str]) -> None:
        """Raise `StrategyError` where there is nothing to learn a basis of."""
        if kind != "reward":
            raise StrategyError(
                f"lore learns directions of a reward, and model.kind={kind} has none",
                key="strategy.name",
                verb="=",
                hint="use model.kind=reward; or fedalt, its order of steps on other adapters",
            )
        if form not in ("linear", "basis"):
            raise StrategyError(
                f"lore sets model.form=basis, and model.form={form} is another model",
                key="strategy.name",
                verb="=",
                hint="leave model.form out",
            )
        if "taste" not in tags:
            raise StrategyError(
                "lore learns directions of taste together, and with "
                f"shared.tags=[{','.join(tags)}] no taste is learned together",
                key="strategy.name",
                verb="=",
                hint="use shared.tags=[safety,taste] (tastes then leave devices, inside the clip); or fedalt",
            )
