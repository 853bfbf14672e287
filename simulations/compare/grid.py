"""The grid of a tournament: strategies x seeds x every ordinary key that was given a list of values.

A key whose type is a list already (`shared.tags`) takes a list of lists. Values are read by the type of
their field, so `inf` is a number. Everything that is wrong is said at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from commonground.config import Config
from commonground.errors import ConfigError
from commonground.plain import plain_faults
from commonground.rules import RULES, value_of
from commonground.settings import Places, config_from, read_values, refused_code
from commonground.simulations.compare.entries import Entry, read_seeds, read_strategies
from commonground.simulations.settings import absolute, attack_fits, composition_refusal, strategy_exists

OURS = ("strategies", "seeds", "compare")
TAKEN = {  # keys of a single run -> what a tournament takes in their place
    "seed": "seeds=5 (0 to 4) or seeds=[3,7]",
    "strategy.name": "strategies=[fedavg,...]",
    "strategy.options": "options inside strategies, e.g. strategies=[{name: fedadam, options: {eta: 0.1}}]",
}
PATHS = ("data.taste.path", "data.safety.path", "model.base")
LONGEST = 100  # characters of a cell's folder, far below what file systems take


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the tournament.

    Attributes:
        name: of its folder.
        strategy: label of its strategy.
        setting: position of its setting in `Grid.settings`.
        seed: its seed.
        config: what is run.
        refusal: why the strategy may not be used with this privacy, or None.
    """

    name: str
    strategy: str
    setting: int
    seed: int
    config: Config
    refusal: str | None


@dataclasses.dataclass(frozen=True)
class Grid:
    """A tournament.

    Attributes:
        strategies: the first is the reference.
        seeds: paired between all cells of a setting.
        axes: dotted key -> its values, in the order of the configuration.
        settings: one value a key of `axes`, as text, in the order of the table.
        cells: by setting, seed and strategy.
        text: the grid as YAML that `read_grid` reads back to an equal grid.
    """

    strategies: tuple[Entry, ...]
    seeds: tuple[int, ...]
    axes: dict[str, tuple[Any, ...]]
    settings: tuple[dict[str, str], ...]
    cells: tuple[Cell, ...]
    text: str


def read_grid(
    file: Path | None, overrides: Sequence[str] = (), *, allow_code: bool = False
) -> tuple[Grid, int | None]:
    """The grid of a file and overrides, and `compare.workers` where it was given.

    Args:
        file: YAML, or None.
        overrides: what the user typed.
        allow_code: whether names of code in the file may be imported, and not only those that were typed.

    Raises:
        ConfigError: with every fault: a strategy or seed twice, an empty list, an unknown key or value.
    """
    values, places, faults = read_values(file, overrides, lists=True)
    faults += refused_code(values, places, overrides, allowed=allow_code)
    unfit = [f"{places.get(key, key)}: {fault}" for key, fault in plain_faults(values)]
    if unfit:
        raise ConfigError(list(dict.fromkeys(faults + unfit)))
    ours = {key: values.pop(key) for key in OURS if key in values}
    strategies = read_strategies(ours.get("strategies"), places, faults)
    seeds = read_seeds(ours.get("seeds", 3), places, faults)
    workers = _workers(ours.get("compare"), places, faults)
    for key, instead in TAKEN.items():
        if _take(values, key) is not None:
            faults.append(f"{places.get(key, key)}: compare takes {instead}")
    values = typing.cast(dict[str, Any], _anchored(values, ""))
    kept = _nested(values)
    axes = dict(_axes(Config, values, "", places, faults))
    # A faulty list of strategies or seeds must not hide what else is wrong.
    entries, first = strategies or [Entry("fedavg")], (seeds or [0])[0]
    pairs = itertools.product(_settings(axes), entries)
    configs = [_config(values, setting, entry, first, places, faults) for setting, entry in pairs]
    settings = _texts(axes, configs, len(entries), places, faults)
    if faults:
        raise ConfigError(
            list(dict.fromkeys(faults)), hint="commonground config show prints every key with its value"
        )
    grid = {"strategies": [entry.to_dict() for entry in strategies], "seeds": list(seeds), **kept}
    text = str(yaml.safe_dump(_plain(grid), sort_keys=True, allow_unicode=True))
    found = typing.cast(list[Config], configs)
    cells = _cells(strategies, seeds, settings, found)
    return Grid(tuple(strategies), tuple(seeds), axes, tuple(settings), tuple(cells), text), workers


def _workers(given: Any, places: Places, faults: list[str]) -> int | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or set(given) - {"workers"}:
        faults.append(f"{places.get('compare', 'compare')}: found {given!r}; accepted: compare.workers=N")
        return None
    workers = given.get("workers")
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        key = "compare.workers"
        faults.append(f"{places.get(key, key)}: found {workers!r}; accepted: a whole number, at least 1")
        return None
    return workers


