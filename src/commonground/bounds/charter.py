"""The charter: the hard constraints, as a file that is checked, signed, and compared.

It says what must not be written, how that is probed and detected, which bounds hold, what is said instead,
and who may change it. Constraints are few and universal. Style and values are out of its reach: a detector
that holds back any answer of the starter set, whose answers differ in taste alone, is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commonground.bounds.charter_schema import (
    Bounds,
    Changes,
    Charter,
    Constraint,
    DetectorRule,
    ProbeSet,
    Tiers,
    wrong_values,
)
from commonground.errors import ConfigError
from commonground.plain import plain_faults
from commonground.settings import Places, check_values, read_values
from commonground.study.signing import Paper, sign

KIND = "charter"
_NAMED: dict[str, Any] = {"constraints": Constraint, "detectors": DetectorRule, "probes": ProbeSet}
_PARTS: dict[str, Any] = {"tiers": Tiers, "bounds": Bounds, "changes": Changes}


@dataclass
class _Frame:
    """The charter's top, as `check_values` can check it."""

    title: str
    version: int
    constraints: dict[str, Any]
    detectors: dict[str, Any]
    probes: dict[str, Any]
    tiers: dict[str, Any]
    bounds: dict[str, Any]
    changes: dict[str, Any]
    base: str = ""


def load_charter(file: Path) -> Charter:
    """Read a charter file.

    Args:
        file: YAML, read through OmegaConf.

    Raises:
        ConfigError: with every fault: place, value found, what is accepted.
    """
    values, places, faults = read_values(file)
    return charter_from(values, places, faults)


def charter_from(
    values: Mapping[str, Any], places: Places | None = None, faults: Sequence[str] = ()
) -> Charter:
    """A checked charter from plain values; see `load_charter`."""
    places, found = places or {}, list(faults)
    if unfit := [f"{places.get(key, key)}: {fault}" for key, fault in plain_faults(values)]:
        raise ConfigError(list(dict.fromkeys(found + unfit)))
    clean = _checked(_Frame, values, "", places, found)
    for name, kind in _NAMED.items():
        items = clean.get(name, {})
        clean[name] = {
            str(key): _built(kind, item, f"{name}.{key}.", places, found) for key, item in items.items()
        }
    for name, kind in _PARTS.items():
        clean[name] = _built(kind, clean.get(name, {}), f"{name}.", places, found)
    if not found:
        charter = Charter(**clean)
        found += [f"{places.get(key, key)}: {message}" for key, message in wrong_values(charter)]
        if not found:
            return charter
    raise ConfigError(list(dict.fromkeys(found)), hint="docs/bounds.md lists what a charter holds")


def _checked(
    kind: Any, values: Mapping[str, Any], prefix: str, places: Places, faults: list[str]
) -> dict[str, Any]:
    clean = check_values(kind, values, prefix, places, faults)
    for one in dataclasses.fields(kind):
        given = one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        if one.name not in values and not given:
            faults.append(f"{prefix}{one.name}: found nothing; it is needed")
    return clean


def _built(kind: Any, item: Any, prefix: str, places: Places, faults: list[str]) -> Any:
    if not isinstance(item, Mapping):
        inner = ", ".join(one.name for one in dataclasses.fields(kind))
        key = prefix.rstrip(".")
        faults.append(f"{places.get(key, key)}: found {item!r:.60}; accepted: a mapping with {inner}")
        return None
    before = len(faults)
    clean = _checked(kind, item, prefix, places, faults)
    return kind(**clean) if len(faults) == before else None


def sign_charter(key: Ed25519PrivateKey, charter: Charter) -> Paper:
    """The charter as a signed paper."""
    return sign(key, KIND, charter.to_dict())


def open_charter(paper: Paper, signer: str) -> Charter:
    """A signed charter, once signer and signature hold and its content is a charter.

    Raises:
        TrustError: it is no charter paper, signed by somebody else, or changed afterwards.
        ConfigError: its content has faults.
    """
    return charter_from(paper.opened(KIND, signer, "the charter"))


def diff_charters(old: Charter, new: Charter) -> list[str]:
    """What changed, a line a value: `key: old -> new`; keys in order, `(nothing)` for what is not there."""
    left, right = dict(_flat(old.to_dict())), dict(_flat(new.to_dict()))
    return [
        f"{key}: {left.get(key, '(nothing)')} -> {right.get(key, '(nothing)')}"
        for key in dict.fromkeys([*left, *right])
        if left.get(key) != right.get(key)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
