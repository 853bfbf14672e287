"""A whole study on loopback, three people with tastes of their own, and the same study as a simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from real_parts import Device, Site

from commonground.comparisons import TAGS, Comparison
from commonground.config import Config
from commonground.server.deployed import study_job
from commonground.server.job import Job
from commonground.server.rounds import load_outcome
from commonground.settings import to_yaml
from commonground.simulations import world as worlds
from commonground.simulations.devices import close_stores
from commonground.simulations.engine import environment, run_job
from commonground.simulations.folder import RunFolder
from commonground.simulations.runner import _job, simulate
from commonground.simulations.world import World, build_world

SEED, PEOPLE = 11, 3


@dataclass
class Whole:
    """A study that has ended; its devices still run.

    Attributes:
        site: server, devices, proxies.
        world: the people whose comparisons the devices were given.
        said: what each person said.
    """

    site: Site
    world: World
    said: list[list[Comparison]]

    @property
    def config(self) -> Config:
        """Of the study, as its offer holds it."""
        return self.world.config

    def released(self) -> dict[str, np.ndarray]:
        """The shared adapter at the end, and its mean, as the server has them."""
        study = self.site.study()
        try:
            return _arrays(study_job(study))
        finally:
            study.close()

    def simulated(self) -> dict[str, np.ndarray]:
        """The same of the in-process simulation: `commonground simulate` of the offer's configuration."""
        out = self.site.folder / "simulated"
        simulate(self.config, out)
        return _arrays(Job.load(out / "state" / "job-shared.json"))

    def simulated_rounds(self) -> dict[str, np.ndarray]:
        """The same without what a simulation measures beside its rounds, which takes a policy minutes."""
        out = self.site.folder / "simulated"
        (out / "state").mkdir(parents=True)
        (out / "config.yaml").write_text(to_yaml(self.config))
        worlds.adopt(str(out.resolve()), self.world)
        job = _job(self.world, RunFolder(out), "shared")
        with environment({"COMMONGROUND_RUN": str(out.resolve()), "COMMONGROUND_ARM": "shared"}):
            run_job(job, "inprocess", PEOPLE, device="simulation")
            close_stores()
        return _arrays(Job.load(job))


def _arrays(job: Job) -> dict[str, np.ndarray]:
    outcome = load_outcome(job)
    assert outcome.finished
    mean = outcome.averaged or {}
    return outcome.arrays | {f"mean {name}": value for name, value in mean.items()}


@contextmanager
def whole_study(
    folder: Path, overrides: Sequence[str] = (), *, patience: float = 250.0, **fields: Any
) -> Iterator[Whole]:
    """Make a study, enrol three devices through recording proxies, teach them, and run it to its end."""
    sizes = [f"people={PEOPLE}", f"cohort={PEOPLE}", *overrides]
    site = Site(folder, sizes, min_online=PEOPLE, insecure_seed=SEED, **fields)
    with site:
        study = site.study()
        world = build_world(study.config)
        study.close()
        said = [_said_by(world, person) for person in range(PEOPLE)]
        site.server.start()
        devices = [site.device(f"person-{k}", recorded=True) for k in range(PEOPLE)]
        site.server.stop()  # the devices start while it is away, and wait for it
        for person, device in enumerate(devices):
            device.up(SEED, person, wait=False)
        for person, device in enumerate(devices):
            device.wait()
            device.teach(said[person])
        site.server.start()
        site.finished(patience)
        yield Whole(site, world, said)


def _said_by(world: World, person: int) -> list[Comparison]:
    return [world.table[row] for tag in TAGS for row in world.train_rows[person][tag].tolist()]


def secrets_of(device: Device) -> dict[str, np.ndarray]:
    """Every number of every version of a device's private adapter, once it is down."""
    found = dict[str, np.ndarray]()
    with device.store() as store:
        for version in store.adapters.all():
            for name, value in (store.adapters.state(version.version) or {}).items():
                if value.dtype.kind == "f" and value.size >= 4:
                    found[f"{name} of version {version.version}"] = value
    return found
