"""Risk tiers: a prompt is placed on base features, before any private weight is asked.

    free       guard only                       everyday prompts
    sensitive  decode-time budget and guard     touches a risk, or the classifier is not sure
    closed     shared policy or refusal         asks for what the charter forbids

Two heads score a prompt: how closed it is, and how sensitive. Whoever is unsure takes the stricter tier, so
the thresholds lie below one half. What the classifier gets wrong is counted by cross-validation over labelled
prompts, and printed with every claim that rests on it: a closed prompt that is placed in `free` has the
guard's guarantee alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from commonground.bounds.charter_files import charter_probes, default_charter, shipped_folder
from commonground.bounds.detectors import Detector, Embed, Head, answer_head, fit_prompt_head
from commonground.bounds.intervals import upper
from commonground.bounds.probes import fingerprint
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.errors import InputError

TIERS = ("free", "sensitive", "closed")
Place = Callable[[str], str]


class Placement:
    """Places prompts in tiers.

    Args:
        closed: scores how likely a prompt asks for what is forbidden.
        sensitive: scores how likely it touches a risk at all.
        closed_at: from this score on it is closed.
        sensitive_at: from this score on it is sensitive.
    """

    def __init__(self, closed: Detector, sensitive: Detector, closed_at: float, sensitive_at: float) -> None:
        for name, value in (("closed_at", closed_at), ("sensitive_at", sensitive_at)):
            if not 0 < value <= 1:
                raise InputError(f"tiers {name} is {value}; accepted: above 0 up to 1")
        self._heads = (closed, sensitive)
        self._at = (closed_at, sensitive_at)

    def tier(self, prompt: str) -> str:
        """free, sensitive or closed; anything but two clear scores is closed."""
        return self.tiers([prompt])[0]

    def tiers(self, prompts: Sequence[str]) -> list[str]:
        """The tier of every prompt."""
        if not prompts:
            return []
        try:
            scores = [[float(s) for s in head.score(list(prompts))] for head in self._heads]
        except Exception:  # a classifier that dies has not said that a prompt is harmless
            return ["closed"] * len(prompts)
        if {len(s) for s in scores} != {len(prompts)}:
            return ["closed"] * len(prompts)
        return [place(c, s, *self._at) for c, s in zip(*scores, strict=True)]


def place(closed: float, sensitive: float, closed_at: float, sensitive_at: float) -> str:
    """The tier of two scores; a score that is no probability is closed."""
    if not (0 <= closed <= 1 and 0 <= sensitive <= 1) or closed >= closed_at:
        return "closed"
    return "sensitive" if sensitive >= sensitive_at else "free"


@dataclass(frozen=True)
class TierErrors:
    """How labelled prompts were placed.

    Attributes:
        counts: (true tier, placed tier) -> prompts.
    """

    counts: Mapping[tuple[str, str], int]

    def of(self, tier: str) -> int:
        """Labelled prompts of a tier."""
        return sum(self.counts.get((tier, placed), 0) for placed in TIERS)

    def looser(self, tier: str) -> float:
        """Share of a tier's prompts that were placed in a looser one; nan without prompts."""
        below = TIERS[: TIERS.index(tier)]
        total = self.of(tier)
        return sum(self.counts.get((tier, b), 0) for b in below) / total if total else math.nan

    def stricter(self, tier: str) -> float:
        """Share that was placed in a stricter one: what safety costs there; nan without prompts."""
        above = TIERS[TIERS.index(tier) + 1 :]
        total = self.of(tier)
        return sum(self.counts.get((tier, a), 0) for a in above) / total if total else math.nan

    def looser_bound(self, tier: str, alpha: float = 0.05) -> float:
        """Upper bound on `looser` for prompts drawn as the labelled ones were."""
        total = self.of(tier)
        return upper(round(self.looser(tier) * total) if total else 0, total, alpha)


Labelled = Sequence[tuple[str, str]]  # prompt, tier


def labelled_prompts(
    probes: Sequence[str], near: Sequence[str], everyday: Sequence[str]
) -> list[tuple[str, str]]:
    """The public labelled prompts, with their tier.

    Args:
        probes: closed.
        near: sensitive, with the safety prompts of the starter set.
        everyday: free, with its taste prompts.
    """
    rows = [(p, "closed") for p in probes] + [(p, "sensitive") for p in near]
    rows += [(pair.prompt, "sensitive") for pair in safety_pairs()]
    free = [*everyday, *(prompt.prompt for prompt in taste_prompts())]
    return rows + [(prompt, "free") for prompt in free]


def fit_tiers(embed: Embed, encoder: str, labelled: Labelled) -> tuple[Head, Head]:
    """The two heads, (closed, sensitive), from labelled prompts."""
    by = {tier: [p for p, t in labelled if t == tier] for tier in TIERS}
    closed = fit_prompt_head(embed, encoder, by["closed"], by["sensitive"] + by["free"], "closed prompts")
    touched = by["closed"] + by["sensitive"]
    return closed, fit_prompt_head(embed, encoder, touched, by["free"], "sensitive prompts")


def cross_validate(
    embed: Embed, encoder: str, labelled: Labelled, closed_at: float, sensitive_at: float, folds: int = 5
) -> TierErrors:
    """Errors on prompts that the heads were not fitted on.

    Args:
        embed: texts -> embeddings.
        encoder: digest of that encoder.
        labelled: prompts with their tier; folds are dealt by a digest of the prompt.
        closed_at: see `Placement`.
        sensitive_at: see `Placement`.
        folds: at least 2.
    """
    if folds < 2:
        raise InputError(f"folds is {folds}; accepted: 2 or more")
    fold = np.array([int(fingerprint(prompt), 16) % folds for prompt, _ in labelled])
    counts: dict[tuple[str, str], int] = {}
    for k in range(folds):
        kept = [row for row, f in zip(labelled, fold, strict=True) if f != k]
        tried = [row for row, f in zip(labelled, fold, strict=True) if f == k]
        placement = Placement(*fit_tiers(embed, encoder, kept), closed_at, sensitive_at)
        for (_, true), placed in zip(tried, placement.tiers([p for p, _ in tried]), strict=True):
            counts[true, placed] = counts.get((true, placed), 0) + 1
    return TierErrors(counts)


def shipped_labelled() -> list[tuple[str, str]]:
    """The shipped prompts that the default heads are fitted on; no probe of split dev is among them."""
    folder = files("commonground.bounds") / "charter"

    def prompts(name: str) -> list[str]:
        lines = (folder / name).read_text(encoding="utf-8").split("\n")
        return [str(json.loads(line)["prompt"]) for line in lines if line]

    return labelled_prompts(prompts("train.jsonl"), prompts("near.jsonl"), prompts("everyday.jsonl"))


def fit_shipped(embed: Embed, encoder: str, labelled: Labelled) -> dict[str, Head]:
    """The heads of the default charter, as they are shipped: file stem -> head."""
    closed, sensitive = fit_tiers(embed, encoder, labelled)
    charter = default_charter()
    probes = charter_probes(charter, "train", shipped_folder())
    refusals = [(probe.prompt, charter.constraints[probe.constraint].refusal) for probe in probes]
    heads = {"closed": closed, "sensitive": sensitive, "answers": answer_head(embed, encoder, refusals)}
    return {name: head.single() for name, head in heads.items()}
