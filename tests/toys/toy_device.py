"""A device for tests of the Flower side: three numbers a person, no model, in every process alike.

COMMONGROUND_DEVICE="toy_device:open_device" with this folder on PYTHONPATH. Environment variables of
its own, all optional: TOY_STORE, a folder in which private phases leave a file each; TOY_CLIP; TOY_FAULT,
"WHERE:ROUND:PERSON:WHAT" with WHERE in {shared, private} and WHAT in {raise, print, exit, kill}; a kill
happens once, marked by a file in TOY_STORE.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from commonground.manifest import Manifest, Sealed, TensorSpec
from commonground.randomness import generator
from commonground.sealing import seal_update

SPECS = (TensorSpec("head.a", (3,)), TensorSpec("head.b", (2, 2)))
SECRET = "person likes purple dragons"


def manifest(clip: float = 1.0, *, local: bool = False) -> Manifest:
    """The toy's manifest; `local`: devices add the noise."""
    return Manifest(SPECS, clip, local, {"basis": "toy"}, grid=2.0**-12)


class ToyDevice:
    """Pulls the shared numbers towards the person's own."""

    def __init__(self, person: int) -> None:
        self.person = person
        self.manifest = manifest(float(os.environ.get("TOY_CLIP", "1.0")))
        draws = generator(7, "toy", person)
        self.target = {spec.name: draws.standard_normal(spec.shape) for spec in SPECS}

    def shared_update(self, round: int, shared: dict[str, np.ndarray]) -> Sealed:
        self._fault("shared", round)
        step = {name: 0.5 * (self.target[name] - value) for name, value in shared.items()}
        # A reduction that several threads would add up in another order.
        scale = float(torch.linspace(0, 1, 10_001).square().sum()) / 3334
        moved = {name: scale * value for name, value in step.items()}
        return seal_update(self.manifest, moved, round=round)

    def private_update(self, round: int, shared: dict[str, np.ndarray], final: bool) -> None:
        self._fault("private", round)
        if store := os.environ.get("TOY_STORE"):
            name = f"{self.person}-{'final' if final else round}"
            total = sum(float(value.sum()) for value in shared.values())
            Path(store, name).write_text(f"{total!r} {torch.get_num_threads()}")

    def _fault(self, where: str, round: int) -> None:
        place, at, person, what = os.environ.get("TOY_FAULT", "none:0:0:none").split(":")
        if (place, int(at), int(person)) != (where, round, self.person):
            return
        print(SECRET)
        print(SECRET, file=sys.stderr)
        if what == "raise":
            raise ValueError(SECRET)
        if what == "exit":
            sys.exit(SECRET)
        if what == "kill":
            mark = Path(os.environ["TOY_STORE"], "killed")
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)


def open_device(person: int) -> ToyDevice:
    """The opener."""
    return ToyDevice(person)
