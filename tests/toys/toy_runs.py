"""Small whole runs: one encoder and one cache of embeddings for all of them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toy_encoder import save_encoder

from commonground.simulations.engine import environment
from commonground.simulations.runner import simulate
from commonground.simulations.settings import read_settings

SMALL = (
    "people=12",
    "rounds=3",
    "cohort=4",
    "data.pairs_per_person=8",
    "data.test_pairs=6",
    "evaluation.resamples=100",
    "privacy.private.steps=12",
)


@dataclass(frozen=True)
class Kit:
    """What small runs share.

    Attributes:
        overrides: of a small run.
        variables: environment under which the embeddings are computed once a session.
    """

    overrides: tuple[str, ...]
    variables: dict[str, str]

    def __call__(self, out: Path, *overrides: str) -> dict[str, Any]:
        """Run in this process; returns the result."""
        with environment(self.variables):
            return simulate(read_settings(None, [*self.overrides, *overrides]), out)


def make_kit(folder: Path) -> Kit:
    """A kit whose encoder and cache live in `folder`."""
    model = save_encoder(folder / "model")
    return Kit((*SMALL, f"model.base={model}"), {"COMMONGROUND_CACHE": str(folder / "cache")})


def receipts(folder: Path) -> list[tuple[str, int, int, str]]:
    """(arm, round, person, digest of her message), as the devices of a run keep them in its state."""
    state = folder / "state"
    file = next(f for f in (state / "private.sqlite", state / "fleet" / "receipts.sqlite") if f.is_file())
    database = sqlite3.connect(file)
    found = database.execute("SELECT arm, round, person, digest FROM receipt ORDER BY 1, 2, 3").fetchall()
    database.close()
    return found
