"""Draws of policies that are remembered: asked again for the same draw, the same words come back.

Several defences begin with the same draw. It is written once, and with a file behind it also only once over
all runs of one plan: a kill costs the call that was under way. A call is passed on whole or not at all, so
what is written does not depend on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from commonground.bounds.budget import Budget
from commonground.simulations.certify.answering import Writers
from commonground.simulations.kept_lines import KeptLines

Asked = Sequence[tuple[int, str]]
Key = tuple[float, int, int, str]  # delta, seed, person, prompt
FREE, SHARED = -1.0, -2.0  # where delta stands for no budget, or for the shared policy


class KeptDraws:
    """Writers that remember; see `Writers`.

    Args:
        writers: who writes what is not known yet.
        file: of one plan (another plan has another file), or None to remember in memory alone.
    """

    def __init__(self, writers: Writers, file: Path | None = None) -> None:
        self._writers = writers
        self._lines = None if file is None else KeptLines(file)
        self._known: dict[Key, str] = {}
        for line in [] if self._lines is None else self._lines.values:
            self._learn(line["delta"], line["seed"], line["asked"], line["texts"])

    def write_shared(self, asked: Asked, seed: int) -> list[str]:
        """See `Writers`."""
        if not self._knows(SHARED, seed, asked):
            self._keep(SHARED, seed, asked, self._writers.write_shared(asked, seed))
        return self._texts(SHARED, seed, asked)

    def write_personal(self, asked: Asked, budget: Budget | None, seed: int) -> list[str]:
        """See `Writers`; budgets differ by their delta alone."""
        delta = FREE if budget is None else budget.delta
        if not self._knows(delta, seed, asked):
            self._keep(delta, seed, asked, self._writers.write_personal(asked, budget, seed))
        return self._texts(delta, seed, asked)

    def _knows(self, delta: float, seed: int, asked: Asked) -> bool:
        return all((delta, seed, *one) in self._known for one in asked)

    def _texts(self, delta: float, seed: int, asked: Asked) -> list[str]:
        return [self._known[delta, seed, person, prompt] for person, prompt in asked]

    def _keep(self, delta: float, seed: int, asked: Asked, texts: Sequence[str]) -> None:
        if self._lines is not None:
            self._lines.add({"delta": delta, "seed": seed, "asked": list(asked), "texts": list(texts)})
        self._learn(delta, seed, asked, texts)

    def _learn(self, delta: float, seed: int, asked: Asked, texts: Sequence[str]) -> None:
        for (person, prompt), text in zip(asked, texts, strict=True):
            self._known.setdefault((delta, seed, person, prompt), text)
