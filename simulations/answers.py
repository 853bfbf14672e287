"""What planted people answer about the starter texts, one person at a time.

Splits of taste, all by prompt so that no answer seen in training comes back in a test: with ``warm`` and
``unseen_people`` each person has test prompts of their own (a third of all); with ``cold`` a quarter of the
prompts is never trained on by anybody. Safety prompts are split once for everybody, whatever the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from commonground.comparisons import Comparison, Person, Split, Tag
from commonground.config import DataConfig
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.randomness import fleeting, generator
from commonground.simulations.planting import PlantedPerson, Planting, draw_person
from commonground.simulations.truth import oracle

OWN_SHARE, COLD_SHARE, SAFETY_SHARE = 1 / 3, 1 / 4, 1 / 4  # of the prompts, for tests only
TASTE_FOR_SAFETY, TASTE_FOR_SAFETY_TEST = 4, 6  # taste pairs of a person for each safety pair


@dataclass(frozen=True, eq=False)
class Answers:
    """One person's comparisons of one tag, with the truth about those of `test`, in its order.

    Attributes:
        train: comparisons to learn from.
        test: held-out comparisons.
        p_own: (len(test),) probability that the person would answer as recorded if asked again.
        p_pool: (len(test),) share of the planted population that would.
    """

    train: list[Comparison]
    test: list[Comparison]
    p_own: np.ndarray
    p_pool: np.ndarray


@dataclass(frozen=True, eq=False)
class Choices:
    """One person's answers as numbers of public texts, and the truth about them.

    Attributes:
        prompt: (n,) which prompt.
        chosen: (n,) number of the preferred text: see `PlantedTaste.texts` and `PlantedSafety.texts`.
        rejected: (n,) number of the other one.
        p_own: (n,) see `Answers`.
        p_pool: (n,) see `Answers`.
    """

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    p_own: np.ndarray
    p_pool: np.ndarray

    def comparisons(
        self, prompts: Sequence[str], texts: Sequence[str], tag: Tag, person: str
    ) -> list[Comparison]:
        """The same as comparisons."""
        rows = zip(self.prompt.tolist(), self.chosen.tolist(), self.rejected.tolist(), strict=True)
        return [Comparison(prompts[q], texts[one], texts[other], tag, person) for q, one, other in rows]


class PlantedTaste:
    """Draws planted people and their taste comparisons.

    A comparison sets two different styles of one prompt against each other.

    Args:
        seed: the run's seed.
        data: how many comparisons a person gives, and the split.
        planting: the law of the people.
    """

    def __init__(self, seed: int, data: DataConfig, planting: Planting) -> None:
        self.seed, self.data, self.planting = seed, data, planting
        self.oracle = oracle(planting)
        questions = taste_prompts()
        self._prompts = tuple(question.prompt for question in questions)
        self.texts = tuple(q.answers[style] for q in questions for style in planting.styles)
        self._cold = _split(len(questions), COLD_SHARE, generator(seed, "cold prompts"))
        self._p_pool = self.oracle.p_pool

    def person(self, index: int) -> PlantedPerson:
        """Person number `index`, the same whoever else is drawn."""
        return draw_person(index, self.seed, self.planting, self.data.split)

    def answers(self, planted: PlantedPerson) -> Answers:
        """This person's comparisons; train and test have no prompt in common."""
        test = self._ask(planted, self._split(planted)[1], self.data.test_pairs, "test")
        learned, held = (
            choices.comparisons(self._prompts, self.texts, "taste", planted.person.id)
            for choices in (self.learned(planted), test)
        )
        return Answers(learned, held, test.p_own, test.p_pool)

    def learned(self, planted: PlantedPerson) -> Choices:
        """What this person's device learns from, without a text."""
        return self._ask(planted, self._split(planted)[0], self.data.pairs_per_person, "train")

    def told(self, choices: Choices, name: str) -> list[Comparison]:
        """What the person of this id chose, with its texts."""
        return choices.comparisons(self._prompts, self.texts, "taste", name)

    def _split(self, planted: PlantedPerson) -> tuple[np.ndarray, np.ndarray]:
        train, test = self._cold
        if self.data.split != "cold":
            rng = fleeting(self.seed, "person", planted.person.id, "prompts")
            train, test = _split(len(self._prompts), OWN_SHARE, rng)
        return train, test

    def _ask(self, planted: PlantedPerson, prompts: np.ndarray, count: int, part: str) -> Choices:
        name, pairs, p_pools = planted.person.id, self.oracle.pairs, self._p_pool
        if self.planting.favourite:
            offered = (pairs == int(np.argmax(planted.utility))).any(1)
            pairs, p_pools = pairs[offered], p_pools[offered]
        rng = fleeting(self.seed, "person", name, "taste", part)
        which = _draw(len(prompts) * len(pairs), count, rng)
        prompt, pair = prompts[which // len(pairs)], which % len(pairs)
        first, second = pairs[pair, 0], pairs[pair, 1]
        p, p_pool = planted.prefers(first, second), p_pools[pair]
        yes = rng.random(count) < p
        styles = len(self.planting.styles)
        won, lost = np.where(yes, first, second), np.where(yes, second, first)
        truth = np.where(yes, p, 1 - p), np.where(yes, p_pool, 1 - p_pool)
        return Choices(prompt, styles * prompt + won, styles * prompt + lost, *truth)


class PlantedSafety:
    """Draws anybody's comparisons of the starter safety pairs: all people share one consensus.

    Args:
        seed: the run's seed.
        data: how many comparisons a person gives.
        planting: the strength of the consensus.
    """

    def __init__(self, seed: int, data: DataConfig, planting: Planting) -> None:
        self.seed, self.p = seed, planting.consensus
        self._pairs = safety_pairs()
        self.texts = tuple(text for pair in self._pairs for text in (pair.safe, pair.unsafe))
        self._prompts = tuple(pair.prompt for pair in self._pairs)
        prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(p.prompt for p in self._pairs))}
        tested = _split(len(prompts), SAFETY_SHARE, generator(seed, "safety prompts"))[1]
        in_test = np.isin([prompts[pair.prompt] for pair in self._pairs], tested)
        self._train, self._test = np.flatnonzero(~in_test), np.flatnonzero(in_test)
        self.train_count = min(max(1, data.pairs_per_person // TASTE_FOR_SAFETY), len(self._train))
        self._test_count = min(-(-data.test_pairs // TASTE_FOR_SAFETY_TEST), len(self._test))

    def answers(self, person: Person) -> Answers:
        """This person's comparisons; with split ``unseen`` none to learn from, only tests."""
        test = self._ask(person.id, self._test, self._test_count, "test")
        learned, held = (
            choices.comparisons(self._prompts, self.texts, "safety", person.id)
            for choices in (self.learned(person.id, person.split), test)
        )
        return Answers(learned, held, test.p_own, test.p_pool)

    def learned(self, name: str, split: Split) -> Choices:
        """What the device of the person of this id learns from, without a text."""
        return self._ask(name, self._train, 0 if split == "unseen" else self.train_count, "train")

    def told(self, choices: Choices, name: str) -> list[Comparison]:
        """What the person of this id chose, with its texts."""
        return choices.comparisons(self._prompts, self.texts, "safety", name)

    @property
    def asked(self) -> tuple[tuple[str, str, str], ...]:
        """Prompt, safe and unsafe answer of every pair that is asked in training."""
        pairs = (self._pairs[place] for place in self._train.tolist())
        return tuple((pair.prompt, pair.safe, pair.unsafe) for pair in pairs)

    def _ask(self, name: str, places: np.ndarray, count: int, part: str) -> Choices:
        rng = fleeting(self.seed, "person", name, "safety", part)
        which = places[_draw(len(places), count, rng)]
        agrees = rng.random(count) < self.p
        p = np.where(agrees, self.p, 1 - self.p)
        return Choices(which, 2 * which + ~agrees, 2 * which + agrees, p, p)


def _split(count: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers below `count` as (train, test), disjoint; about `share` of them, at least one, in test."""
    order = rng.permutation(count)
    tested = max(1, round(count * share))
    return np.sort(order[tested:]), np.sort(order[:tested])


def _draw(available: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` numbers below `available`; none is drawn an n+1st time before all were drawn n times."""
    if count < available:
        return rng.choice(available, count, replace=False)
    rounds = [rng.permutation(available) for _ in range(count // available)]
    rounds.append(rng.choice(available, count % available, replace=False))
    return np.concatenate(rounds)
