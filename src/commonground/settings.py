"""From a file and overrides to a checked, resolved configuration; every fault is reported at once."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from commonground.config import Config
from commonground.errors import ConfigError
from commonground.rules import RULES, Rule

Places = dict[str, str]


def load_config(file: Path | None, overrides: Sequence[str] = (), rules: Sequence[Rule] = RULES) -> Config:
    """Read a configuration file and `key=value` overrides.

    Args:
        file: a YAML file, or None.
        overrides: dotted assignments; they win over the file.
        rules: what the values must obey.

    Returns:
        The configuration with the user's values, checked but not resolved.

    Raises:
        ConfigError: with every fault of file and overrides: place, value found, what is accepted.
    """
    values, places, faults = read_values(file, overrides)
    return config_from(values, places, faults, rules)


def read_values(file: Path | None, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Places, list[str]]:
    """Plain values of a file and overrides, before anything is known about them.

    Args:
        file: a YAML file, or None.
        overrides: dotted assignments; they win over the file.

    Returns:
        values: nested.
        places: dotted key -> where it was given, in words.
        faults: overrides that could not be read.

    Raises:
        ConfigError: the file cannot be read.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    places: Places = {}
    if file is not None:
        values, places = _read_file(file)
    for override in overrides:
        key, sign, _ = override.partition("=")
        if not sign or not key.strip():
            faults.append(f"command line: {override!r} is no assignment; accepted: key=value")
            continue
        try:
            part = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            faults.append(f"command line: {override!r} cannot be read: {str(error).splitlines()[0]}")
            continue
        values = _merge(values, typing.cast(dict[str, Any], part))
        places[key.strip()] = f"command line: {key.strip()}"
    return values, places, faults


def config_from(
    values: Mapping[str, Any],
    places: Places | None = None,
    faults: Sequence[str] = (),
    rules: Sequence[Rule] = RULES,
) -> Config:
    """A checked configuration from plain values; see `load_config`."""
    found = list(faults)
    clean = check_values(Config, values, "", places or {}, found)
    config = typing.cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), clean)))
    wrong = {fault.split(":", 1)[0] for fault in found}
    for rule in rules:
        found += [
            f"{(places or {}).get(key, key)}: {message}"
            for key, message in rule(config)
            if key not in wrong and (places or {}).get(key, key) not in wrong
        ]
    if found:
        raise ConfigError(
            list(dict.fromkeys(found)), hint="commonground config show prints every key with its value"
        )
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON-safe values; infinity is the text `inf`."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return "inf" if isinstance(value, float) and math.isinf(value) else value

    return typing.cast(dict[str, Any], plain(dataclasses.asdict(config)))


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `load_config` reads back to an equal value."""
    return str(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def _read_file(file: Path) -> tuple[dict[str, Any], Places]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ConfigError([f"{file}: the configuration cannot be read: {reason}"]) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        loaded = OmegaConf.to_container(OmegaConf.create(text), resolve=True) if node is not None else {}
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise ConfigError([f"{where}: this is no YAML: {str(error).splitlines()[0]}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{file}: this is no configuration: it is nested too deeply"]) from error
    if not isinstance(loaded, dict):
        raise ConfigError([f"{file}: found {type(loaded).__name__}; a mapping of keys to values is needed"])
    places: Places = {}
    _lines(node, "", file, places)
    return {str(key): value for key, value in loaded.items()}, places


def _lines(node: yaml.Node | None, prefix: str, file: Path, places: Places) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{prefix}{key.value}"
            places[path] = f"{file}:{key.start_mark.line + 1}: {path}"
            _lines(value, f"{path}.", file, places)


def _merge(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    merged = dict(left)
    for key, value in right.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def check_values(
    kind: Any, values: Mapping[str, Any], prefix: str, places: Places, faults: list[str]
) -> dict[str, Any]:
    """The values that fit the dataclass `kind`; everything else becomes a fault."""
    hints = typing.get_type_hints(kind)
    clean: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        place = places.get(path, path)
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.5)
            known = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(hints)}"
            faults.append(f"{place}: unknown key; {known}")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, Mapping):
                clean[key] = check_values(hints[key], value, f"{path}.", places, faults)
            else:
                inner = ", ".join(field.name for field in dataclasses.fields(hints[key]))
                faults.append(f"{place}: found {value!r}; accepted: a mapping with {inner}")
        else:
            ok, converted, wanted = _convert(hints[key], value)
            if ok:
                clean[key] = converted
            else:
                faults.append(f"{place}: found {value!r}; accepted: {wanted}")
    return clean


def _convert(hint: Any, value: Any) -> tuple[bool, Any, str]:
    """(fits, converted value, what is accepted in words)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        if value is None:
            return True, None, ""
        ok, converted, wanted = _convert(inner, value)
        return ok, converted, f"{wanted}, or null"
    if hint is bool:
        return isinstance(value, bool), value, "true or false"
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value, "a whole number"
    if hint is float:
        if isinstance(value, str) and value.strip().lower() in {"inf", "+inf", ".inf", "infinity"}:
            return True, math.inf, ""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and not math.isnan(value), float(value) if number else value, "a number (inf is one)"
    if hint is str:
        return isinstance(value, str), value, "a text"
    if typing.get_origin(hint) is list:
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return fits, value, "a list of texts, e.g. [safety,taste]"
    if typing.get_origin(hint) is dict:
        texts = typing.get_args(hint)[1] is str
        fits = isinstance(value, Mapping) and not (texts and any(type(v) is not str for v in value.values()))
        return fits, value, "a mapping of names to texts" if texts else "a mapping"
    raise TypeError(f"no check for {hint!r}")
