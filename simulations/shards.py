"""Who trains a fleet's cohorts: this process, or Ray actors that own a slice of the people each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from commonground.simulations.fleet import Fleet, Trainer
from commonground.simulations.stores import open_store
from commonground.simulations.world import current_run, world_of


@contextmanager
def open_trainer() -> Iterator[Trainer]:
    """The trainer of the run that this process serves; its store is closed at the end."""
    run, arm = current_run()
    world = world_of(run)
    torch.set_num_threads(1)
    store = open_store(world.config, Path(run) / "state", world.people)
    try:
        yield Fleet(world, arm, store)
    finally:
        store.close()
