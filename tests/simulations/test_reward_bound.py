"""`bench reward-bound` on planted pairs: clean splits, defences by hand, nothing chosen on what measures."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_world import HashEncoder
from typer.testing import CliRunner

from commonground.errors import DataError
from commonground.randomness import generator
from commonground.simulations.bench import reward_bound, reward_splits
from commonground.simulations.bench.reward_defences import (
    CHOSEN,
    KEPT,
    NONE,
    PLAIN,
    SHARED,
    STRONG,
    TASTE,
    WORST,
    Measuring,
    by_rule,
    tried,
)
from commonground.simulations.bench.reward_splits import LAYOUTS, Pairs, Rewards, Split, learn, learned
from commonground.simulations.cli import app

SIZE, COUNT = 6, 400


def planted(seed: int = 0, count: int = COUNT) -> Pairs:
    """Safety is the first direction, length the second, both noisy; two pairs a conversation."""
    draws = generator(seed, "planted pairs")
    chosen, rejected = draws.standard_normal((2, count, SIZE)) + 0.5
    x = chosen - rejected
    swap = x[:, 0] + draws.standard_normal(count) < 0
    chosen[swap], rejected[swap] = rejected[swap], chosen[swap]
    x = chosen - rejected
    return Pairs(
        chosen, rejected, np.sign(x[:, 1] + 0.3 * draws.standard_normal(count)), np.arange(count) // 2
    )


@pytest.fixture(scope="module")
def one() -> tuple[Pairs, Split, Rewards]:
    pairs = planted()
    split = next(iter(LAYOUTS["halves"](pairs, 1, 1)))
    return pairs, split, learn(pairs, split, 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_conversation_is_on_two_sides_and_the_owner_is_one_of_those_who_taught(name: str) -> None:
    pairs = planted()
    tests = []
    for split in LAYOUTS[name](pairs, 5, 1):
        shared, test = set(split.shared.tolist()), set(split.test.tolist())
        assert shared | test == set(range(COUNT))
        assert set(pairs.conversation[split.shared].tolist()).isdisjoint(
            pairs.conversation[split.test].tolist()
        )
        assert set(split.owner.tolist()) <= shared
        tests.append(test)
    if name == "fifths":  # every pair measures once
        assert sum(map(len, tests)) == COUNT
        assert set.union(*tests) == set(range(COUNT))
    else:
        assert all(abs(len(test) - COUNT // 2) <= 2 for test in tests)
        assert tests[0] != tests[1]


def test_margins_that_were_left_out_come_from_the_other_folds() -> None:
    pairs = planted()
    rows, none = pairs.x[:100], np.zeros(100)
    weights, left_out = learned(rows, none, 1)
    assert weights[0] > 3 * abs(weights[1:]).max()
    fold = reward_splits.folds(100, 1)
    changed = rows.copy()
    changed[fold == 0] *= -3
    again = learned(changed, none, 1)[1]
    moved = -3 * left_out[fold == 0]
    # Rows of fold 0 are no part of what judges them, except in the choice of the ridge.
    near = [np.allclose(again[fold == 0], -3 * (rows[fold == 0] @ w)) for w in candidates(rows[fold != 0])]
    assert np.allclose(again[fold == 0], moved) or any(near)


def candidates(rows: np.ndarray) -> list[np.ndarray]:
    return [reward_splits._fit(rows, np.zeros(len(rows)), ridge) for ridge in reward_splits.RIDGES]


def test_the_defences_by_hand(one: tuple[Pairs, Split, Rewards]) -> None:
    pairs, split, found = one
    table, broken = tried(pairs, split, found, (0.25, 1.0), 0.25)
    assert broken == 0
    margin = pairs.x[split.test] @ found.shared
    private = pairs.x[split.test] @ found.attack
    c = 0.25 * found.median
    assert table[SHARED][PLAIN] == pytest.approx((margin > 0).mean())
    assert table[NONE][PLAIN] == pytest.approx((margin + private > 0).mean())
    bound = (margin + 2 * c * np.tanh(private / (2 * c)) > 0).mean()
    assert table["bound, c = 0.25"][PLAIN] == pytest.approx(bound)
    assert table["bound, c = 0.25"] == table[CHOSEN]
    assert table["bound, c = 0.25"][WORST] == pytest.approx((margin > 2 * c).mean())
    guard = np.where(np.abs(margin) > 2 * c, margin, margin + 50 * private)
    assert table["guard, c = 0.25"][STRONG] == pytest.approx((guard > 0).mean())
    liking = pairs.shorter[split.test]
    assert table[SHARED][TASTE] == pytest.approx((liking * margin > 0)[liking != 0].mean())
    # The attack is one, the bound holds it, and the owner's taste is there to be kept.
    assert table[NONE][PLAIN] < 0.4 < table[SHARED][PLAIN] - 0.2
    assert table["bound, c = 0.25"][STRONG] > table[SHARED][PLAIN] - 0.12
    assert table[NONE][TASTE] > table[SHARED][TASTE] + 0.1
    assert table["projection"][STRONG] < table["bound, c = 0.25"][STRONG]


def test_a_constant_in_a_private_reward_uses_up_the_bound_of_each_answer_apart(
    one: tuple[Pairs, Split, Rewards],
) -> None:
    pairs, split, found = one
    shifted = Measuring(pairs.of(split.test), Rewards(**{**vars(found), "centre": found.centre - 9.0}))
    limits = shifted.under(found.median)
    plain = Measuring(pairs.of(split.test), found).under(found.median)
    assert np.allclose(limits.bounded(found.taste), plain.bounded(found.taste))
    moved = [np.abs(x.apart(found.taste) - x.margin).mean() for x in (limits, plain)]
    assert moved[0] < 0.5 * moved[1]


def test_c_is_chosen_without_a_look_at_what_measures(one: tuple[Pairs, Split, Rewards]) -> None:
    pairs, split, found = one
    other = Pairs(pairs.chosen.copy(), pairs.rejected.copy(), pairs.shorter.copy(), pairs.conversation)
    other.chosen[split.test] = generator(9, "other").standard_normal((len(split.test), SIZE))
    other.shorter[split.test] *= -1
    assert by_rule(other, split, 1) == by_rule(pairs, split, 1)
    again = learn(other, split, 1)
    assert again.median == found.median
    assert np.array_equal(again.attack, found.attack)


def test_the_rule_is_the_least_c_that_keeps_so_much(
    one: tuple[Pairs, Split, Rewards], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, split, _ = one
    from commonground.simulations.bench import reward_defences

    assert 0.5 < KEPT < 0.6
    found = []
    for wanted in (0.1, KEPT, 0.9, 2.0):
        monkeypatch.setattr(reward_defences, "KEPT", wanted)
        found.append(by_rule(pairs, split, 1))
    assert found == sorted(found)
    assert found[0] < found[-1] == reward_defences.CANDIDATES[-1]


def write_pairs(file: Path, count: int) -> Path:
    with gzip.open(file, "wt", encoding="utf-8") as out:
        for n in range(count):
            talk = f"\n\nHuman: question {n}\n\nAssistant:"
            short, long = f" reply {n}", f" a much longer reply {n} {'x' * (n % 7)}"
            chosen, rejected = (short, long) if n % 3 else (long, short)
            out.write(json.dumps({"chosen": talk + chosen, "rejected": talk + rejected}) + "\n")
    return file


def test_the_command_prints_every_defence_and_says_what_it_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_bound, "Encoder", HashEncoder)
    file = write_pairs(tmp_path / "pairs.jsonl.gz", 160)
    words = ["bench", "reward-bound", "--quick", "--pairs", str(file), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    for text in ("shared alone", "projection", "guard, c by rule", "bound, c = 0.25", "MISSED"):
        assert text in result.output
    data: dict[str, Any] = json.loads((tmp_path / "out" / "bench-reward-bound.json").read_text("utf-8"))
    assert data["layouts"][0]["sizes"] == [80, 40, 80] or sum(data["layouts"][0]["sizes"][::2]) == 160
    assert data["layouts"][0]["broken"] == 0
    assert data["missed"]
    assert CliRunner().invoke(app, [*words, "--check"]).exit_code == 1


def test_what_is_no_use_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(reward_bound.VARIABLE, raising=False)
    with pytest.raises(DataError, match="no pairs are named; accepted") as caught:
        reward_bound.pairs_file(None)
    assert "--pairs FILE" in str(caught.value.hint)
    monkeypatch.setenv(reward_bound.VARIABLE, str(tmp_path))
    assert reward_bound.pairs_file(None) == tmp_path / reward_bound.PLACE
    few = write_pairs(tmp_path / "few.jsonl.gz", 20)
    with pytest.raises(DataError, match="has 20 usable pairs; at least 100 are needed"):
        reward_bound.load(few, lambda _: None)


def test_the_share_of_a_gain_is_a_ratio_of_means_with_a_jackknife() -> None:
    """Gains 0.1 and 0.3 of 0.2 and 0.4: 0.4 / 0.6, and a jackknife of 1/2 and 3/4."""

    def table(left: float, free: float) -> dict[str, dict[str, float]]:
        return {SHARED: {TASTE: 0.5}, NONE: {TASTE: 0.5 + free}, CHOSEN: {TASTE: 0.5 + left}}

    found = reward_bound.kept([table(0.1, 0.2), table(0.3, 0.4)], CHOSEN)
    assert found.mean == pytest.approx(100 * 2 / 3)
    assert found.half == pytest.approx(100 * 12.7062 * np.sqrt(0.5 * 2 * 0.125**2), rel=1e-4)
    assert reward_bound.kept([table(0.1, 0.0), table(0.1, 0.0)], CHOSEN).mean == 0.0
    one = reward_bound.Estimate.of([0.6, 0.7, 0.8])
    assert one.mean == pytest.approx(70)
    assert one.half == pytest.approx(100 * 4.302653 * 0.1 / 3**0.5)


def test_pooled_states_have_no_dimension_that_drowns_the_others() -> None:
    states = generator(4, "states").standard_normal((300, 5))
    states[:, 2] *= 1000
    states[:, 3] = 1.0  # says nothing
    found = reward_bound.pooled(states)
    assert found.shape == (300, 5)
    assert np.allclose(found.mean(0), 0, atol=1e-9)
    assert np.square(found).mean(0).sum() == pytest.approx(4.0)  # four dimensions of deviation 1, turned
    assert np.square(found).mean(0).max() < 1.5
    wide = generator(5, "states").standard_normal((200, reward_bound.DIRECTIONS + 40))
    assert reward_bound.pooled(wide).shape == (200, reward_bound.DIRECTIONS)


def test_a_language_model_s_states_stand_behind_the_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_bound, "Encoder", HashEncoder)
    monkeypatch.setattr(reward_bound, "StateEncoder", HashEncoder)
    file = write_pairs(tmp_path / "pairs.jsonl.gz", 120)
    plain = reward_bound.load(file, lambda _: None)
    both = reward_bound.load(file, lambda _: None, language_model=True)
    size = plain.x.shape[1]
    assert np.array_equal(both.x[:, :size], plain.x)
    own = np.square(both.x[:, size:]).sum(1).mean()
    assert own == pytest.approx(np.square(plain.x).sum(1).mean())
