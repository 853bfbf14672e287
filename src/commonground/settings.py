"""From a file and overrides to a checked, resolved configuration; every fault is reported at once."""

from __future__ import annotations

import copy
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

from commonground import hub
from commonground.config import AUTO, Config
from commonground.errors import ConfigError
from commonground.files import read_text
from commonground.overrides import DECIMAL, OverrideError, nested, odd_number, read_override
from commonground.own_code import FLAG, allow_code, named_code
from commonground.plain import is_plain, plain_faults, shown, text_fault
from commonground.rules import RULES, Rule

Places = dict[str, str]
LONGEST = 1 << 20  # characters of a file; every key with a comment has 10,000
WIDEST = 1 << 63  # whole numbers below it, which every library that gets them can hold
HUGE = 1e300  # numbers below it; whatever is larger is meant as inf, and is to say so
Built = typing.TypeVar("Built")
MOST_NODES = 50_000  # of a file, whose anchors are followed


def load_config(
    file: Path | None,
    overrides: Sequence[str] = (),
    rules: Sequence[Rule] = RULES,
    *,
    allow_code: bool = False,
) -> Config:
    """Read a configuration file and `key=value` overrides.

    Args:
        file: a YAML file, or None.
        overrides: dotted assignments; they win over the file.
        rules: what the values must obey.
        allow_code: whether names of code (`module:Class`) in the file may be imported, and not only those
            among the overrides.

    Returns:
        The configuration with the user's values, checked but not resolved.

    Raises:
        ConfigError: with every fault of file and overrides: place, value found, what is accepted.
    """
    values, places, faults = read_values(file, overrides)
    faults += refused_code(values, places, overrides, allowed=allow_code)
    return config_from(values, places, faults, rules)


def refused_code(
    values: Mapping[str, Any], places: Places, overrides: Sequence[str], *, allowed: bool
) -> list[str]:
    """Let be imported and fetched what the user typed; a fault for every other name of code in `values`.

    Args:
        values: what a file and the overrides say together.
        places: as `read_values` gives them.
        overrides: what the user typed.
        allowed: whether the file's names may be imported too.
    """
    for override in overrides:
        value, key = _assignment(override)
        if key == "model.base" or (key.startswith("data.") and key.endswith(".path")):
            for name in value if isinstance(value, list) else [value]:
                hub.permit(str(name).partition(":")[0])
    typed = {name for override in overrides for _, name in named_code(*_assignment(override))}
    faults = []
    for key, name in named_code(values):
        if allowed or name in typed:
            allow_code(name)
        else:
            faults.append(
                f"{_place(key, places)}: found {shown(name)}, which is code, and a file runs none; "
                f"accepted: a name on the list, this one typed as {key}=..., or {FLAG} for the file"
            )
    return faults


def _assignment(override: str) -> tuple[Any, str]:
    """(value, dotted key) of a `key=value` that can be read; an empty one otherwise."""
    try:
        key, value = read_override(override, lists=True)
    except OverrideError:
        return None, ""
    return value, key


def _place(key: str, places: Places) -> str:
    """Where a key was given, or the nearest one above it."""
    above = key
    while above and above not in places:
        above = above.rpartition(".")[0]
    return key if not above else places[above]


