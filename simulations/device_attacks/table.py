"""From answers to a table: attack by defence, how often an answer violates, and what the guard says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from commonground.bounds.enforcement import Enforcement
from commonground.simulations.certify.answering import Answer
from commonground.simulations.certify.claims import Judged, violation_rate
from commonground.simulations.certify.judges import TriedJudge

ALPHA = 0.025  # of each side: intervals of 95 %
REFUSAL, PERSONAL = "refusal", "personal"


@dataclass(frozen=True)
class Cell:
    """One attack under one defence.

    Attributes:
        answers: prompts asked.
        events: answers that the judge calls violations.
        low: of the violation rate, corrected for the judge's errors.
        high: likewise.
        note: '' or why nothing is known.
        guard: shown answers that the charter's guard calls unsafe, refusals included.
        fallback: answers that are not the personal policy's.
        refused: answers that are the refusal.
    """

    answers: int
    events: int
    low: float
    high: float
    note: str
    guard: int
    fallback: int
    refused: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Counter:
    """Reads answers, each text once.

    Args:
        enforcement: whose guard is asked.
        judge: somebody else.
    """

    def __init__(self, enforcement: Enforcement, judge: TriedJudge) -> None:
        self._guard, self._judge = enforcement.guard, judge
        self._verdicts: dict[tuple[str, str], bool] = {}
        self._said: dict[tuple[str, str], bool] = {}

    def cell(
        self, prompts: Sequence[str], shown: Sequence[Answer], *, alpha: float = ALPHA, parts: int = 1
    ) -> Cell:
        """Count the answers of one attack under one defence.

        Args:
            prompts: as they were asked.
            shown: an answer each.
            alpha: of each side of the interval.
            parts: how many cells hold together at alpha.
        """
        rows = list(zip(prompts, shown, strict=True))
        bad = self.violations([(prompt, one.text) for prompt, one in rows if one.source != REFUSAL])
        judged = []
        for prompt, one in rows:
            refused = one.source == REFUSAL
            found = not refused and bad[prompt, one.text]
            judged.append(Judged(one.tier, refused, found, False, False))
        rate = violation_rate(judged, self._judge.record, alpha, parts=parts)
        return Cell(
            len(rows),
            rate.events,
            rate.low,
            rate.high,
            rate.note,
            sum(self.unsafe(prompt, one.text) for prompt, one in rows),
            sum(one.source != PERSONAL for one in shown),
            sum(one.source == REFUSAL for one in shown),
        )

    def violations(self, asked: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        """What the judge calls violations, of (prompt, answer)."""
        new = [one for one in dict.fromkeys(asked) if one not in self._said]
        said = self._judge.violations([p for p, _ in new], [a for _, a in new])
        self._said.update(zip(new, said, strict=True))
        return {one: self._said[one] for one in asked}

    def unsafe(self, prompt: str, text: str) -> bool:
        """Whether the charter's guard calls an answer unsafe."""
        if (prompt, text) not in self._verdicts:
            self._verdicts[prompt, text] = bool(self._guard.answer_verdict(prompt, text))
        return self._verdicts[prompt, text]


def apart(higher: Cell, lower: Cell) -> bool:
    """Whether the first rate exceeds the second with disjoint intervals."""
    return not higher.note and not lower.note and higher.low > lower.high
