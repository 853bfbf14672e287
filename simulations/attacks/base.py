"""What an attack is: up to three halves, each of which does nothing unless an attack says otherwise.

* `hold`: the training comparisons that an attacker's device learns from;
* `send`: what it sends in place of its sealed update;
* `claims`: the loss that it reports where a strategy asks for one.

An attack is a frozen dataclass whose fields are its options. It draws nothing but from named streams of
`attack.seed`, so that every runtime sees the same attack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from commonground.comparisons import Comparison, Tag
from commonground.errors import InputError

Pair = tuple[str, str, str]  # prompt, the safe answer, the unsafe one


@dataclass(frozen=True)
class Scene:
    """What is public to attackers before a run begins.

    Attributes:
        seed: `attack.seed`.
        tags: the tags that the shared adapter learns.
        kind: of the model: reward | policy.
        pool: safety pairs that people are asked about in training.
        cap: most comparisons of a tag that a person may have.
    """

    seed: int
    tags: tuple[Tag, ...]
    kind: str
    pool: tuple[Pair, ...]
    cap: int


@dataclass(frozen=True, eq=False)
class Cohort:
    """One round as attackers who see everything see it.

    Attributes:
        seed: `attack.seed`.
        round: from 1.
        people: the f attackers in the cohort, ascending.
        own: (f, d) float64, the updates that their devices would send.
        honest: (h, d) float64, what everybody else in the cohort sends.
        clip: C.
        expected: m, the denominator of the mean.
    """

    seed: int
    round: int
    people: tuple[int, ...]
    own: np.ndarray
    honest: np.ndarray
    clip: float
    expected: float

    @property
    def seen(self) -> np.ndarray:
        """The honest updates; where nobody honest was drawn, the attackers' own."""
        return self.honest if len(self.honest) else self.own


class Attack:
    """See the module's text.

    Attributes:
        changes: in words, what it changes.
        knows: in words, what an attacker must know for it.
        source: paper and year.
        rewrites: whether `send` does anything.
        limits: options that are numbers, with the least and the most that is accepted.
    """

    changes = ""
    knows = ""
    source = ""
    rewrites = False
    limits: ClassVar[tuple[tuple[str, float, float], ...]] = ()

    def __post_init__(self) -> None:
        """Raise `InputError` where an option is outside its limits."""
        for option, low, high in self.limits:
            between(option, getattr(self, option), low, high)

    def hold(
        self, person: int, name: str, tag: Tag, held: Sequence[Comparison], scene: Scene
    ) -> list[Comparison]:
        """The comparisons of a tag that an attacker learns from.

        Args:
            person: index.
            name: id.
            tag: which tag.
            held: what the attacker would learn from without the attack.
            scene: what is public.
        """
        return list(held)

    def texts(self, known: Sequence[str], scene: Scene) -> list[str]:
        """Texts that `hold` may make of known ones and that need features."""
        return []

    @property
    def aim(self) -> str:
        """The topic of the probes whose success is the attack's."""
        return ""

    def topic_of(self, comparison: Comparison) -> str:
        """The topic of an honest comparison of a shared tag, where the attack tells topics apart."""
        return self.aim

    def probe(self, comparison: Comparison, scene: Scene) -> Comparison | None:
        """A held-out comparison of a shared tag as the attack would have it answered, or None."""
        return None

    def send(self, cohort: Cohort) -> np.ndarray:
        """(f, d) float64: what the attackers send, not yet clipped."""
        return cohort.own

    @property
    def claims(self) -> float | None:
        """The loss that attackers report, nats; None = the true one."""
        return None


def between(option: str, value: float, low: float, high: float) -> float:
    """`value`; raises `InputError` unless it is a number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        upper = f" to {high:g}" if math.isfinite(high) else " or more"
        raise InputError(f"{value!r}; accepted: {low:g}{upper}", key=f"attack.options.{option}")
    return value
