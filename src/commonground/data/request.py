"""What is asked of a source of comparisons: one value, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from commonground.comparisons import TAGS, Person, Tag
from commonground.data.reading import nearest
from commonground.errors import DataError

Side = Literal["train", "test"]

SPLITS = ("warm", "cold", "unseen_people")
SOURCES = ("starter", "ratings", "pairs", "hub")


class SourceLike(Protocol):
    """The fields of `config.SourceConfig`, read only; `SourceSpec` and the config both fit."""

    @property
    def source(self) -> str:
        """One of `SOURCES`."""

    @property
    def path(self) -> str:
        """A file, a folder or a hub name."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Our column names -> the file's."""

    @property
    def preset(self) -> str:
        """A ready map of the `hub` source, or ''."""

    @property
    def min_gap(self) -> float:
        """Smallest difference of two ratings that makes a comparison."""

    @property
    def verdicts(self) -> Mapping[str, str]:
        """Values of the verdict -> `a`, `b`, `tie`, `both bad` or `skip`."""

    @property
    def missing(self) -> Sequence[float]:
        """Numbers that mean in a rating table that there is no rating."""


@dataclass(frozen=True)
class SourceSpec:
    """Where comparisons of one tag come from; the fields mirror `config.SourceConfig`."""

    source: str = "starter"
    path: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    preset: str = ""
    min_gap: float = 4.0
    verdicts: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[float] = ()


@dataclass(frozen=True)
class Request:
    """What a run wants from a source.

    Attributes:
        tag: the tag that every comparison of the source gets.
        people: how many people to draw.
        pairs_per_person: most train comparisons a person (the public cap).
        test_pairs: most test comparisons a person.
        split: one of `SPLITS`.
        seed: the run's seed; every draw is keyed by it and a name.
        owners: the people of the run when another source has already drawn them; None = draw here.

    Raises:
        DataError: a number out of range, or an unknown tag or split.
    """

    tag: Tag
    people: int
    pairs_per_person: int
    test_pairs: int
    split: str
    seed: int
    owners: tuple[Person, ...] | None = None

    def __post_init__(self) -> None:
        if self.tag not in TAGS:
            raise DataError(f"tag is {self.tag!r}; accepted: {', '.join(get_args(Tag))}")
        if self.split not in SPLITS:
            raise DataError(
                f"data.split is {self.split!r}; accepted: {', '.join(SPLITS)}{nearest(self.split, SPLITS)}"
            )
        for name, value, least in (
            ("people", self.people, 2),
            ("data.pairs_per_person", self.pairs_per_person, 1),
            ("data.test_pairs", self.test_pairs, 0),
        ):
            if value < least:
                raise DataError(f"{name} is {value}; at least {least} is accepted")

    @property
    def caps(self) -> tuple[tuple[Side, int], tuple[Side, int]]:
        """Each side with the most comparisons a person may have there."""
        return (("train", self.pairs_per_person), ("test", self.test_pairs))

    @property
    def place(self) -> str:
        """The config section of the source, for messages."""
        return f"data.{self.tag}"


def owners_of(people: Sequence[Person] | None) -> tuple[Person, ...] | None:
    """A tuple of the owners, or None; two owners with one id are refused.

    Raises:
        DataError: an id appears twice.
    """
    if people is None:
        return None
    owners = tuple(people)
    if len({person.id for person in owners}) != len(owners):
        raise DataError("two owners have the same id; each person needs an id of their own")
    return owners
