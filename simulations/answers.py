"""What planted people answer about the starter texts, one person at a time.

Splits of taste, all by prompt so that no answer seen in training comes back in a test: with ``warm`` and
``unseen_people`` each person has test prompts of their own (a third of all); with ``cold`` a quarter of the
prompts is never trained on by anybody. Safety prompts are split once for everybody, whatever the split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commonground.comparisons import Comparison, Person
from commonground.config import DataConfig
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.randomness import generator
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
        self._texts = tuple(tuple(q.answers[style] for style in planting.styles) for q in questions)
        self._cold = _split(len(questions), COLD_SHARE, generator(seed, "cold prompts"))
        self._p_pool = self.oracle.p_pool

    def person(self, index: int) -> PlantedPerson:
        """Person number `index`, the same whoever else is drawn."""
        return draw_person(index, self.seed, self.planting, self.data.split)

    def answers(self, planted: PlantedPerson) -> Answers:
        """This person's comparisons; train and test have no prompt in common."""
        train, test = self._cold
        if self.data.split != "cold":
            rng = generator(self.seed, "person", planted.person.id, "prompts")
            train, test = _split(len(self._prompts), OWN_SHARE, rng)
        learned, _, _ = self._ask(planted, train, self.data.pairs_per_person, "train")
        return Answers(learned, *self._ask(planted, test, self.data.test_pairs, "test"))

    def _ask(
        self, planted: PlantedPerson, prompts: np.ndarray, count: int, part: str
    ) -> tuple[list[Comparison], np.ndarray, np.ndarray]:
        name, pairs, p_pools = planted.person.id, self.oracle.pairs, self._p_pool
        if self.planting.favourite:
            offered = (pairs == int(np.argmax(planted.utility))).any(1)
            pairs, p_pools = pairs[offered], p_pools[offered]
        rng = generator(self.seed, "person", name, "taste", part)
        which = _draw(len(prompts) * len(pairs), count, rng)
        prompt, pair = prompts[which // len(pairs)], which % len(pairs)
        first, second = pairs[pair, 0], pairs[pair, 1]
        p, p_pool = planted.prefers(first, second), p_pools[pair]
        yes = rng.random(count) < p
        won, lost = np.where(yes, first, second), np.where(yes, second, first)
        comparisons = [
            Comparison(
                self._prompts[place], self._texts[place][chosen], self._texts[place][rejected], "taste", name
            )
            for place, chosen, rejected in zip(prompt.tolist(), won.tolist(), lost.tolist(), strict=True)
        ]
        return comparisons, np.where(yes, p, 1 - p), np.where(yes, p_pool, 1 - p_pool)


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
        prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(p.prompt for p in self._pairs))}
        tested = _split(len(prompts), SAFETY_SHARE, generator(seed, "safety prompts"))[1]
        in_test = np.isin([prompts[pair.prompt] for pair in self._pairs], tested)
        self._train, self._test = np.flatnonzero(~in_test), np.flatnonzero(in_test)
        self._train_count = min(max(1, data.pairs_per_person // TASTE_FOR_SAFETY), len(self._train))
        self._test_count = min(-(-data.test_pairs // TASTE_FOR_SAFETY_TEST), len(self._test))

    def answers(self, person: Person) -> Answers:
        """This person's comparisons; with split ``unseen`` none to learn from, only tests."""
        train = (
            []
            if person.split == "unseen"
            else self._ask(person.id, self._train, self._train_count, "train")[0]
        )
        test, p = self._ask(person.id, self._test, self._test_count, "test")
        return Answers(train, test, p, p)

    def _ask(
        self, name: str, places: np.ndarray, count: int, part: str
    ) -> tuple[list[Comparison], np.ndarray]:
        rng = generator(self.seed, "person", name, "safety", part)
        which = places[_draw(len(places), count, rng)]
        agrees = rng.random(count) < self.p
        comparisons = []
        for place, safe in zip(which.tolist(), agrees.tolist(), strict=True):
            pair = self._pairs[place]
            chosen, rejected = (pair.safe, pair.unsafe) if safe else (pair.unsafe, pair.safe)
            comparisons.append(Comparison(pair.prompt, chosen, rejected, "safety", name))
        return comparisons, np.where(agrees, self.p, 1 - self.p)


def _split(count: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers below `count` as (train, test), disjoint; about `share` of them, at least one, in test."""
    order = rng.permutation(count)
    tested = max(1, round(count * share))
    return np.sort(order[tested:]), np.sort(order[:tested])


def _draw(available: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` numbers below `available`; none is drawn an n+1st time before all were drawn n times."""
    rounds = [rng.permutation(available) for _ in range(count // available)]
    rounds.append(rng.choice(available, count % available, replace=False))
    return np.concatenate(rounds)
