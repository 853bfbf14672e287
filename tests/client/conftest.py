"""What tests of the participant's page share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from toy_pages import chromium_opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One real browser a file."""
    with chromium_opened() as opened:
        yield opened
