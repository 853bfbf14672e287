"""Where a run's training comparisons come from, a few people at a time.

One-by-one runtimes keep everybody's comparisons in the world's table. A fleet of planted people draws them
when a person is visited: they are a function of (seed, person), so nobody needs to be kept, and a population
of 100,000 costs no more than the cohort that is trained. Both give the same comparisons.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from commonground.comparisons import TAGS, Split, Tag
from commonground.simulations.answers import PlantedSafety, PlantedTaste
from commonground.simulations.attacks.poison import Poison
from commonground.simulations.planting import person_name
from commonground.training.model import PreferenceModel
from commonground.training.reward import RewardFeatures, RewardModel
from commonground.training.update import People

KEPT = 100_000  # people and tags whose comparisons stay in memory, about 60 MB
EXPECTED = 500  # people drawn ahead between two words of progress


class Crowd(Protocol):
    """Training comparisons of people."""

    def visit(
        self, model: PreferenceModel, people: Sequence[int], tags: Sequence[Tag]
    ) -> tuple[PreferenceModel, People]:
        """A model over the comparisons of these people, and their rows of it.

        Args:
            model: which model; what is given back is it, or the same over another table.
            people: indices, at most some hundreds.
            tags: which tags are needed; rows of others may be empty.
        """
        ...

    def sides(self, people: Sequence[int], tag: Tag) -> tuple[np.ndarray, np.ndarray]:
        """Feature rows of the chosen and of the rejected texts of all their comparisons of a tag."""
        ...

    def counts(self) -> dict[Tag, int]:
        """Training comparisons of everybody."""
        ...

    def expect(self, people: Iterable[int]) -> Iterator[int]:
        """Make ready for visits to these people, as far as memory allows; yields how many are."""
        ...


@dataclass(frozen=True)
class TableCrowd:
    """Everybody's comparisons are in one table.

    Attributes:
        rows: person -> tag -> rows.
        features: of the table.
    """

    rows: Mapping[int, Mapping[Tag, np.ndarray]]
    features: RewardFeatures

    def visit(
        self, model: PreferenceModel, people: Sequence[int], tags: Sequence[Tag]
    ) -> tuple[PreferenceModel, People]:
        """The model itself."""
        return model, People(tuple(people), tuple(self.rows[person] for person in people))

    def sides(self, people: Sequence[int], tag: Tag) -> tuple[np.ndarray, np.ndarray]:
        """See `Crowd`."""
        rows = np.concatenate([np.zeros(0, np.int64), *(self.rows[person][tag] for person in people)])
        return self.features.chosen[rows].numpy(), self.features.rejected[rows].numpy()

    def counts(self) -> dict[Tag, int]:
        """See `Crowd`."""
        return {tag: sum(len(rows[tag]) for rows in self.rows.values()) for tag in TAGS}

    def expect(self, people: Iterable[int]) -> Iterator[int]:
        """Everybody is here."""
        return iter(())


class PlantedCrowd:
    """Comparisons of planted people over the starter texts, drawn when they are asked for.

    Args:
        taste: draws taste.
        safety: draws safety.
        unseen: (people,) bool, who takes no part in shared training and learns no safety.
        features: features of a table that holds every starter text.
        poison: what attackers learn from instead, or None.
    """

    def __init__(
        self,
        taste: PlantedTaste,
        safety: PlantedSafety,
        unseen: np.ndarray,
        features: RewardFeatures,
        poison: Poison | None = None,
    ) -> None:
        self._poison = poison
        self._taste, self._safety, self._unseen, self._features = taste, safety, unseen, features
        self._places: dict[Tag, np.ndarray] = {
            "taste": np.array([features.place[text] for text in taste.texts]),
            "safety": np.array([features.place[text] for text in safety.texts]),
        }
        self._kept: OrderedDict[tuple[int, Tag], tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def visit(
        self, model: PreferenceModel, people: Sequence[int], tags: Sequence[Tag]
    ) -> tuple[PreferenceModel, People]:
        """The model over a table of these people's comparisons alone."""
        if not isinstance(model, RewardModel):
            raise TypeError(f"planted comparisons without texts are for reward models, not {type(model)}")
        drawn = [self._drawn(person, tag) if tag in tags else NOTHING for person in people for tag in TAGS]
        chosen, rejected = (np.concatenate([EMPTY, *(pair[side] for pair in drawn)]) for side in (0, 1))
        counts = [len(better) for better, _ in drawn]
        tag_of = np.repeat(np.tile(np.arange(len(TAGS)), len(people)), counts)
        each = iter(np.split(np.arange(len(chosen)), np.cumsum(counts)[:-1]))
        rows = tuple({tag: next(each) for tag in TAGS} for _ in people)
        return model.over(self._features.over(chosen, rejected, tag_of)), People(tuple(people), rows)

    def sides(self, people: Sequence[int], tag: Tag) -> tuple[np.ndarray, np.ndarray]:
        """See `Crowd`."""
        drawn = [self._drawn(person, tag) for person in people]
        better, worse = ([EMPTY, *(pair[side] for pair in drawn)] for side in (0, 1))
        return np.concatenate(better), np.concatenate(worse)

    def counts(self) -> dict[Tag, int]:
        """See `Crowd`; everybody but attackers answers as many questions."""
        taste = len(self._taste.learned(self._taste.person(0)).chosen)
        liars = () if self._poison is None else self._poison.people
        learners = int((~self._unseen).sum()) - len(liars)
        more: dict[Tag, int] = {tag: sum(len(self._drawn(p, tag)[0]) for p in liars) for tag in TAGS}
        everybody = len(self._unseen) - len(liars)
        return {
            "taste": everybody * taste + more["taste"],
            "safety": learners * self._safety.train_count + more["safety"],
        }

    def expect(self, people: Iterable[int]) -> Iterator[int]:
        """Draw their comparisons now, which a first visit would do else: a dataset, not a part of a round."""
        for done, person in enumerate(people):
            if len(self._kept) + len(TAGS) > KEPT:
                return
            for tag in TAGS:
                self._drawn(person, tag)
            if done % EXPECTED == 0:
                yield done

    def _drawn(self, person: int, tag: Tag) -> tuple[np.ndarray, np.ndarray]:
        """Feature rows of chosen and rejected texts; the least recently visited people are forgotten."""
        found = self._kept.get((person, tag))
        if found is None:
            source: PlantedTaste | PlantedSafety = self._taste if tag == "taste" else self._safety
            if tag == "taste":
                choices = self._taste.learned(self._taste.person(person))
            else:
                split: Split = "unseen" if self._unseen[person] else "train"
                choices = self._safety.learned(person_name(person), split)
            places = self._places[tag]
            found = (places[choices.chosen], places[choices.rejected])
            if self._poison is not None and person in self._poison.people:
                name = person_name(person)
                held = self._poison.held(person, name, tag, source.told(choices, name))
                found = self._rows([c.chosen for c in held]), self._rows([c.rejected for c in held])
            self._kept[person, tag] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end((person, tag))
        return found

    def _rows(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self._features.place[text] for text in texts], np.int64)


EMPTY = np.zeros(0, np.int64)
NOTHING = (EMPTY, EMPTY)
