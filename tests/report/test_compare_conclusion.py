"""What a tournament says in plain words."""

from __future__ import annotations

import pytest
from toy_compare import MEASURES, compare_document, difference

from commonground.report.compare_conclusion import PER_CELL, listed

OTHER = "a </script><b>"


def said(**changes: object) -> str:
    return "\n".join(compare_document(**changes)["conclusion"])


def test_no_difference_beyond_noise_is_said_so() -> None:
    text = said()
    assert "In short: in taste of personal models, nothing is better than fedavg beyond noise in any" in text
    assert f"With shared.epsilon=8: no difference beyond noise between {OTHER} and fedavg." in text
    assert f"no difference beyond noise between {OTHER} and krum and fedavg" in text
    assert "gains" not in text
    assert text.endswith(PER_CELL)


def test_gains_and_losses_have_their_size_and_interval() -> None:
    found = [difference(OTHER, 0, name) for name in MEASURES[2:]]
    found += [difference(OTHER, 0, "personal_taste", 0.05, 0.01, 0.001)]
    found += [difference(OTHER, 0, "shared_taste", -0.03, 0.01, 0.04)]
    text = said(differences=found)
    assert (
        f"With shared.epsilon=8: {OTHER} gains 5.0 (4.0 to 6.0) in taste of personal models, and loses 3.0 "
        "(2.0 to 4.0) in taste of the shared model, in points against fedavg." in text
    )
    assert f"{OTHER} is better than fedavg beyond noise in at least one setting" in text


def test_a_tie_is_a_tie() -> None:
    text = said(differences=[difference(OTHER, 0, name, 0.0, 0.0, 1.0) for name in MEASURES])
    assert f"{OTHER} and fedavg tie exactly" in text


def test_what_robust_rules_take_from_the_minority_with_nobody_attacking() -> None:
    loss = [difference("krum", 1, "shared_minority", -0.2, 0.05, 0.001)]
    assert (
        "take from the minority what they cannot tell from an attack: krum (−20.0, −25.0 to −15.0)"
        in said(differences=loss)
    )
    assert "no loss of the minority beyond noise was found for krum" in said()
    attacked = [{"values": {"attack.fraction": "0.2"}, "attacked": True}] * 2
    assert "Every setting has attackers" in said(settings=attacked)


@pytest.mark.parametrize(("seeds", "words"), [([0], "One seed: "), ([0, 1], "2 seeds say little")])
def test_few_seeds_are_owned_up_to(seeds: list[int], words: str) -> None:
    assert words in said(seeds=seeds)
    assert "seeds say" not in said(seeds=[0, 1, 2, 3, 4])


def test_refused_and_failed_are_named() -> None:
    assert "Refused: krum (reasons below)." in said()


def test_listed() -> None:
    assert [listed(list("abc")[:k]) for k in range(4)] == ["", "a", "a and b", "a, b and c"]
