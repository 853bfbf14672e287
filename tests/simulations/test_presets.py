"""The shipped tournaments: each opens with its command and its question, and is a grid that can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from commonground.simulations import compare
from commonground.simulations.compare.grid import read_grid

FOLDER = Path(compare.__file__).resolve().parents[1] / "configs"
CELLS = {"quick": 21, "robust": 84, "fair": 30, "privacy": 60, "lora": 30}


@pytest.mark.parametrize("name", sorted(CELLS))
def test_a_preset_says_how_to_run_it_and_what_it_asks(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    said = f"# commonground compare --config simulations/configs/{name}.yaml --out runs/{name}"
    assert lines[0] == said
    question = " ".join(line[1:] for line in lines[1:] if line.startswith("#"))
    assert "?" in question


@pytest.mark.parametrize("name", sorted(CELLS))
def test_a_preset_is_a_grid(name: str) -> None:
    grid, _ = read_grid(FOLDER / f"{name}.yaml")
    assert len(grid.cells) == CELLS[name]