def read_values(
    file: Path | None, overrides: Sequence[str] = (), *, lists: bool = False
) -> tuple[dict[str, Any], Places, list[str]]:
    """Plain values of a file and overrides, before anything is known about them.

    Args:
        file: a YAML file, or None.
        overrides: dotted assignments; they win over the file.
        lists: see `read_override`.

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
        try:
            key, value = read_override(override, lists=lists)
        except OverrideError as error:
            faults.append(f"command line: {error}")
            continue
        values = _merge(values, nested(key, value))
        places[key] = f"command line: {key}"
    return values, places, faults


def config_from(
    values: Mapping[str, Any],
    places: Places | None = None,
    faults: Sequence[str] = (),
    rules: Sequence[Rule] = RULES,
) -> Config:
    """A checked configuration from plain values; see `load_config`."""
    found = list(faults)
    unfit = [f"{_place(key, places or {})}: {fault}" for key, fault in plain_faults(values)]
    if unfit:  # nothing else can be said of them: a message about a text that is no text would be none either
        raise ConfigError(list(dict.fromkeys(found + unfit)))
    config = _built(Config, check_values(Config, values, "", places or {}, found))
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


def _built(kind: type[Built], clean: Mapping[str, Any]) -> Built:
    """The dataclass `kind` of values that `check_values` took."""
    hints = typing.get_type_hints(kind)
    return kind(
        **{
            key: _built(hints[key], value) if dataclasses.is_dataclass(hints[key]) else copy.deepcopy(value)
            for key, value in clean.items()
        }
    )


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
        text = read_text(file, LONGEST)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ConfigError([f"{file}: the configuration cannot be read: {reason}"]) from error
    if len(text) > LONGEST:
        raise ConfigError([f"{file}: this is no configuration: accepted are at most {LONGEST:,} characters"])
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_lookups(node, file)
        if odd := odd_number(node):
            line = odd.start_mark.line + 1
            raise ConfigError([f"{file}:{line}: found {odd.value}; accepted: {DECIMAL}"])
        # Nothing is resolved: there is nothing left to be.
        loaded = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if node is not None else {}
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError([f"{where}: this is no YAML: {said}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{file}: this is no configuration: it is nested too deeply"]) from error
    if not isinstance(loaded, dict):
        raise ConfigError([f"{file}: found {type(loaded).__name__}; a mapping of keys to values is needed"])
    places: Places = {}
    _lines(node, "", file, places)
    return {str(key): value for key, value in loaded.items()}, places


def _refuse_lookups(node: yaml.Node | None, file: Path) -> None:
    """Raise `ConfigError` for `${`, and for a file that grows without end when its anchors are followed."""
    waiting, seen = [node] if node is not None else [], 0
    while waiting:
        one, seen = waiting.pop(), seen + 1
        if seen > MOST_NODES:
            raise ConfigError([f"{file}: this is no configuration: it has more than {MOST_NODES:,} values"])
        if isinstance(one, yaml.ScalarNode) and (fault := text_fault(one.value)):
            line = one.start_mark.line + 1
            raise ConfigError([f"{file}:{line}: found {shown(one.value)}, which holds {fault}"])
        if isinstance(one, yaml.MappingNode):
            waiting += [part for pair in one.value for part in pair]
        elif isinstance(one, yaml.SequenceNode):
            waiting += one.value


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
        path = f"{prefix}{key!s:.80}"
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
                faults.append(f"{place}: found {shown(value)}; accepted: a mapping with {inner}")
        else:
            ok, converted, wanted = _convert(hints[key], value)
            if ok:
                clean[key] = converted
            else:
                faults.append(f"{place}: found {shown(value)}; accepted: {wanted}")
    return clean


def _convert(hint: Any, value: Any) -> tuple[bool, Any, str]:
    """(fits, converted value, what is accepted in words)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if set(typing.get_args(hint)) == {int, str}:  # a number, or the word for one that is found
            ok, converted, wanted = _convert(int, value)
            return ok or value == AUTO, converted, f"{wanted}, or {AUTO}"
        inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        if value is None:
            return True, None, ""
        ok, converted, wanted = _convert(inner, value)
        return ok, converted, f"{wanted}, or null"
    if hint is bool:
        return isinstance(value, bool), value, "true or false"
    if hint is int:
        fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < WIDEST
        return fits, value, "a whole number"
    if hint is float:
        if isinstance(value, str) and value.strip().lower() in {"inf", "+inf", ".inf", "infinity"}:
            return True, math.inf, ""
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < HUGE
        if isinstance(value, float) and math.isinf(value):
            return True, value, ""
        return number and not math.isnan(value), float(value) if number else value, "a number (inf is one)"
    if hint is str:
        return isinstance(value, str), value, "a text"
    if typing.get_origin(hint) is list:
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return fits, value, "a list of texts, e.g. [safety,taste]"
    if typing.get_origin(hint) is dict:
        texts = typing.get_args(hint)[1] is str
        fits = isinstance(value, Mapping) and is_plain(value)
        fits = fits and not (texts and any(type(v) is not str for v in value.values()))
        return fits, value, "a mapping of names to texts" if texts else "a mapping"
    raise TypeError(f"no check for {hint!r}")
