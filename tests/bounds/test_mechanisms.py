"""What is promised is said once, and the document says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from commonground.bounds.intervals import worst_rate
from commonground.bounds.mechanisms import GUARANTEES, MECHANISMS, TIER_MECHANISMS, mechanism
from commonground.bounds.tiers import TIERS
from commonground.errors import InputError

DOCUMENT = (Path(__file__).parents[2] / "docs/bounds.md").read_text(encoding="utf-8")


def test_the_document_lists_every_mechanism_with_its_guarantee() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\w-]+) \|", DOCUMENT, flags=re.M))
    assert rows == {name: one.guarantee for name, one in MECHANISMS.items()}
    assert set(rows.values()) == set(GUARANTEES)


def test_every_tier_has_a_mechanism_that_holds_for_every_answer() -> None:
    assert set(TIER_MECHANISMS) == set(TIERS)
    assert {mechanism(name).guarantee for name in TIER_MECHANISMS.values()} == {"per-output"}


def test_the_figure_that_is_quoted_for_kl_is_the_computed_one() -> None:
    assert f"{100 * worst_rate(0.001, 0.1):.1f} %" in mechanism("kl").says


def test_an_unknown_mechanism_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="mechanism is 'hope'; known: projection, penalty, kl"):
        mechanism("hope")
