"""Who the simulated people are, with their comparisons of both tags, and the truth where it is known.

People are defined by the taste source: planted people (methods K) judge the starter texts, others come from
a source of real comparisons. Safety comparisons are then theirs, from the starter pairs or from a source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from commonground.comparisons import TAGS, Comparison, Person, Tag
from commonground.config import Config, SourceConfig
from commonground.data.feedback import BadRows, Note, TagFeedback
from commonground.data.sources import load_tag
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.errors import DataError
from commonground.simulations.answers import Answers, PlantedSafety, PlantedTaste
from commonground.simulations.planting import PLANTINGS, PlantedPerson, Planting
from commonground.simulations.truth import Truth

STARTER = "starter"
TASTE_UNIT = "one answer of a planted person to the question which of two answers to a prompt they prefer"
SAFETY_UNIT = "one answer of a planted person to the question which of two answers to a prompt is safer"
NO_TASTE = "people without a taste comparison to learn from"
NO_SAFETY = "people without a safety comparison to learn from (they send zeros)"


@dataclass(frozen=True, eq=False)
class Population:
    """People with their comparisons of both tags, split so that nothing leaks from train to test.

    Attributes:
        people: everybody with a taste comparison to learn from; at least two.
        train: comparisons to learn from, taste before safety. People with split ``unseen`` have only taste
            here: they learn on their own device and take no part in shared training.
        test: held-out comparisons, taste before safety.
        catalogue: public texts of the taste source, or empty; bases may be built from them.
        truth: what is true of `test`, in its order; None where tastes were not planted.
        bad_rows: tag -> rows that could not be read (`BadRows.to_dict`).
        left_out: tag -> reason -> how many people or rows.
        unit: tag -> in words, what one comparison is made of.
        minority: (people,) bool, the planted minority; None where none was planted.
        notes: tag -> what a reader of the result has to be told of the source.
        cut: tag -> how many texts are longer than what the model reads, where that was looked at.
    """

    people: Sequence[Person]
    train: tuple[Comparison, ...]
    test: tuple[Comparison, ...]
    catalogue: tuple[str, ...]
    truth: Truth | None
    bad_rows: dict[str, dict[str, Any]]
    left_out: dict[str, dict[str, int]]
    unit: dict[str, str]
    minority: np.ndarray | None
    notes: dict[str, tuple[Note, ...]] = field(default_factory=dict)
    cut: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Tag:
    """Comparisons of one tag, with the truth about its tests where they are planted."""

    feedback: TagFeedback
    p_own: np.ndarray
    p_pool: np.ndarray


def starter_taste_texts() -> tuple[str, ...]:
    """Every starter answer, prompt by prompt and style by style: public texts for bases."""
    return tuple(text for question in taste_prompts() for text in question.answers.values())


def starter_safety_texts() -> tuple[str, ...]:
    """Every starter safety answer, pair by pair, the safe one first: public texts for bases."""
    return tuple(text for pair in safety_pairs() for text in (pair.safe, pair.unsafe))


class PlantedPeople(Sequence[Person]):
    """All planted people of a run, drawn when they are looked at.

    Args:
        drawer: draws them.
        people: how many there are.
    """

    def __init__(self, drawer: PlantedTaste, people: int) -> None:
        self._drawer, self._people = drawer, people

    def __len__(self) -> int:
        return self._people

    @overload
    def __getitem__(self, index: int) -> Person: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Person]: ...

    def __getitem__(self, index: int | slice) -> Person | Sequence[Person]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"person {index} of {len(self)}")
        return self._drawer.person(index % len(self)).person


@dataclass(frozen=True, eq=False)
class PlantedSources:
    """Who draws the planted people of a run and their answers."""

    taste: PlantedTaste
    safety: PlantedSafety


def planted_sources(config: Config) -> PlantedSources | None:
    """What draws the people of a run whose both sources are the starter set; None for other runs."""
    if {config.data.taste.source, config.data.safety.source} != {STARTER}:
        return None
    law = _law(config)
    return PlantedSources(
        PlantedTaste(config.seed, config.data, law), PlantedSafety(config.seed, config.data, law)
    )


def populate_some(config: Config, sources: PlantedSources, among: Sequence[int]) -> Population:
    """A planted population of which only some people's comparisons are at hand.

    Args:
        config: `people` and `data` are read.
        sources: what `planted_sources` gave.
        among: indices of those people, ascending.

    Returns:
        Everybody, with `train`, `test` and the truth of those people only; `minority` is False for others.
    """
    crowd = [sources.taste.person(index) for index in among]
    chosen = [planted.person for planted in crowd]
    answers = [sources.taste.answers(planted) for planted in crowd]
    taste = _planted(chosen, answers, starter_taste_texts(), TASTE_UNIT)
    safety = _planted(chosen, [sources.safety.answers(person) for person in chosen], (), SAFETY_UNIT)
    minority = np.zeros(config.people, bool)
    minority[list(among)] = [planted.minority for planted in crowd]
    place = {person.id: index for index, person in zip(among, chosen, strict=True)}
    planting = sources.taste.planting
    truth = _truth(place, taste, safety, minority, sources.taste.oracle.summary())
    return Population(
        people=PlantedPeople(sources.taste, config.people),
        train=taste.feedback.train + safety.feedback.train,
        test=taste.feedback.test + safety.feedback.test,
        catalogue=taste.feedback.catalogue,
        truth=None if planting.favourite else truth,
        bad_rows={tag: BadRows().to_dict() for tag in TAGS},
        left_out={tag: {} for tag in TAGS},
        unit={"taste": TASTE_UNIT, "safety": SAFETY_UNIT},
        minority=minority,
    )


def populate(config: Config, planting: Planting | None = None) -> Population:
    """Everybody of a run.

    Args:
        config: `people`, `seed` and `data` are read.
        planting: the law of planted people and of the safety consensus; None = as `data.taste.preset` says.

    Raises:
        DataError: a source cannot be used, or leaves fewer than two people.
    """
    planting = planting or _law(config)
    crowd: list[PlantedPerson] = []
    law: dict[str, float | None] = {}
    if config.data.taste.source == STARTER:
        drawer = PlantedTaste(config.seed, config.data, planting)
        crowd = [drawer.person(index) for index in range(config.people)]
        law = drawer.oracle.summary()
        answers = [drawer.answers(planted) for planted in crowd]
        taste = _planted([p.person for p in crowd], answers, starter_taste_texts(), TASTE_UNIT)
    else:
        taste = _usable(_loaded(config, config.data.taste, "taste", None))
    people = taste.feedback.people
    if len(people) < 2:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in taste.feedback.left_out.items())
        raise DataError(
            f"data.taste leaves {len(people)} people with a taste comparison to learn from; "
            "at least 2 are needed",
            hint=reasons or f"people is {config.people}",
        )
    if config.data.safety.source == STARTER:
        consensus = PlantedSafety(config.seed, config.data, planting)
        safety = _planted(people, [consensus.answers(person) for person in people], (), SAFETY_UNIT)
    else:
        safety = _loaded(config, config.data.safety, "safety", people)
    parts: dict[Tag, TagFeedback] = {"taste": taste.feedback, "safety": safety.feedback}
    return Population(
        people=people,
        train=taste.feedback.train + safety.feedback.train,
        test=taste.feedback.test + safety.feedback.test,
        catalogue=taste.feedback.catalogue,
        truth=_truth(_places(people), taste, safety, _minority(crowd), law)
        if crowd and not planting.favourite
        else None,
        bad_rows={tag: feedback.bad_rows.to_dict() for tag, feedback in parts.items()},
        left_out={
            "taste": dict(taste.feedback.left_out),
            "safety": _with_count(safety.feedback.left_out, NO_SAFETY, _idle(people, safety.feedback.train)),
        },
        unit={tag: feedback.unit for tag, feedback in parts.items()},
        minority=_minority(crowd) if crowd else None,
        notes={tag: feedback.notes for tag, feedback in parts.items()},
    )


def _law(config: Config) -> Planting:
    preset = config.data.taste.preset
    if config.data.taste.source != STARTER:
        return Planting()
    if preset not in PLANTINGS:
        known = ", ".join(repr(name) for name in PLANTINGS)
        raise DataError(f"data.taste.preset is {preset!r}; accepted with source starter: {known}")
    return PLANTINGS[preset]


def _planted(
    people: Sequence[Person], answers: Sequence[Answers], catalogue: tuple[str, ...], unit: str
) -> _Tag:
    feedback = TagFeedback(
        people=tuple(people),
        train=tuple(comparison for one in answers for comparison in one.train),
        test=tuple(comparison for one in answers for comparison in one.test),
        catalogue=catalogue,
        bad_rows=BadRows(),
        left_out={},
        unit=unit,
    )
    empty = [np.zeros(0)]  # of no people; the number of people is checked by the caller
    return _Tag(
        feedback,
        np.concatenate(empty + [one.p_own for one in answers]),
        np.concatenate(empty + [one.p_pool for one in answers]),
    )


def _loaded(config: Config, source: SourceConfig, tag: Tag, owners: Sequence[Person] | None) -> _Tag:
    feedback = load_tag(
        source,
        tag,
        people=config.people,
        pairs_per_person=config.data.pairs_per_person,
        test_pairs=config.data.test_pairs,
        split=config.data.split,
        seed=config.seed,
        owners=owners,
    )
    unknown = np.full(len(feedback.test), np.nan)
    return _Tag(feedback, unknown, unknown)


def _usable(taste: _Tag) -> _Tag:
    """The same without people who have nothing to learn from; they are counted."""
    feedback = taste.feedback
    able = {comparison.person for comparison in feedback.train}
    people = tuple(person for person in feedback.people if person.id in able)
    test = tuple(comparison for comparison in feedback.test if comparison.person in able)
    left_out = _with_count(feedback.left_out, NO_TASTE, len(feedback.people) - len(people))
    kept = replace(feedback, people=people, test=test, left_out=left_out)
    unknown = np.full(len(test), np.nan)
    return _Tag(kept, unknown, unknown)


def _idle(people: Sequence[Person], train: Iterable[Comparison]) -> int:
    """How many of those who take part in shared training have nothing to learn from."""
    able = {comparison.person for comparison in train}
    return sum(person.split == "train" and person.id not in able for person in people)


def _with_count(left_out: dict[str, int], reason: str, count: int) -> dict[str, int]:
    total = Counter(left_out)
    if count:
        total[reason] += count
    return dict(total)


def _places(people: Sequence[Person]) -> dict[str, int]:
    return {person.id: index for index, person in enumerate(people)}


def _minority(crowd: Sequence[PlantedPerson]) -> np.ndarray:
    return np.array([planted.minority for planted in crowd])


def _truth(
    place: Mapping[str, int],
    taste: _Tag,
    safety: _Tag,
    minority: np.ndarray,
    law: dict[str, float | None],
) -> Truth:
    test = taste.feedback.test + safety.feedback.test
    p_own = np.concatenate([taste.p_own, safety.p_own])
    tasted = np.array([comparison.tag == "taste" for comparison in test], dtype=bool)
    return Truth(
        p_own=p_own,
        p_pool=np.concatenate([taste.p_pool, safety.p_pool]),
        taste=tasted,
        safety=~tasted & ~np.isnan(p_own),
        owner=np.array([place[comparison.person] for comparison in test], dtype=np.int64),
        minority=minority,
        law=law,
    )
