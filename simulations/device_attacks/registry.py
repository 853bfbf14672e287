"""The attacks on the device, by name."""

from __future__ import annotations

from commonground.errors import InputError
from commonground.simulations.device_attacks.base import Attack
from commonground.simulations.device_attacks.cancellation import Cancellation
from commonground.simulations.device_attacks.erosion import Erosion
from commonground.simulations.device_attacks.identity import Identity
from commonground.simulations.device_attacks.inverted import Inverted
from commonground.simulations.device_attacks.trigger import Trigger
from commonground.simulations.device_attacks.weights import Weights

ATTACKS: dict[str, Attack] = {
    "inverted": Inverted(),
    "identity": Identity(),
    "erosion": Erosion(),
    "weights": Weights(),
    "cancellation": Cancellation(),
    "trigger": Trigger(),
}


def attack(name: str) -> Attack:
    """The attack called `name`; raises `InputError` with the known names."""
    if name not in ATTACKS:
        raise InputError(f"attack on the device is {name!r}; known: {', '.join(ATTACKS)}")
    return ATTACKS[name]
