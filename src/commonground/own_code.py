"""Names of code, `module:attribute`, and which of them this process may import.

A text never becomes code by itself. It does where the user typed it on this command line, where a program
handed over the object (`allow_code`), or where the user said of one file that its names may be imported
(`--allow-code`). Whatever stands in an offer, a charter, an invitation or somebody's file is a text like any
other, and asking for it is refused with the name in the message.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from commonground.errors import InputError

VARIABLE = "COMMONGROUND_CODE"  # for processes that a run starts: the names that were typed for it
FLAG = "--allow-code"
FORM = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")
OURS = frozenset(  # of this package itself, in a room that the one that needs it does not import
    {
        "commonground.server.deployed:gate_pairs",
        "commonground.simulations.public_safety:public_safety",
        "commonground.simulations.root:safety_root",
    }
)
_ALLOWED: dict[str, Any] = {}  # name -> the object, or None where it has yet to be imported


def is_code(text: Any) -> bool:
    """Whether a value has the form of a name of code."""
    return isinstance(text, str) and FORM.fullmatch(text) is not None


def allow_code(wanted: str | Callable[..., Any]) -> str:
    """Let this process, and the processes that a run of it starts, use a name or an object.

    Args:
        wanted: `module:attribute`, or a class or function; one that other processes can import too.

    Returns:
        The name, to be set in a configuration.
    """
    if isinstance(wanted, str):
        _ALLOWED.setdefault(wanted, None)
        return wanted
    name = f"{wanted.__module__}:{wanted.__qualname__}"
    _ALLOWED[name] = wanted
    return name


def forget_code() -> None:
    """Allow nothing any more."""
    _ALLOWED.clear()


def environment_of_code() -> dict[str, str]:
    """What a process that this one starts needs in its environment to import the same names."""
    return {VARIABLE: "\n".join(sorted(_handed_down() | _ALLOWED.keys()))}


def import_code(name: str, key: str) -> Any:
    """The object that `name` stands for.

    Args:
        name: `module:attribute`.
        key: of the configuration, for the message.

    Raises:
        InputError: nobody on this machine asked for it, or it cannot be imported.
    """
    if name not in OURS and name not in _ALLOWED and name not in _handed_down():
        raise InputError(
            f"{name!r:.80}, code that nobody on this machine asked for; accepted: a name that you "
            f"type yourself as {key}=..., or one in a file that you read with {FLAG}",
            key=key,
        )
    if (known := _ALLOWED.get(name)) is not None:
        return known
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing a module runs it, and it can raise anything
        said = next(iter(str(error).strip().splitlines()), "no reason given")
        raise InputError(
            f"{name!r:.80}, which cannot be imported: {type(error).__name__}: {said}", key=key
        ) from error
    return found


def named_code(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, name) of every name of code where a configuration or a tournament may have one.

    Args:
        values: plain values, nested.
        key: where they stand.
    """
    waiting = [(key, values)]
    while waiting:
        at, value = waiting.pop(0)
        if isinstance(value, Mapping):
            waiting += [(f"{at}.{name}" if at else str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(at, inner) for inner in value]
        elif _is_named(at, value):
            yield at, value


def _is_named(key: str, value: Any) -> bool:
    """Whether a value would be imported by what reads `key`."""
    if not isinstance(value, str) or key.partition(".")[0] not in ("strategy", "strategies"):
        return False
    return is_code(value) or (":" in value and key in ("strategy.name", "strategies", "strategies.name"))


def _handed_down() -> set[str]:
    return set(os.environ.get(VARIABLE, "").split("\n")) - {""}
