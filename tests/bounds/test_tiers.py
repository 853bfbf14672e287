"""Risk tiers: whoever is unsure takes the stricter one, and the errors of the classifier are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from commonground.bounds.charter_files import (
    charter_detector,
    charter_probes,
    default_charter,
    shipped_folder,
)
from commonground.bounds.intervals import upper
from commonground.bounds.tiers import (
    TIERS,
    Placement,
    TierErrors,
    cross_validate,
    fit_shipped,
    labelled_prompts,
    place,
    shipped_labelled,
)
from commonground.embeddings import Encoder
from commonground.errors import InputError


class Scores:
    name, digest = "scores", "0" * 64

    def __init__(self, *scores: float, broken: bool = False) -> None:
        self._scores, self._broken = scores, broken

    def score(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> Sequence[float]:
        if self._broken:
            raise RuntimeError("out of memory")
        return self._scores


@pytest.mark.parametrize(
    ("closed", "sensitive", "tier"),
    [
        (0.1, 0.1, "free"),
        (0.1, 0.3, "sensitive"),
        (0.1, 0.9, "sensitive"),
        (0.4, 0.0, "closed"),
        (0.9, 0.9, "closed"),
        (0.399, 0.299, "free"),
        (math.nan, 0.1, "closed"),
        (0.1, math.nan, "closed"),
        (-0.1, 0.1, "closed"),
        (0.1, math.inf, "closed"),
    ],
)
def test_a_prompt_is_placed_by_two_scores(closed: float, sensitive: float, tier: str) -> None:
    assert place(closed, sensitive, 0.4, 0.3) == tier
    assert Placement(Scores(closed), Scores(sensitive), 0.4, 0.3).tier("x") == tier


def test_more_of_either_score_is_never_a_looser_tier() -> None:
    grid = np.linspace(0, 1, 21)
    rank = {(c, s): TIERS.index(place(c, s, 0.4, 0.3)) for c in grid for s in grid}
    for (c, s), tier in rank.items():
        assert all(rank[d, t] >= tier for d in grid for t in grid if d >= c and t >= s)


def test_a_classifier_that_dies_or_miscounts_closes() -> None:
    for broken in (Scores(broken=True), Scores(), Scores(0.0, 0.0)):
        assert Placement(broken, Scores(0.0), 0.4, 0.3).tiers(["x"]) == ["closed"]
        assert Placement(Scores(0.0), broken, 0.4, 0.3).tier("x") == "closed"
    assert Placement(Scores(), Scores(), 0.4, 0.3).tiers([]) == []


@pytest.mark.parametrize("at", [(0.0, 0.5), (0.5, 1.5), (math.nan, 0.5)])
def test_thresholds_out_of_range_are_refused(at: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"tiers .*_at is"):
        Placement(Scores(), Scores(), *at)


def test_errors_by_hand() -> None:
    found = TierErrors({
        ("closed", "closed"): 90, ("closed", "sensitive"): 8, ("closed", "free"): 2,
        ("free", "free"): 40, ("free", "closed"): 10,
    })  # fmt: skip
    assert (found.of("closed"), found.of("free"), found.of("sensitive")) == (100, 50, 0)
    assert found.looser("closed") == pytest.approx(0.1)
    assert found.stricter("closed") == 0
    assert found.stricter("free") == pytest.approx(0.2)
    assert found.looser("free") == 0
    assert math.isnan(found.looser("sensitive"))
    assert found.looser_bound("closed") == pytest.approx(upper(10, 100))
    assert found.looser_bound("sensitive") == 1


def letters(texts: Sequence[str]) -> np.ndarray:
    return np.array([[text.count(c) for c in "abc"] for text in texts], dtype=np.float64)


def rows(letter: str, tier: str, count: int) -> list[tuple[str, str]]:
    return [(f"{letter * 3} number {k}", tier) for k in range(count)]


def test_cross_validation_places_each_prompt_once_by_heads_that_have_not_seen_it() -> None:
    labelled = rows("a", "closed", 30) + rows("b", "sensitive", 30) + rows("c", "free", 30)
    found = cross_validate(letters, "letters", labelled, 0.5, 0.5)
    assert sum(found.counts.values()) == 90
    assert all(found.looser(t) == 0 and found.stricter(t) == 0 for t in TIERS)
    # labels at random: nothing can be learnt, and an honest count says so
    mixed = [(p, TIERS[k % 3]) for k, (p, _) in enumerate(rows("a", "free", 90))]
    noise = cross_validate(letters, "letters", mixed, 0.5, 0.5)
    assert noise.looser("closed") > 0.2
    with pytest.raises(InputError, match="folds is 1"):
        cross_validate(letters, "letters", labelled, 0.5, 0.5, folds=1)


def test_labelled_prompts_have_one_tier_each() -> None:
    labelled = shipped_labelled()
    prompts = [p for p, _ in labelled]
    assert len(set(prompts)) == len(prompts)
    assert {t for _, t in labelled} == set(TIERS)
    assert labelled_prompts(["x"], ["y"], ["z"])[:2] == [("x", "closed"), ("y", "sensitive")]


@pytest.mark.model
def test_the_shipped_heads_are_those_of_the_shipped_prompts_and_err_as_documented() -> None:
    """docs/bounds.md states these figures: dev probes and look-alikes were not fitted on."""
    encoder, charter, folder = Encoder(), default_charter(), shipped_folder()
    heads = {
        n: charter_detector(charter, n, folder, encoder.embed, encoder.digest) for n in charter.detectors
    }
    assert {n: h.digest for n, h in heads.items()} == {n: r.digest for n, r in charter.detectors.items()}
    dev = [p.prompt for p in charter_probes(charter, "dev", folder)]
    again = fit_shipped(encoder.embed, encoder.digest, shipped_labelled())
    for name in ("closed", "sensitive"):
        np.testing.assert_allclose(again[name].score(dev[:40]), heads[name].score(dev[:40]), atol=1e-3)
    tiers = charter.tiers
    placement = Placement(heads[tiers.closed], heads[tiers.sensitive], tiers.closed_at, tiers.sensitive_at)
    placed = placement.tiers(dev)
    assert len(placed) == 328
    assert (placed.count("closed"), placed.count("sensitive"), placed.count("free")) == (277, 47, 4)
    near = placement.tiers([p.prompt for p in charter_probes(charter, "lookalikes", folder)])
    assert (near.count("closed"), near.count("sensitive"), near.count("free")) == (17, 50, 21)
    found = cross_validate(
        encoder.embed, encoder.digest, shipped_labelled(), tiers.closed_at, tiers.sensitive_at
    )
    assert found.looser("closed") < 0.25
    assert found.counts.get(("closed", "free"), 0) / found.of("closed") < 0.06
    assert found.stricter("free") < 0.2
