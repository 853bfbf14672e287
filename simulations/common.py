"""What runs on the same people have in common, made once in a process that runs many of them.

A cell of a tournament differs from its neighbours in strategy, noise or schedule, and not in who the people
are, what they said, how texts are embedded, or what a person learns alone. All of that is a function of the
configuration: a worker that keeps it (`keep_common`) gives every cell, bit for bit, what the cell would have
made by itself. Any other process keeps nothing from one run to the next.

Only what nobody changes may be kept: tables, features, fitted baselines. Claims, plans, manifests and stores
are a run's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from commonground.config import Config
from commonground.settings import to_dict

Made = TypeVar("Made")
READ = ("people", "seed", "runtime", "data", "evaluation", "attack")  # by those who make people and features
READ_OF_MODEL = ("kind", "base", "dims", "basis", "prompt_tokens", "answer_tokens")


@dataclass(eq=False)
class Common:
    """Things that were made, by what they are.

    Attributes:
        keeps: whether anything is kept; if not, everything is made whenever it is asked for.
    """

    keeps: bool = False
    _made: dict[str, Any] = field(default_factory=dict)

    def once(self, what: str, make: Callable[[], Made]) -> Made:
        """What `make` gives, or gave when it was first asked for under this name.

        Args:
            what: its name, with everything in it that it depends on beyond what `key_of` has.
            make: makes it; deterministic.
        """
        if not self.keeps:
            return make()
        if what not in self._made:
            self._made[what] = make()
        found: Made = self._made[what]
        return found


@dataclass
class _Kept:
    """Of one process: whether it keeps anything, and of the newest people what."""

    wanted: bool = False
    key: str = ""
    common: Common = field(default_factory=Common)


_KEPT = _Kept()


def keep_common(wanted: bool = True) -> None:
    """Keep (or no longer keep) from run to run what runs on the same people have in common."""
    _KEPT.wanted, _KEPT.key, _KEPT.common = wanted, "", Common()


def common_of(config: Config) -> Common:
    """What a run may take over and add to; of the newest people alone, so that memory does not grow."""
    if not _KEPT.wanted:
        return Common()
    key = key_of(config)
    if key != _KEPT.key:
        _KEPT.key, _KEPT.common = key, Common(keeps=True)
    return _KEPT.common


def key_of(config: Config, without: Sequence[str] = ()) -> str:
    """Every setting on which people, their comparisons and the features of texts depend.

    Args:
        config: of the run.
        without: names to leave out, where what is asked about does not hang on them.
    """
    values = to_dict(config)
    read = {name: values[name] for name in READ if name not in without}
    read["model"] = {name: values["model"][name] for name in READ_OF_MODEL}
    read["tags"] = values["shared"]["tags"]  # what attackers turn round
    return json.dumps(read, sort_keys=True)
