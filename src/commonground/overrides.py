"""One `key=value` of a command line, read as the configuration means its key.

YAML has a meaning for much that is none here: ` #` begins a comment, `no` and `2026` are no texts, `010` is 8
and `1:30` is 90. A key that holds a text takes the words as they stand; a number is one in plain decimal.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from commonground.config import Config
from commonground.errors import InputError
from commonground.plain import shown, text_fault

# What YAML reads as a number in another base than ten: octal, hexadecimal, binary, sexagesimal.
_ODD = re.compile(r"[-+]?(0[0-9_]+|0[xXbBoO][0-9a-fA-F_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class OverrideError(ValueError):
    """An override cannot be read; the text says why, and names its key."""


def read_override(override: str, *, lists: bool = False) -> tuple[str, Any]:
    """Return the dotted key and the value of `key=value`.

    Args:
        override: as it was typed.
        lists: whether `[a,b]` is a list also where the key holds a text, as in the axes of a tournament.

    Raises:
        OverrideError: it is no assignment, or its value is none of YAML's.
    """
    key, sign, text = override.partition("=")
    key = key.strip()
    if not sign or not key:
        raise OverrideError(f"{shown(override)} is no assignment; accepted: key=value")
    if fault := text_fault(override):
        raise OverrideError(f"{shown(key)} holds {fault}")
    words = text.strip()
    kind = _kind(key)
    if kind is not None and not (lists and words.startswith("[") and words.endswith("]")):
        return key, None if words == "null" and type(None) in typing.get_args(kind) else text
    try:
        if odd := odd_number(yaml.compose(text, Loader=yaml.SafeLoader)):
            raise OverrideError(f"{key}: found {odd.value}; accepted: {DECIMAL}")
        return key, OmegaConf.to_container(OmegaConf.from_dotlist([f"v={text}"]), resolve=False)["v"]  # type: ignore[call-overload, index]
    except (OmegaConfBaseException, yaml.YAMLError, TypeError, RecursionError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OverrideError(f"{shown(override)} cannot be read: {said}") from error


def read_map(option: str, words: Sequence[str]) -> dict[str, str]:
    """A map of texts from repeated `name=value`, or from one `{name: value}` as in a configuration.

    Raises:
        InputError: a word is neither.
    """
    found: dict[str, str] = {}
    for word in words:
        if fault := text_fault(word):
            raise InputError(f"{option} holds {fault}")
        if word.strip().startswith("{"):
            try:
                value = yaml.load(word, Loader=yaml.BaseLoader)
            except (yaml.YAMLError, RecursionError):
                value = None
            if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
                raise InputError(f"{option} {shown(word)} cannot be read; accepted: {{name: value, ...}}")
            found |= {str(name): one for name, one in value.items()}
            continue
        name, sign, value = word.partition("=")
        if not sign or not name.strip():
            raise InputError(f"{option} {shown(word)} is no assignment; accepted: name=value")
        found[name.strip()] = value
    return found


DECIMAL = "numbers in decimal digits without a 0 before them; a text in quotes"


def odd_number(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """Return the first scalar that YAML reads as a number in another base than ten, if any.

    Args:
        node: of a document whose size is known to be bounded.
    """
    waiting = [] if node is None else [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, yaml.ScalarNode) and one.tag in _NUMBERS and _ODD.fullmatch(one.value):
            return one
        if isinstance(one, yaml.MappingNode):
            waiting += [value for _, value in reversed(one.value)]
        elif isinstance(one, yaml.SequenceNode):
            waiting += reversed(one.value)
    return None


def nested(key: str, value: Any) -> dict[str, Any]:
    """The value under its dotted key, as a file would have it."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def _kind(key: str) -> Any:
    """What the configuration says a key holds where that is a text, or a text or nothing; else None."""
    kind: Any = Config
    for part in key.split("."):
        if typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
        elif dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind).get(part)
        else:
            return None
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return kind if set(typing.get_args(kind)) == {str, type(None)} else None
    return kind if kind is str else None
