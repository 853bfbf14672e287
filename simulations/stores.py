"""Which store a run keeps its private states in."""

from __future__ import annotations

import hashlib
from pathlib import Path

from commonground.config import Config
from commonground.settings import to_yaml
from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.store import PrivateStore, Store

FLEET = "fleet"


def open_store(config: Config, state: Path, people: int) -> PrivateStore:
    """The store of a run.

    Args:
        config: resolved.
        state: the run's state folder.
        people: how many the run has.

    Raises:
        RunFolderError: it is the store of another run.
        StorageError: the disk refused.
    """
    if config.runtime != "fleet":
        return Store(state)
    digest = hashlib.sha256(to_yaml(config).encode()).hexdigest()
    return FleetStore(state / FLEET, people, digest)


def store_file(config: Config, state: Path) -> Path:
    """What must be there once a round is done."""
    return state / FLEET if config.runtime == "fleet" else state / "private.sqlite"
