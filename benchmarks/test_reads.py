"""What a reward gains from reading the prompt with the answer: held-out accuracy by reading and data set.

Logistic regression on differences of MiniLM embeddings, five folds by opening turn, five shuffles of them; no
privacy. The sets: 160 pairs that only their prompt decides, the shipped safety pairs, and, where
COMMONGROUND_DATA is set, hh_harmless and llmfao. Jester has no prompts: there a pair is its answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from commonground.data.dialogue import opening, turns
from commonground.data.hub import read_source
from commonground.data.request import SourceSpec
from commonground.data.splits import normalise
from commonground.data.starter import safety_pairs
from commonground.embeddings import Encoder

FOLDS, SEEDS, WORDS = 5, 5, 60
Triple = tuple[str, str, str]


def last(prompt: str) -> str:
    """What the prompt's last turn says."""
    said = turns(prompt)
    return said[-1][1] if said else prompt


READINGS: dict[str, Callable[[str, str], str]] = {
    "answer": lambda prompt, answer: answer,
    "prompt, then answer": lambda prompt, answer: " ".join(last(prompt).split()[-WORDS:]) + "\n" + answer,
    "answer, then prompt": lambda prompt, answer: answer + "\n" + last(prompt),
}


def decided_by_the_prompt() -> list[Triple]:
    yes, no = "Yes, do that gladly.", "No, please leave that alone."
    good = [(f"May I help a neighbour carry bag {n}?", yes, no) for n in range(80)]
    return good + [(f"May I take a neighbour's bag {n} away?", no, yes) for n in range(80)]


def sets() -> dict[str, list[Triple]]:
    found = {
        "only the prompt decides": decided_by_the_prompt(),
        "starter safety": [(pair.prompt, pair.safe, pair.unsafe) for pair in safety_pairs()],
    }
    if folder := os.environ.get("COMMONGROUND_DATA"):
        for name in ("hh_harmless", "llmfao"):
            path = Path(folder) / name / "pairs.jsonl.gz"
            rows = read_source(SourceSpec("pairs", str(path)), "safety")[0].rows
            found[name] = [(row.prompt, row.chosen, row.rejected) for row in rows]
    return found


def accuracy(x: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """Share of held-out pairs in the right order, in per cent."""
    shuffled = np.random.default_rng(seed).permutation(np.unique(groups))
    fold = {group: place % FOLDS for place, group in enumerate(shuffled)}
    which = np.array([fold[group] for group in groups])
    right = np.zeros(len(x), dtype=bool)
    for k in range(FOLDS):
        train = which != k
        both, labels = np.vstack([x[train], -x[train]]), np.repeat([1, 0], train.sum())
        fit = LogisticRegression(C=10, fit_intercept=False, max_iter=500).fit(both, labels)
        right[~train] = x[~train] @ fit.coef_[0] > 0
    return float(100 * right.mean())


@pytest.mark.parametrize("name", sets())
def test_which_reading_serves(name: str) -> None:
    pairs, encoder = sets()[name], Encoder("")
    groups = np.array([normalise(opening(prompt)) or str(place) for place, (prompt, *_) in enumerate(pairs)])
    found = {}
    for reading, text in READINGS.items():
        chosen = encoder.embed([text(prompt, good) for prompt, good, _ in pairs])
        rejected = encoder.embed([text(prompt, poor) for prompt, _, poor in pairs])
        found[reading] = np.array([accuracy(chosen - rejected, groups, seed) for seed in range(SEEDS)])
    print(f"\n{name}: {len(pairs)} pairs")
    for reading, values in found.items():
        gain, pairs_span = values - found["answer"], 196 * np.sqrt(0.25 / len(pairs))
        folds_span = 1.96 * gain.std(ddof=1) / np.sqrt(SEEDS)
        print(
            f"  {reading}: {values.mean():.1f} % (+-{pairs_span:.1f} over pairs); "
            f"against the answer alone {gain.mean():+.1f} +-{folds_span:.1f} over folds"
        )
    if name == "only the prompt decides":
        assert found["prompt, then answer"].mean() > 90 > 60 > found["answer"].mean()
