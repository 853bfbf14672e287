"""The values that everything is learned from: people and their comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from commonground.errors import DataError

Tag = Literal["safety", "taste"]
Split = Literal["train", "unseen"]
TAGS: tuple[Tag, ...] = get_args(Tag)
MAX_TEXT = 20_000  # characters; longer texts are a bad row, not a truncation nobody sees


@dataclass(frozen=True, slots=True)
class Comparison:
    """One piece of feedback: `person` preferred `chosen` to `rejected` as an answer to `prompt`.

    Attributes:
        prompt: what was asked; may be empty (a rating table of items has no prompts).
        chosen: the preferred answer.
        rejected: the other answer; never equal to `chosen`.
        tag: `safety` (what must be common) or `taste` (what may differ).
        person: the id of the person who said so.
    """

    prompt: str
    chosen: str
    rejected: str
    tag: Tag
    person: str

    def __post_init__(self) -> None:
        """Check the values; raises `DataError` with the field, the value and what is accepted."""
        for name in ("prompt", "chosen", "rejected", "person"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise DataError(f"{name} is {type(value).__name__} {value!r:.40}; a text is needed")
            if len(value) > MAX_TEXT:
                raise DataError(f"{name} has {len(value):,} characters; at most {MAX_TEXT:,} are accepted")
        for name in ("chosen", "rejected", "person"):
            if not getattr(self, name).strip():
                raise DataError(f"{name} is empty; a text is needed")
        if self.chosen == self.rejected:
            raise DataError(f"chosen and rejected are the same text ({self.chosen!r:.40}); they must differ")
        if self.tag not in TAGS:
            raise DataError(f"tag is {self.tag!r}; accepted: {', '.join(TAGS)}")


@dataclass(frozen=True, slots=True)
class Person:
    """A person: the unit of privacy, one Flower node.

    Attributes:
        id: a name without personal content.
        group: a public attribute (age band, region); None when it is not known.
        split: `train` takes part in shared training, `unseen` only in evaluation.
    """

    id: str
    group: str | None = None
    split: Split = "train"
