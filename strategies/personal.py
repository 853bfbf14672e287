r"""Personalisation baselines that are settings of the local update: FedAvg is their server's half.

Every run here trains a private part v_i beside the shared u; what these names say is in which order and how
hard v_i is held. They set those keys of the configuration, where everything that depends on them (the
privacy claim, the plan, the report) reads them.

* ditto: `schedule=decoupled`, min_v F_i(u + v) + (lam/2) ||v||^2, with v = personal - shared. Li, Hu,
  Beirami, Smith, ICML 2021, arXiv 2012.04221. The paper's shared model learns everything: that is
  shared.tags=[safety,taste], which the name does not set, because it would let tastes leave the device.
* fedalt: `schedule=alternating`, v_i first and then u through it. fedsim: `schedule=joint`. Pillutla,
  Malik, Mohamed, Rabbat, Sanjabi, Xiao, ICML 2022, arXiv 2204.03809.
* fedrep: `schedule=alternating` with ONE step on the shared part. Collins, Hassani, Mokhtari, Shakkottai,
  ICML 2021, arXiv 2102.07078. Its shared part is a representation under a private head; ours are two
  adapters that add up, so what is compared is its order of steps and not its architecture.
"""

from __future__ import annotations

from typing import Any

from flwr.serverapp.strategy import FedAvg

from commonground.strategies.server_half import OWN_SAMPLING, between


class Ditto(FedAvg):  # type: ignore[misc]
    """See the module's text.

    Args:
        lam: lambda, 0.05 to 1 in the paper.
    """

    def __init__(self, lam: float = 0.1) -> None:
        super().__init__(**OWN_SAMPLING)
        self.lam = between("lam", lam, 0.0, float("inf"))

    def settings(self) -> dict[str, Any]:
        """The keys that this name sets."""
        return {"schedule": "decoupled", "privacy.private.ridge": self.lam}


class FedAlt(FedAvg):  # type: ignore[misc]
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__(**OWN_SAMPLING)

    def settings(self) -> dict[str, Any]:
        """The keys that this name sets."""
        return {"schedule": "alternating"}


class FedSim(FedAvg):  # type: ignore[misc]
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__(**OWN_SAMPLING)

    def settings(self) -> dict[str, Any]:
        """The keys that this name sets."""
        return {"schedule": "joint"}


class FedRep(FedAvg):  # type: ignore[misc]
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__(**OWN_SAMPLING)

    def settings(self) -> dict[str, Any]:
        """The keys that this name sets."""
        return {"schedule": "alternating", "shared.steps": 1}
