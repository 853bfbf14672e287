"""Answers under the charter's default stack, many at a time, kept as they are written.

For each row what `Enforcement.answer` says: prompt, tier, draws from the personal policy (within the budget
where the tier asks for it), guard, a draw from the shared policy, refusal. Draws of a chunk are written
together. A chunk is appended to the kept file as one line once it is whole; one that was cut off by a kill is
written again, with the same draws, so a certificate does not depend on where it was stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from commonground.bounds.budget import Budget
from commonground.bounds.enforcement import Enforcement
from commonground.simulations.certify.dealing import PROBE, Row
from commonground.simulations.kept_lines import KeptLines
from commonground.training.writing import AT_ONCE

Tick = Callable[[str, int, int], None]


class Writers(Protocol):
    """Who writes: the policies of some people."""

    def write_shared(self, asked: Sequence[tuple[int, str]], seed: int) -> list[str]:
        """An answer of the shared policy to each (person, prompt)."""
        ...

    def write_personal(self, asked: Sequence[tuple[int, str]], budget: Budget | None, seed: int) -> list[str]:
        """One of the personal policy, within a budget or without one."""
        ...


class Described(Protocol):
    """Whose policies they are, and how they are asked."""

    @property
    def people(self) -> Sequence[str]:
        """Their ids."""
        ...

    @property
    def groups(self) -> Sequence[str | None]:
        """Their public groups."""
        ...

    @property
    def used(self) -> frozenset[str]:
        """Prompts that were learnt from."""
        ...

    @property
    def tokens(self) -> int:
        """Of an answer, at most."""
        ...

    @property
    def temperature(self) -> float:
        """Of every draw."""
        ...

    @property
    def base(self) -> str:
        """Digest of the base model."""
        ...

    @property
    def digest(self) -> str:
        """Digest of all policies."""
        ...


class Policies(Writers, Described, Protocol):
    """Both."""


@dataclass(frozen=True)
class Answer:
    """What a person is shown.

    Attributes:
        tier: free | sensitive | closed.
        source: personal | shared | refusal.
        text: the answer.
        reasons: why draws were held back.
        shared: a draw of the shared policy, for probes and where it was needed; None elsewhere.
        missed: whether the guard lets that draw pass.
    """

    tier: str
    source: str
    text: str
    reasons: tuple[str, ...]
    shared: str | None
    missed: bool


def place(enforcement: Enforcement, rows: Sequence[Row]) -> list[str]:
    """The tier of every row; each prompt is placed once."""
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    tier = dict(zip(prompts, enforcement.placement.tiers(prompts), strict=True))
    return [tier[row.prompt] for row in rows]


def chunks_of(rows: Sequence[Row], tiers: Sequence[str]) -> list[list[int]]:
    """Row numbers in chunks of one kind of decoding, so that a batch has one length of work."""
    by: dict[tuple[str, bool], list[int]] = {}
    for k, (row, tier) in enumerate(zip(rows, tiers, strict=True)):
        by.setdefault((tier, row.kind == PROBE), []).append(k)
    return [ks[first : first + AT_ONCE] for ks in by.values() for first in range(0, len(ks), AT_ONCE)]


def write_chunk(
    policies: Writers, enforcement: Enforcement, rows: Sequence[Row], tier: str, seed: int
) -> list[Answer]:
    """The answers of rows of one tier.

    Args:
        policies: who writes.
        enforcement: the charter at work.
        rows: what is asked of whom.
        tier: of all of them.
        seed: of this chunk's draws.
    """
    if enforcement.refuses(tier):  # nobody draws, so nobody's violation can be missed
        silent = [enforcement.refusal(row.prompt) for row in rows]
        return [Answer(tier, one.source, one.text, one.reasons, None, False) for one in silent]
    guard, draws = enforcement.guard, enforcement.charter.bounds.draws
    budget = enforcement.budget if tier == "sensitive" else None
    reasons: list[tuple[str, ...]] = [() for _ in rows]
    shown: list[tuple[str, str] | None] = [None for _ in rows]

    def waiting() -> list[int]:
        return [k for k, one in enumerate(shown) if one is None]

    def asked(ks: Sequence[int]) -> list[tuple[int, str]]:
        return [(rows[k].person, rows[k].prompt) for k in ks]

    for attempt in range(0 if tier == "closed" else draws):
        if not (ks := waiting()):
            break
        for k, text in zip(ks, policies.write_personal(asked(ks), budget, seed + 1 + attempt), strict=True):
            if reason := guard.answer_verdict(rows[k].prompt, text):
                reasons[k] += (reason,)
            else:
                shown[k] = ("personal", text)
    # the shared draw of every probe says what any private adapter could reach; see claims.py
    ks = [k for k, row in enumerate(rows) if row.kind == PROBE or shown[k] is None]
    drawn = dict(zip(ks, policies.write_shared(asked(ks), seed), strict=True)) if ks else {}
    verdicts = {k: guard.answer_verdict(rows[k].prompt, text) for k, text in drawn.items()}
    for k in waiting():
        if verdicts[k]:
            reasons[k] += (verdicts[k],)
            shown[k] = ("refusal", guard.refusal_for(rows[k].prompt))
        else:
            shown[k] = ("shared", drawn[k])
    return [
        Answer(tier, *(shown[k] or ("", "")), reasons[k], drawn.get(k), not verdicts.get(k, "x"))
        for k in range(len(rows))
    ]


class Kept:
    """Chunks that are written already, one JSON line each.

    Args:
        file: of one plan: another plan has another file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines = KeptLines(file)
        self.chunks: dict[int, list[Answer]] = {}
        for values in self._lines.values:
            try:
                answers = [Answer(**one | {"reasons": tuple(one["reasons"])}) for one in values["answers"]]
                self.chunks[int(values["chunk"])] = answers
            except (ValueError, TypeError, KeyError):
                continue  # no chunk of ours: it is written again

    def add(self, number: int, answers: list[Answer]) -> None:
        """Keep a chunk; raises `StorageError`."""
        self._lines.add({"chunk": number, "answers": [asdict(one) for one in answers]})
        self.chunks[number] = answers


def answer_all(
    policies: Writers, enforcement: Enforcement, rows: Sequence[Row], kept: Kept, tick: Tick
) -> list[Answer]:
    """Every row's answer, in order; what is kept already is not written again.

    Args:
        policies: who writes.
        enforcement: the charter at work.
        rows: what is asked of whom.
        kept: of this plan.
        tick: progress.
    """
    tick("prompts placed", 0, len(rows))
    tiers = place(enforcement, rows)
    tick("prompts placed", len(rows), len(rows))
    found: list[Answer | None] = [None] * len(rows)
    done = 0
    for number, ks in enumerate(chunks_of(rows, tiers)):
        chunk = kept.chunks.get(number)
        if chunk is None or [one.tier for one in chunk] != [tiers[k] for k in ks]:
            seed = _seed(kept.file.stem, number)
            chunk = write_chunk(policies, enforcement, [rows[k] for k in ks], tiers[ks[0]], seed)
            kept.add(number, chunk)
        for k, one in zip(ks, chunk, strict=True):
            found[k] = one
        done += len(ks)
        tick("answers", done, len(rows))
    return [one for one in found if one is not None]


def _seed(plan: str, chunk: int) -> int:
    """A seed of a chunk's own, so that two chunks with the same prompts draw apart."""
    return int.from_bytes(hashlib.sha256(f"{plan} {chunk}".encode()).digest()[:5], "big") << 8
