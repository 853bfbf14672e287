"""Differences from the reference: paired over people and seeds, corrected for how many were looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from commonground.evaluation.multiplicity import holm
from commonground.evaluation.pareto import pareto_front
from commonground.evaluation.two_levels import Difference, two_level_differences
from commonground.randomness import generator
from commonground.simulations.compare.grid import Grid
from commonground.simulations.compare.rows import Row

RESAMPLES = 9999  # p-values down to 1e-4: Holm multiplies them by the number of differences
LEVEL = 0.05
MEASURES = {  # name -> (tag, policy, whether the minority alone)
    "personal_taste": ("taste", "personal", False),
    "shared_taste": ("taste", "shared", False),
    "personal_minority": ("taste", "personal", True),
    "shared_minority": ("taste", "shared", True),
    "personal_safety": ("safety", "personal", False),
    "shared_safety": ("safety", "shared", False),
}
# What a choice is judged by: name -> whether more is better.
OBJECTIVES = {
    "personal_taste": True,
    "shared_safety": True,
    "personal_worst_decile": True,
    "epsilon": False,
    "bytes": False,
}


@dataclass
class Compared:
    """A strategy against the reference of its setting, in one measure.

    Attributes:
        strategy: label.
        reference: label of the first strategy that is done in this setting.
        setting: position in the grid's settings.
        measure: a name of `MEASURES`.
        difference: strategy minus reference.
        holm: p-value corrected for all differences of this measure; nan where there is none.
    """

    strategy: str
    reference: str
    setting: int
    measure: str
    difference: Difference
    holm: float = float("nan")

    @property
    def real(self) -> bool:
        """Whether the difference is beyond noise."""
        return self.holm <= LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        corrected = None if np.isnan(self.holm) else self.holm
        names = {"strategy": self.strategy, "reference": self.reference, "setting": self.setting}
        numbers = {**self.difference.to_dict(), "p_holm": corrected, "beyond_noise": self.real}
        return {**names, "measure": self.measure, **numbers}


def compare_rows(grid: Grid, rows: Sequence[Row]) -> list[Compared]:
    """Every strategy against the first one of its setting that is done; Holm over each measure."""
    found: list[Compared] = []
    for setting in range(len(grid.settings)):
        here = [row for row in rows if row.setting == setting and row.seeds]
        for measure in MEASURES:
            found += _compare(here, measure)
    for measure in MEASURES:
        family = [one for one in found if one.measure == measure]
        for one, corrected in zip(family, holm([one.difference.p for one in family]), strict=True):
            one.holm = float(corrected)
    return found


def _compare(rows: Sequence[Row], measure: str) -> list[Compared]:
    """The rows of a setting against the first; strategies with the same seeds are resampled together."""
    if len(rows) < 2:
        return []
    reference = next((row for row in rows if row.status == "done"), rows[0])
    others = [row for row in rows if row is not reference]
    common = {row.strategy: tuple(s for s in reference.seeds if s in row.seeds) for row in others}
    differences: dict[str, Difference] = {}
    for seeds in dict.fromkeys(common.values()):
        group = [row for row in others if common[row.strategy] == seeds]
        if not seeds:
            nothing = Difference(np.nan, np.nan, np.nan, np.nan, 0, 0)
            differences |= {row.strategy: nothing for row in group}
            continue
        values = [
            np.stack([_values(row, seed, measure) - _values(reference, seed, measure) for row in group], 1)
            for seed in seeds
        ]
        # The same draws in every setting and measure: equal differences get equal answers.
        rng = generator(0, "compare", *seeds)
        answers = two_level_differences(values, resamples=RESAMPLES, rng=rng, largest=1.0)
        differences |= {row.strategy: one for row, one in zip(group, answers, strict=True)}
    return [
        Compared(row.strategy, reference.strategy, row.setting, measure, differences[row.strategy])
        for row in others
    ]


def _values(row: Row, seed: int, measure: str) -> np.ndarray:
    tag, policy, few = MEASURES[measure]
    people = row.people[seed]
    values = (people.taste if tag == "taste" else people.safety)[policy]
    return values[people.minority] if few else values


def fronts(grid: Grid, rows: Sequence[Row]) -> dict[int, list[str]]:
    """Setting -> strategies that no other strategy of the setting beats in every objective.

    From means, whatever their noise: a front says what to look at, the differences say what is real.
    """
    found = {}
    for setting in range(len(grid.settings)):
        here = [row for row in rows if row.setting == setting and row.status == "done"]
        found[setting] = [here[i].strategy for i in np.flatnonzero(front(here)).tolist()] if here else []
    return found


def planes(rows: Sequence[Row]) -> list[list[str]]:
    """For every row, with which other objective its personal taste is on a front of all settings."""
    done = [row for row in rows if row.status == "done"]
    found: dict[int, list[str]] = {id(row): [] for row in rows}
    for name in list(OBJECTIVES)[1:]:
        for row, on in zip(done, front(done, ("personal_taste", name)), strict=True):
            if on:
                found[id(row)].append(name)
    return [found[id(row)] for row in rows]


def front(rows: Sequence[Row], objectives: Sequence[str] = tuple(OBJECTIVES)) -> np.ndarray:
    """(rows,) who is on the front of these objectives."""
    table = np.array([[objective(row, name) for name in objectives] for row in rows], dtype=np.float64)
    table = table.reshape(len(rows), len(objectives))
    return pareto_front(table, [OBJECTIVES[name] for name in objectives])


def objective(row: Row, name: str) -> float:
    """A row's value of an objective, nan where there is none; bytes are those up and down."""
    names = ("bytes_up", "bytes_down") if name == "bytes" else (name,)
    values = [row.numbers.get(one) for one in names]
    return float("nan") if None in values else float(sum(v for v in values if v is not None))