def _axes(
    kind: Any, values: dict[str, Any], prefix: str, places: Places, faults: list[str]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every key with a list of values; they are taken out of `values`."""
    for name, hint in typing.get_type_hints(kind).items():
        if name not in values:
            continue
        key, value = f"{prefix}{name}", values[name]
        if dataclasses.is_dataclass(hint):
            if isinstance(value, dict):
                yield from _axes(hint, value, f"{key}.", places, faults)
        elif isinstance(value, list):
            is_list = typing.get_origin(hint) is list
            if is_list and not any(isinstance(item, list) for item in value):
                continue  # one value, which is a list
            del values[name]
            if not value:
                faults.append(f"{places.get(key, key)}: found []; accepted: at least one value")
            else:
                yield key, tuple(value)


def _settings(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of all axes."""
    for chosen in itertools.product(*axes.values()):
        yield dict(zip(axes, chosen, strict=True))


def _config(
    values: dict[str, Any],
    setting: Mapping[str, Any],
    entry: Entry,
    seed: int,
    places: Places,
    faults: list[str],
) -> Config | None:
    """The checked configuration of one cell, or None and its faults."""
    full = _nested(values)
    for key, value in {**setting, "strategy.name": entry.name, "strategy.options": entry.options}.items():
        _put(full, key, value)
    full["seed"] = seed
    named = dict(places)
    for key in ("strategy.name", "strategy.options"):
        named[key] = f"{places.get('strategies', 'strategies')}: {entry.label}"
    try:
        return config_from(full, named, rules=(*RULES, strategy_exists, attack_fits))
    except ConfigError as error:
        faults += error.faults
        return None


def _texts(
    axes: Mapping[str, Sequence[Any]],
    configs: Sequence[Config | None],
    each: int,
    places: Places,
    faults: list[str],
) -> list[dict[str, str]]:
    """The settings in words, from the values that were understood; a value given twice is a fault."""
    settings = []
    for place, setting in enumerate(_settings(axes)):
        config = next((c for c in configs[place * each : (place + 1) * each] if c is not None), None)
        settings.append(
            {key: text(value if config is None else value_of(config, key)) for key, value in setting.items()}
        )
    for key, values in axes.items():
        found = [text(value) for value in values]
        by_value = {text(raw): one[key] for raw, one in zip(_column(axes, key), settings, strict=True)}
        shown = [by_value.get(raw, raw) for raw in found]
        for twice in sorted({value for value in shown if shown.count(value) > 1}):
            faults.append(f"{places.get(key, key)}: found {twice} twice; each value once")
    return settings


def _column(axes: Mapping[str, Sequence[Any]], key: str) -> list[Any]:
    return [setting[key] for setting in _settings(axes)]


def _cells(
    strategies: Sequence[Entry],
    seeds: Sequence[int],
    settings: Sequence[dict[str, str]],
    configs: Sequence[Config],
) -> list[Cell]:
    found: list[Cell] = []
    products = itertools.product(enumerate(settings), strategies)
    for ((place, setting), entry), config in zip(products, configs, strict=True):
        refusal = composition_refusal(config)
        reason = None if refusal is None else refusal[1]
        for seed in seeds:
            own = dataclasses.replace(config, seed=seed)  # a rule that reads no seed need not run again
            found.append(Cell(_name(entry.label, setting, seed), entry.label, place, seed, own, reason))
    found.sort(key=lambda cell: (cell.setting, seeds.index(cell.seed)))  # cells that share data in a row
    return found


def _name(label: str, setting: Mapping[str, str], seed: int) -> str:
    """A folder's name that says what is in it; the hash keeps apart what the alphabet cannot."""
    parts = [label, *(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in setting.items()), f"seed={seed}"]
    full = "_".join(parts)
    slug = re.sub(r"[^A-Za-z0-9.=+_-]+", "-", full)
    if (
        slug == full
        and len({key.rsplit(".", 1)[-1] for key in setting}) == len(setting)
        and len(slug) <= LONGEST
    ):
        return slug
    exact = "\x1f".join([label, *itertools.chain(*setting.items()), str(seed)])
    return f"{slug[:LONGEST]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def text(value: Any) -> str:
    """A value as the table shows it and as the command line takes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**6)).removesuffix("\n...\n").strip()


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            return  # a fault that the check of the whole names
    values[last] = value


def _take(values: dict[str, Any], key: str) -> Any:
    """Remove and return the value of a dotted key, or None."""
    *path, last = key.split(".")
    for part in path:
        inner = values.get(part)
        if not isinstance(inner, dict):
            return None
        values = inner
    return values.pop(last, None)


def _nested(value: Any) -> Any:
    """A copy of nested mappings and lists."""
    if isinstance(value, Mapping):
        return {key: _nested(item) for key, item in value.items()}
    return [_nested(item) for item in value] if isinstance(value, list) else value


def _anchored(value: Any, key: str) -> Any:
    """The values with local paths made absolute, so that a tournament can be resumed from anywhere."""
    if isinstance(value, Mapping):
        return {name: _anchored(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if key in PATHS:
        items = value if isinstance(value, list) else [value]
        found = [absolute(item) if isinstance(item, str) else item for item in items]
        return found if isinstance(value, list) else found[0]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return "inf" if value == float("inf") and isinstance(value, float) else value
