"""What tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_runs import Kit, make_kit

from commonground.simulations.fleet_store import FleetStore
from commonground.simulations.store import Store


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Small runs."""
    return make_kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture(scope="session")
def plain(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and result of a finished run that nothing has disturbed; nobody writes to it."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    return folder, kit(folder)


@pytest.fixture
def stores(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Store, FleetStore]]:
    """Stores of devices one by one and of a fleet, for the PEOPLE of the module."""
    one, many = Store(tmp_path / "one"), FleetStore(tmp_path / "many", request.module.PEOPLE, "run")
    yield one, many
    one.close()
    many.close()
