"""What every test may rely on."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

# Devices and strategies that several test files share; Ray's actors import them by name too.
sys.path.insert(0, str(Path(__file__).parent / "toys"))

from toy_patience import hears_interrupts

hears_interrupts()

# Devices keep the secrets of their noise in the user's state folder; a test leaves nothing there.
os.environ["XDG_STATE_HOME"] = _STATE = tempfile.mkdtemp(prefix="commonground-state-")
atexit.register(shutil.rmtree, _STATE, ignore_errors=True)

with warnings.catch_warnings():
    # typer 0.20, which flwr 1.42 asks for, uses a name that click 8.5 deprecates; the import warns once.
    warnings.filterwarnings("ignore", "'click.utils", DeprecationWarning)
    import typer  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Give the environment back as it was: the process of a part may change its own variables."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
