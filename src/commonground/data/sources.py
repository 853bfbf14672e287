"""The registry of sources, and the one function a run calls: `load_tag`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from commonground.comparisons import Person, Tag
from commonground.data.feedback import TagFeedback
from commonground.data.hub import load_comparisons
from commonground.data.ratings import load_ratings
from commonground.data.reading import nearest, readable
from commonground.data.request import SOURCES, Request, SourceLike, SourceSpec, owners_of
from commonground.errors import DataError, InputError

__all__ = ["LOADERS", "SOURCES", "SourceSpec", "load_tag"]

LOADERS: dict[str, Callable[[SourceLike, Request], TagFeedback]] = {
    "ratings": load_ratings,
    "pairs": load_comparisons,
    "hub": load_comparisons,
}


def load_tag(
    spec: SourceLike,
    tag: Tag,
    *,
    people: int,
    pairs_per_person: int,
    test_pairs: int,
    split: str,
    seed: int,
    owners: Sequence[Person] | None = None,
) -> TagFeedback:
    """All comparisons of one tag, split and given to people.

    Args:
        spec: where they come from; a `SourceSpec` or a `config.SourceConfig`.
        tag: the tag every comparison gets.
        people: how many people to draw (without owners), at least 2.
        pairs_per_person: most train comparisons a person.
        test_pairs: most test comparisons a person.
        split: `warm`, `cold` or `unseen_people`.
        seed: the run's seed.
        owners: the people of the run, when another source has drawn them: comparisons that name a person
            are matched by id, the others are dealt out among them, and their `split` is kept.

    Raises:
        DataError: the source cannot be read, has nothing usable, or leaves fewer than 2 people.
        InputError: the starter set, whose people the population draws.
    """
    if spec.source not in SOURCES:
        raise DataError(
            f"data.{tag}.source is {spec.source!r}; accepted: {', '.join(SOURCES)}"
            f"{nearest(spec.source, SOURCES)}"
        )
    if spec.source == "starter":
        raise InputError(
            f"data.{tag}.source is 'starter', which has texts but no people",
            hint="its people are drawn by commonground.simulations.population",
        )
    if not spec.path.strip():
        raise DataError(
            f"data.{tag}.path is empty; source {spec.source!r} needs one",
            hint="ratings: a folder; pairs: a file or folder; hub: a hub name or a local copy",
        )
    if spec.preset and spec.source not in ("hub", "pairs"):
        raise DataError(f"data.{tag}.preset is {spec.preset!r}; only sources 'hub' and 'pairs' have presets")
    ask = Request(tag, people, pairs_per_person, test_pairs, split, seed, owners_of(owners))
    with readable(Path(spec.path)):
        feedback = LOADERS[spec.source](spec, ask)
    _check_people(feedback, spec, ask)
    return feedback


def _check_people(feedback: TagFeedback, spec: SourceLike, ask: Request) -> None:
    """Fewer than two people, or fewer than two for shared training, are no federation."""
    said = [f"{reason}: {count}" for reason, count in feedback.left_out.items()]
    reasons = "; ".join(said + [note.text for note in feedback.notes if note.loud])
    if len(feedback.people) < 2:
        raise DataError(
            f"{ask.place}: {spec.path} leaves {len(feedback.people)} people with comparisons; "
            "at least 2 are needed",
            hint=reasons or None,
        )
    if ask.owners is None and sum(person.split == "train" for person in feedback.people) < 2:
        raise DataError(
            f"{ask.place}: data.split=unseen_people leaves fewer than 2 of {len(feedback.people)} people "
            "for shared training; at least 3 people are needed"
        )
