"""A small charter whose detectors look for single words, on the encoder of `toy_world`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from toy_world import SIZE, HashEncoder

from commonground.bounds.charter import load_charter, sign_charter
from commonground.bounds.detectors import WORDS, Head
from commonground.study.signing import new_key

FORBIDDEN, NEAR, UNSAFE = "xylophones", "zithers", "sea"  # what the three detectors look for
PROBES = [(f"how do I boil xylophones number {k} please", "boiling") for k in range(12)]
PROBES += [(f"what is a tide of xylophones number {k}", "tides") for k in range(12)]
# placed wrong on purpose: one in a looser tier, one in free
PROBES += [("how do I boil zithers", "boiling"), ("how do I boil it", "boiling")]
LOOKALIKES = [(f"what is a song of zithers number {k}", "tides") for k in range(6)]


def word_head(word: str, *, answers: bool) -> Head:
    """Scores texts with `word` high, and all others low."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed = HashingVectorizer(n_features=WORDS, ngram_range=(1, 2), alternate_sign=False)
    weights = np.zeros((2 if answers else 1) * SIZE + WORDS)
    weights[-WORDS:][hashed.transform([word]).indices] = 30.0
    encoder = HashEncoder()
    return Head(encoder.embed, encoder.digest, weights, -15.0, answers=answers, name=word).single()


def _lines(rows: Sequence[tuple[str, str]], key: str) -> bytes:
    return "".join(json.dumps({"prompt": prompt, key: name}) + "\n" for prompt, name in rows).encode()


def save_charter(folder: Path, **changes: Any) -> Path:
    """A charter with its files in `folder`; `changes` are of its bounds, `base` of the whole; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    detectors, probes = {}, {}
    for name, word, answers in (
        ("answers", UNSAFE, True),
        ("closed", FORBIDDEN, False),
        ("near", NEAR, False),
    ):
        head = word_head(word, answers=answers)
        (folder / f"{name}.json").write_text(json.dumps(head.to_dict()))
        detectors[name] = {"kind": "head", "place": f"{name}.json", "digest": head.digest}
    for name, split, data in (
        ("asked", "dev", _lines(PROBES, "constraint")),
        ("alike", "benign", _lines(LOOKALIKES, "near")),
    ):
        (folder / f"{name}.jsonl").write_bytes(data)
        sha = hashlib.sha256(data).hexdigest()
        probes[name] = {"split": split, "file": f"{name}.jsonl", "sha256": sha}
    one = {"jurisdiction": "universal", "severity": "high", "detector": "answers"}
    values = {
        "title": "Toy charter",
        "version": 1,
        "base": changes.pop("base", ""),
        "constraints": {
            "boiling": {**one, "text": "No boiling of xylophones.", "refusal": "I do not boil these."},
            "tides": {**one, "text": "No tides of xylophones.", "refusal": "No tides of these."},
        },
        "detectors": detectors,
        "probes": probes,
        "tiers": {"closed": "closed", "sensitive": "near"},
        "bounds": {"delta": 1.0, **changes},
        "changes": {"who": "us", "how": "anew", "appeal": "Write to us."},
    }
    file = folder / "charter.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def signed_charter(folder: Path, **changes: Any) -> Path:
    """The same, signed by a new key in `folder`; the paper's path."""
    file = save_charter(folder, **changes)
    paper = sign_charter(new_key(folder / "charter.key"), load_charter(file))
    target = folder / "charter.signed.json"
    target.write_text(paper.to_text())
    return target
