"""`compare.json`: everything a tournament found, as plain values; it does not grow with the people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commonground.config import Config
from commonground.report.compare_conclusion import conclusion
from commonground.settings import to_dict
from commonground.simulations.compare.differences import MEASURES, OBJECTIVES, compare_rows, fronts, planes
from commonground.simulations.compare.grid import Grid
from commonground.simulations.compare.rows import Row

SCHEMA = 1


def document(
    grid: Grid,
    rows: Sequence[Row],
    results: Mapping[str, Mapping[str, Any]],
    reasons: Mapping[str, str],
    path: Path,
) -> dict[str, Any]:
    """The content of `compare.json`.

    Args:
        grid: the tournament.
        rows: its table.
        results: cell name -> result of those that are done.
        reasons: cell name -> why it failed.
        path: the tournament's folder.
    """
    compared = compare_rows(grid, rows)
    any_result: Mapping[str, Any] = next(iter(results.values()), {})
    people = [one for row in rows for one in row.people.values()]
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "strategies": [entry.label for entry in grid.strategies],
        "individual": individual(grid),
        "seeds": list(grid.seeds),
        "axes": {key: list(_texts(grid, key)) for key in grid.axes},
        "settings": [
            {"values": setting, "attacked": attacked(_config(grid, place))}
            for place, setting in enumerate(grid.settings)
        ],
        "people": max((len(one.minority) for one in people), default=0),
        "minority_planted": all(one.planted for one in people) if people else None,
        "simulation_only": True,
        "rows": [_row(row, on) for row, on in zip(rows, planes(rows), strict=True)],
        "cells": [
            {
                "name": cell.name,
                "strategy": cell.strategy,
                "setting": cell.setting,
                "seed": cell.seed,
                "status": "refused" if cell.refusal else "done" if cell.name in results else "failed",
                "reason": cell.refusal or reasons.get(cell.name),
                "seconds": results.get(cell.name, {}).get("seconds"),
            }
            for cell in grid.cells
        ],
        "measures": list(MEASURES),
        "differences": [one.to_dict() for one in compared],
        "objectives": dict(OBJECTIVES),
        "warnings": _warnings(grid, results),
        "fronts": [fronts(grid, rows)[place] for place in range(len(grid.settings))],
        "config": to_dict(grid.cells[0].config),
        "versions": any_result.get("versions"),
        "reproduce": f"commonground compare --config {shlex.quote(str(path / 'compare.yaml'))} --out again",
    }
    found["conclusion"] = conclusion(found)
    return found


def attacked(config: Config) -> bool:
    """Whether anybody attacks in a setting; a configuration that knows no attack has none."""
    attack = to_dict(config).get("attack")
    return isinstance(attack, Mapping) and bool(attack.get("name")) and attack.get("fraction", 1) != 0


def _warnings(grid: Grid, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is void because of attackers, once a strategy and setting: of its first seed that is done."""
    found: dict[tuple[str, int], list[str]] = {}
    for cell in grid.cells:
        if cell.name in results and attacked(cell.config):
            said = (results[cell.name].get("attack") or {}).get("warnings", [])
            fraction = f"attack.fraction={cell.config.attack.fraction:g}, seed {cell.seed}"
            found.setdefault((cell.strategy, cell.setting), [f"{fraction}: {line}." for line in said])
    return list(dict.fromkeys(line for lines in found.values() for line in lines))


def individual(grid: Grid) -> list[str]:
    """Strategies that compare people's replies one by one: median, Krum and kin."""
    from commonground.strategies.registry import is_linear

    return [entry.label for entry in grid.strategies if not is_linear(entry.name)]


def _config(grid: Grid, setting: int) -> Config:
    return next(cell.config for cell in grid.cells if cell.setting == setting)


def _texts(grid: Grid, key: str) -> list[str]:
    return list(dict.fromkeys(setting[key] for setting in grid.settings))


def _row(row: Row, on: list[str]) -> dict[str, Any]:
    numbers = {key: "inf" if value == float("inf") else value for key, value in row.numbers.items()}
    return {
        "strategy": row.strategy,
        "setting": row.setting,
        "status": row.status,
        "seeds": row.seeds,
        "reason": row.reason,
        "numbers": numbers,
        "groups": row.groups,
        "planes": on,
    }
