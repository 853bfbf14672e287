"""The two parts of the demonstration, as shipped configurations."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

PARTS = {
    "reward": "Hundreds of people: a reward model with noise on both adapters",
    "policy": "A handful of people: what each policy writes",
}


def part_file(name: str) -> AbstractContextManager[Path]:
    """The configuration file of one part, as a path for the time of a `with` block."""
    return as_file(files("commonground.simulations") / "configs" / f"demo-{name}.yaml")
