"""Benchmarks use the small studies of the tests."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "toys"))

with warnings.catch_warnings():
    # As in tests/conftest.py: the import of typer 0.20 warns once.
    warnings.filterwarnings("ignore", "'click.utils", DeprecationWarning)
    import typer  # noqa: F401
