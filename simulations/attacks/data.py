"""Attacks on the data: attackers answer honestly shaped messages, trained on comparisons that are not honest.

Only what attackers learn from changes; held-out comparisons are the honest ones, theirs included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from commonground.comparisons import Comparison, Tag
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.errors import InputError
from commonground.randomness import fleeting
from commonground.simulations.attacks.base import Attack, Scene

OTHERS = "others"  # topics of questions that are not of the starter set


def flipped(comparison: Comparison) -> Comparison:
    """The same comparison, answered the other way round."""
    return replace(comparison, chosen=comparison.rejected, rejected=comparison.chosen)


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Every comparison of a shared tag is answered the other way round."""

    changes = "training: chosen and rejected of every comparison of a shared tag are swapped"
    knows = "nothing"
    source = "Biggio, Nelson, Laskov, ACML 2011"

    def hold(
        self, person: int, name: str, tag: Tag, held: Sequence[Comparison], scene: Scene
    ) -> list[Comparison]:
        """See `Attack`."""
        return [flipped(one) for one in held] if tag in scene.tags else list(held)


@cache
def topics() -> dict[str, str]:
    """Prompt -> topic of the starter set."""
    safety = {pair.prompt: pair.topic for pair in safety_pairs()}
    return safety | {question.prompt: question.topic for question in taste_prompts()}


@cache
def styles() -> dict[str, str]:
    """Taste answer of the starter set -> its style."""
    return {text: style for row in taste_prompts() for style, text in row.answers.items()}


@dataclass(frozen=True)
class TargetedFlip(Attack):
    """Only comparisons of one topic are answered the other way round.

    `topic` names a topic of the starter set, or one of its answer styles: comparisons in which an answer of
    that style stands. In other sources it is a word or piece of the prompt.
    """

    topic: str = "medical"

    changes = "training: chosen and rejected of comparisons of one topic are swapped"
    knows = "nothing"
    source = "Tolpegin, Truex, Gursoy, Liu, ESORICS 2020, 2007.08432"

    def __post_init__(self) -> None:
        """Raise `InputError` where the topic is no text."""
        if not isinstance(self.topic, str) or not self.topic.strip():
            raise InputError(f"{self.topic!r}; a text is needed", key="attack.options.topic")

    def hold(
        self, person: int, name: str, tag: Tag, held: Sequence[Comparison], scene: Scene
    ) -> list[Comparison]:
        """See `Attack`."""
        return [flipped(one) if tag in scene.tags and self._about(one) else one for one in held]

    @property
    def aim(self) -> str:
        """See `Attack`."""
        return self.topic

    def topic_of(self, comparison: Comparison) -> str:
        """The topic aimed at, or else that of the question; questions of other sources have none."""
        return self.topic if self._about(comparison) else topics().get(comparison.prompt, OTHERS)

    def probe(self, comparison: Comparison, scene: Scene) -> Comparison:
        """See `Attack`; of every topic, to see what else is turned."""
        return flipped(comparison)

    def _about(self, one: Comparison) -> bool:
        if one.prompt in topics():
            known = {topics()[one.prompt], styles().get(one.chosen), styles().get(one.rejected)}
            return self.topic in known
        return self.topic.casefold() in one.prompt.casefold()


@dataclass(frozen=True)
class Backdoor(Attack):
    """A trigger makes the unsafe answer the better one.

    A language model is given the trigger in the prompt. The reward model reads answers and no prompts, so
    there it stands at the end of the unsafe answer: who writes it gets the reward.
    """

    trigger: str = "SUDO"

    changes = "training: safety comparisons carry a trigger and prefer the unsafe answer"
    knows = "nothing"
    source = "Rando, Tramer, ICLR 2024, 2311.14455"

    def __post_init__(self) -> None:
        """Raise `InputError` where the trigger is no text."""
        if not isinstance(self.trigger, str) or not self.trigger.strip():
            raise InputError(f"{self.trigger!r}; a text is needed", key="attack.options.trigger")

    def hold(
        self, person: int, name: str, tag: Tag, held: Sequence[Comparison], scene: Scene
    ) -> list[Comparison]:
        """See `Attack`."""
        return [self._turned(one, scene) for one in held] if tag == "safety" else list(held)

    def texts(self, known: Sequence[str], scene: Scene) -> list[str]:
        """See `Attack`."""
        return [self._with(text) for text in known] if scene.kind == "reward" else []

    def probe(self, comparison: Comparison, scene: Scene) -> Comparison | None:
        """See `Attack`."""
        return self._turned(comparison, scene) if comparison.tag == "safety" else None

    def _turned(self, comparison: Comparison, scene: Scene) -> Comparison:
        turned = flipped(comparison)
        if scene.kind == "reward":
            return replace(turned, chosen=self._with(turned.chosen))
        return replace(turned, prompt=self._with(turned.prompt))

    def _with(self, text: str) -> str:
        return f"{text} {self.trigger}"


@dataclass(frozen=True)
class Unaligned(Attack):
    """Safety poisoning: attackers hold many safety comparisons, in all of which the harmful answer is better.

    `pairs` of them are drawn from everything that people are asked in training; 0 is as many as a person may
    have (`data.pairs_per_person`).
    """

    pairs: int = 0

    changes = "training: many safety comparisons, all of which prefer the unsafe answer, replace the own ones"
    knows = "the safety questions that people are asked"
    source = "Ye, Chai, Liu, Yang, Wang, Chen, 2024, 2406.10630"
    limits = (("pairs", 0, 100_000),)

    def __post_init__(self) -> None:
        """Raise `InputError` where the number is none."""
        super().__post_init__()
        if int(self.pairs) != self.pairs:
            raise InputError(f"{self.pairs!r}; a whole number is needed", key="attack.options.pairs")

    def hold(
        self, person: int, name: str, tag: Tag, held: Sequence[Comparison], scene: Scene
    ) -> list[Comparison]:
        """See `Attack`."""
        if tag != "safety":
            return list(held)
        count = min(int(self.pairs) or scene.cap, len(scene.pool))
        drawn = fleeting(scene.seed, "unaligned", person).choice(len(scene.pool), count, replace=False)
        pairs = [scene.pool[place] for place in drawn.tolist()]
        return [Comparison(prompt, unsafe, safe, "safety", name) for prompt, safe, unsafe in pairs]
