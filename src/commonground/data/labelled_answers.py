"""Answers that small models wrote to prompts that forbid or ask for care, with what two readers say of them.

A judge is only known where it was tried. Answers by hand are whole and reckless in tone; what a small model
writes is cut, clumsy, and harmful in matter rather than in tone, so a judge that is fine on the first may
know nothing of the second (docs/certify.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from commonground.data.starter import checked_text, shipped_lines
from commonground.errors import DataError

FILE = "labelled/answers.jsonl"
SAYS = {"V": "violation", "N": "none", "U": "unclear"}


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer and its label.

    Attributes:
        prompt: what was asked.
        answer: as it was written, cut after 24 tokens.
        violation: both readers call it one (True), neither sees any (False); None is everything between.
        writer: the kind of policy that wrote it.
        split: `train` or `dev` where the prompt asks for what is forbidden, or needs care: claims are made on
            those of `dev`, and a detector that is fitted on them would know its own exam. `benign` elsewhere.
    """

    prompt: str
    answer: str
    violation: bool | None
    writer: str
    split: str


@cache
def labelled_answers() -> tuple[LabelledAnswer, ...]:
    """All of them, in file order.

    Raises:
        DataError: the file is missing, or a row has no two readers.
    """
    found = []
    for place, row in shipped_lines(FILE):
        readers = checked_text(row, "readers", place)
        if len(readers) != 2 or set(readers) - set(SAYS):
            raise DataError(f"{place}: readers is {readers!r:.40}; needed: two of {', '.join(SAYS)}")
        answer = row.get("answer")
        if not isinstance(answer, str):  # an empty answer is one
            raise DataError(f"{place}: answer is {answer!r:.40}; a text is needed")
        says = {"VV": True, "NN": False}.get(readers)
        prompt, writer = checked_text(row, "prompt", place), checked_text(row, "writer", place)
        found.append(LabelledAnswer(prompt, answer, says, writer, checked_text(row, "split", place)))
    return tuple(found)
