"""A study over the toy device: a folder as `server init` makes it, and devices that check releases.

`python toy_study.py DIR` runs its rounds over the in-process grid, to be killed. TOY_STORE is where devices
keep the newest release that they took; a device refuses what `check_release` refuses.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import numpy as np
import toy_device

from commonground.client.app import app
from commonground.client.devices import OPENERS
from commonground.manifest import Sealed
from commonground.server import setup
from commonground.server.deployed import run_study
from commonground.server.state import Study
from commonground.server.tables import Enrolled, now
from commonground.simulations.grid import InProcessGrid
from commonground.study.release import Release, check_release

PEOPLE, ROUNDS = 4, 4
STUDY = "TOY_STUDY"


def make_study(
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    address: str = "127.0.0.1:18443",
    enrolled: int = PEOPLE,
    trust: str = "central",
    **wanted: object,
) -> Study:
    """A study of the toy's manifest, its first people enrolled as nodes 104, 103, ..."""
    zeros = {spec.name: np.zeros(spec.shape, np.float32) for spec in toy_device.SPECS}
    values = [f"people={PEOPLE}", f"rounds={ROUNDS}", f"cohort={PEOPLE}", "model.kind=policy", *overrides]
    made = setup.Contract(toy_device.manifest(local=trust == "local"), zeros, {})
    with mock.patch.object(setup, "contract_of", return_value=made):
        ask = setup.Wanted(
            trust, "toy", address, "2099-01-01", "a test", "nobody", overrides=values, **wanted  # type: ignore[arg-type]
        )  # fmt: skip
        setup.init_study(folder, ask)
    study = Study(folder)
    with study.database.writing() as session:
        for slot in range(enrolled):
            node = str(node_of(slot))
            session.add(Enrolled(slot=slot, name=f"p{slot}", key=f"key {slot}", since=now(), node=node))
    return study


def node_of(slot: int) -> int:
    """Flower's node of a place: in another order than the places."""
    return 104 - slot


NODES = [node_of(person) for person in range(PEOPLE)]


class ToyNodes(InProcessGrid):
    """The in-process grid with Flower's random-looking node ids, some of them offline."""

    def __init__(self, nodes: Sequence[int] = NODES) -> None:
        super().__init__(app, 0)
        self.nodes = list(nodes)

    def get_node_ids(self) -> list[int]:
        return self.nodes


class CheckingDevice(toy_device.ToyDevice):
    """A toy that takes nothing but releases of its study, each once."""

    def shared_update(
        self,
        round: int,
        shared: dict[str, np.ndarray],
        clip: float | None = None,
        release: str | None = None,
    ) -> Sealed:
        self._take(round, shared, release)
        return super().shared_update(round, shared)

    def private_update(
        self, round: int, shared: dict[str, np.ndarray], final: bool, release: str | None = None
    ) -> None:
        self._take(round, shared, release)
        super().private_update(round, shared, final)

    def _take(self, round: int, shared: dict[str, np.ndarray], text: str | None) -> None:
        study = Study(Path(os.environ[STUDY]))
        path = Path(os.environ["TOY_STORE"], f"release-{self.person}")
        last = Release(**json.loads(path.read_text())) if path.is_file() else None
        found = check_release(
            text or "", shared, self.manifest, signer=study.signer, offer=study.offer.digest, last=last
        )
        if found.round != round:
            raise ValueError(f"release of round {found.round} in round {round}")
        path.write_text(json.dumps(asdict(found)))
        study.close()


def open_device(person: int) -> CheckingDevice:
    """The opener."""
    return CheckingDevice(person)


if __name__ == "__main__":
    OPENERS["toy-study"] = open_device
    os.environ |= {"COMMONGROUND_DEVICE": "toy-study", STUDY: sys.argv[1]}
    run_study(ToyNodes(), Study(Path(sys.argv[1])))
