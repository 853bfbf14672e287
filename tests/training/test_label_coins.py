"""The coins of randomised response.

The kind: a secret draw that is found by a place (in a table, in a run, in a process) where it belongs to a
thing. When places move, the thing is drawn for again, and each further draw is a further answer about it.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import toy_reward

from commonground.comparisons import TAGS, Comparison, Tag
from commonground.losses import LossSettings
from commonground.training.label_coins import flips, numbered, pair_name
from commonground.training.model import Part, Rows, Tensors
from commonground.training.people import People
from commonground.training.plan import PrivatePlan
from commonground.training.private_phase import first_private, private_phase
from commonground.training.reward import RewardBatch, RewardModel

P = 0.3
LABEL = PrivatePlan(
    tags=("taste",), steps=6, steps_per_visit=2, sampling=1.0, cap=12, clip=math.inf, noise_multiplier=0.0,
    rate=0.5, ridge=0.0, loss="rdpo", settings=LossSettings(beta=1.0, flip=P), flip_probability=P,
)  # fmt: skip


class Spy(RewardModel):
    """Keeps the rows of each batch that a private phase makes."""

    def batch(self, rows: Rows, part: Part, frozen: Tensors | None) -> RewardBatch:
        self.rows = rows
        return super().batch(rows, part, frozen)


def reported(rows: np.ndarray, plan: PrivatePlan = LABEL, person: int = 0, **how: Any) -> dict[int, float]:
    """Row -> flip, of taste comparisons in this order, as the private phase trains on them."""
    spy = Spy(toy_reward.features({"safety": 6, "taste": 12}, people=1), toy_reward.BOTH)
    tables: dict[Tag, np.ndarray] = {"safety": np.arange(6), "taste": rows}
    people, start = People((person,), (tables,)), first_private(spy, 1, plan)
    private_phase(spy, people, None, start, plan, **({"seed": 1, "steps": 1} | how))
    found = zip(spy.rows.index[0].tolist(), spy.rows.flip[0].tolist(), spy.rows.mask[0].tolist(), strict=True)
    return {row: flip for row, flip, real in found if real}


def test_a_comparison_keeps_its_coin_wherever_it_stands_and_whoever_learns_from_it() -> None:
    rows = np.arange(6, 18)
    whole = reported(rows)
    assert len(whole) == 12
    assert 0 < sum(whole.values()) < 12
    for some in (rows[1:], rows[3:9], rows[::-1], rows[[4, 0, 7]]):
        assert reported(some).items() <= whole.items()
    for how in ({"stream": "local"}, {"stream": "local-sft"}, {"seed": 9, "label_seed": 1}, {"steps": 3}):
        assert reported(rows, **how) == whole
    both = reported(rows, replace(LABEL, tags=TAGS))
    assert {row: flip for row, flip in both.items() if row in whole} == whole
    others = [reported(rows, seed=2), reported(rows, person=1), reported(rows, label_seed=3)]
    assert all(other != whole for other in others)


def test_a_name_is_of_both_answers_and_of_neithers_being_preferred() -> None:
    assert pair_name("a", "b") == pair_name("b", "a")
    assert (
        len(
            {pair_name(*pair) for pair in (("a", "b"), ("a", "c"), ("ab", ""), ("1:a", "b"), ("\ud800", "b"))}
        )
        == 5
    )
    assert numbered(["x", "y", "x", "x"]) == ["x 0", "y 0", "x 1", "x 2"]


def test_coins_are_independent_between_comparisons_people_and_probabilities() -> None:
    """With one draw for two probabilities, reports that differ would tell the choice for certain."""
    names, people = numbered(pair_name(f"a{k}", "b") for k in range(8)), 2000
    table = np.array([[flips(names, p, 5, person) for person in range(people)] for p in (0.2, 0.4)])
    assert abs(table[0].mean() - 0.2) < 4 * math.sqrt(0.16 / table[0].size)
    assert abs(table[1].mean() - 0.4) < 4 * math.sqrt(0.24 / table[1].size)
    apart = np.corrcoef(np.concatenate([table[0], table[1]], axis=1).T) - np.eye(16)
    assert np.abs(apart).max() < 4.5 / math.sqrt(people)


def test_two_comparisons_never_share_a_coin() -> None:
    with pytest.raises(ValueError, match="share a coin"):
        flips(["x 0", "x 0"], 0.1, 1, 0)
    # The same two answers twice, once each way: with one coin, reports that differ would tell choices apart.
    twice = [Comparison("q", "a", "b", "taste", "p"), Comparison("q", "b", "a", "taste", "p")]
    names = numbered(pair_name(c.chosen, c.rejected) for c in twice)
    draws = np.array([flips(names, 0.5 - 1e-9, 1, person) for person in range(400)])
    assert abs(np.corrcoef(draws.T)[0, 1]) < 4.5 / 20
