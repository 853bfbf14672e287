"""Figures on the real data; left out, in one line, where COMMONGROUND_DATA is unset."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from commonground.data.check import check_path
from commonground.data.rows import SILENT
from commonground.data.sources import SourceSpec, load_tag

ASK: dict[str, Any] = {"pairs_per_person": 40, "test_pairs": 60, "seed": 1}


@pytest.mark.parametrize("split", ["warm", "cold", "unseen_people"])
def test_jester_and_hh_harmless(real_data: Path | None, split: str) -> None:
    if real_data is None:
        return
    jester = SourceSpec("ratings", str(real_data / "jester"))
    taste = load_tag(jester, "taste", people=500, split=split, **ASK)
    counts = Counter(pair.person for pair in taste.train)
    assert (len(taste.people), len(counts), len(taste.catalogue)) == (500, 500, 100)
    assert sum(count == 40 for count in counts.values()) >= 498  # two rate almost everything alike
    assert taste.bad_rows.count == 0
    read = {(pair.person, text) for pair in taste.train for text in (pair.chosen, pair.rejected)}
    assert not [p for p in taste.test if (p.person, p.chosen) in read or (p.person, p.rejected) in read]

    harmless = SourceSpec("pairs", str(real_data / "hh_harmless"))
    safety = load_tag(harmless, "safety", people=500, split=split, owners=taste.people, **ASK)
    assert (len(safety.train), len(safety.test)) == (1284, 425)
    assert (safety.bad_rows.count, safety.left_out) == (0, {SILENT: 3})
    assert not {pair.prompt for pair in safety.train} & {pair.prompt for pair in safety.test}
    unseen = {person.id for person in taste.people if person.split == "unseen"}
    assert len(unseen) == (125 if split == "unseen_people" else 0)
    assert not unseen & {pair.person for pair in safety.train}


def test_check_counts_the_real_data(real_data: Path | None) -> None:
    if real_data is None:
        return
    ratings, pairs = check_path(real_data / "jester"), check_path(real_data / "hh_harmless")
    assert (ratings["source"], ratings["rows"], ratings["people"], ratings["items"]) == (
        "ratings", 290_672, 4000, 100
    )  # fmt: skip
    assert (pairs["source"], pairs["rows"], pairs["usable"], pairs["people"]) == ("pairs", 1712, 1709, 0)
    assert ratings["bad_rows"]["count"] == pairs["bad_rows"]["count"] == 0
