"""The arithmetic of attacks, by hand: ALIE, min-max, min-sum, and what a clip leaves of any of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from commonground.errors import InputError
from commonground.manifest import Manifest, TensorSpec
from commonground.simulations.attacks.base import Cohort
from commonground.simulations.attacks.numerics import (
    farthest,
    hiding_distance,
    largest_step,
    largest_sum,
    least_noticed,
    unit,
    within,
)
from commonground.simulations.attacks.registry import ATTACKS, get_attack
from commonground.simulations.attacks.rewriting import Rewriter

REWRITING = [name for name, kind in ATTACKS.items() if kind.rewrites]
CLIP, PEOPLE, EXPECTED = 0.7, 9, 8.0
SPECS = (TensorSpec("a", (2, 3), "float64"), TensorSpec("b", (), "float64"))


def cohort(honest: list[list[float]], own: list[list[float]], clip: float = 1e9) -> Cohort:
    people = tuple(range(len(own)))
    size = len((honest or own)[0])
    far = np.array(honest, np.float64).reshape(-1, size)
    return Cohort(1, 1, people, np.array(own, np.float64), far, clip, EXPECTED)


@pytest.mark.parametrize(
    ("n", "f", "z"),
    [
        (50, 24, 1.42608),  # the paper's example: s = 26 - 24 = 2, Phi^-1(24/26)
        (10, 4, 0.43073),  # s = 2, Phi^-1(4/6)
        (10, 6, 1.15035),  # a majority: s = half a reply, Phi^-1(3.5/4)
        (10, 1, 0.0),  # s = 5, Phi^-1(4/9) is below 0
        (2, 1, 0.0),
        (3, 3, 0.0),
    ],
)
def test_alie_stands_where_enough_honest_stand_further_out(n: int, f: int, z: float) -> None:
    assert hiding_distance(n, f) == pytest.approx(z, abs=1e-5)


def test_alie_by_hand() -> None:
    """Mean (1, 2), deviations (1, 2), z = 1.5."""
    sent = get_attack("alie", {"z": 1.5}).send(cohort([[0, 0], [2, 4]], [[7, 7], [8, 8]]))
    assert sent.tolist() == [[-0.5, -1.0]] * 2
    ten = [[float(k), 1.0] for k in range(6)]
    sent = get_attack("alie").send(cohort(ten, [[0.0, 0.0]] * 4))
    assert sent[3] == pytest.approx([2.5 - 0.430727 * math.sqrt(35 / 12), 1.0], abs=1e-5)


def test_min_max_and_min_sum_by_hand() -> None:
    """0, 1, 5 on a line: mean 2, farthest 5 apart; largest sum of squares 25 + 16 = 41, from the mean 14."""
    points = np.array([[0.0], [1.0], [5.0]])
    assert (farthest(points), largest_sum(points)) == (25.0, 41.0)
    down = np.array([-1.0])
    assert least_noticed(points, down, total=False)[0] == pytest.approx(0.0, abs=1e-7)  # 5 away from 5
    assert least_noticed(points, down, total=True)[0] == pytest.approx(-1.0, abs=1e-7)  # 3 g^2 = 41 - 14


@given(some.integers(0, 10**6), some.integers(2, 12), some.sampled_from(["unit", "std", "sign"]))
def test_min_max_is_tight_to_bisection_and_min_sum_is_its_closed_form(
    seed: int, count: int, direction: str
) -> None:
    points = np.random.default_rng(seed).standard_normal((count, 5)) * 10.0 ** (seed % 7 - 3)
    both = {}
    for name in ("min_max", "min_sum"):
        view = cohort(points.tolist(), [[0.0] * 5])
        both[name] = get_attack(name, {"direction": direction}).send(view)[0]
    mean = points.mean(0)
    away = {"unit": -unit(mean), "std": -points.std(0), "sign": -np.sign(mean)}[direction]
    step = float((both["min_max"] - mean) @ away / (away @ away))
    bound = max(float(np.square(x - y).sum()) for x in points for y in points)

    def most(g: float) -> float:
        return float(np.square(mean + g * away - points).sum(1).max())

    assert most(step) <= bound * (1 + 1e-9)
    assert most(step * (1 + 1e-6)) > bound * (1 - 1e-9)
    sums = [float(np.square(x - points).sum()) for x in points]
    spread = float(np.square(points - mean).sum())
    closed = math.sqrt((max(sums) - spread) / (count * float(away @ away)))
    assert both["min_sum"] == pytest.approx(mean + closed * away, rel=1e-6, abs=1e-6 * bound**0.5)


def test_the_largest_step_is_found_from_any_scale_and_may_be_none() -> None:
    for scale in (1e-6, 1.0, 1e6):
        assert largest_step(lambda g: g <= math.pi, scale) == pytest.approx(math.pi, abs=1e-2 * scale + 1e-8)
    assert largest_step(lambda g: g < 0, 1.0) == 0.0
    assert largest_step(lambda g: True, 0.0) == 0.0


@pytest.mark.parametrize("name", REWRITING)
def test_nobody_honest_zero_updates_and_one_person(name: str) -> None:
    """Cohorts of attackers alone, of zero updates, and with one honest person: finite answers."""
    for honest, own in (
        ([], [[1.0, 2.0]]),
        ([[0.0, 0.0]] * 3, [[0.0, 0.0]] * 2),
        ([[1.0, 1.0]], [[1.0, 0.0]]),
    ):
        sent = get_attack(name).send(cohort(honest, own, 2.0))
        assert sent.shape == np.shape(own)
        assert np.isfinite(sent).all()


def test_what_is_too_long_is_clipped_and_what_is_broken_is_zero() -> None:
    rows = np.array([[3.0, 4.0], [0.3, 0.4], [np.nan, 1.0], [0.0, 0.0], [1e200, 1e200]])
    found = within(rows, 1.0)
    assert found[:4].tolist() == [[0.6000000000000001, 0.8], [0.3, 0.4], [0.0, 0.0], [0.0, 0.0]]
    assert np.linalg.norm(found, axis=1).max() <= 1 + 1e-15


def rewriter(name: str, liars: list[int], **options: Any) -> Rewriter:
    attack = get_attack(name, options)
    return Rewriter(attack, frozenset(liars), Manifest(SPECS, CLIP), seed=3, expected=EXPECTED)


def sealed(seed: int) -> dict[str, np.ndarray]:
    """Nine people's updates, some at the clip, all pulled the same way."""
    flat = within(np.random.default_rng(seed).standard_normal((PEOPLE, 7)) * 0.3 + 0.2, CLIP)
    return {"a": flat[:, :6].reshape(-1, 2, 3), "b": flat[:, 6]}


def flat(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([arrays["a"].reshape(-1, 6), arrays["b"].reshape(-1, 1)], axis=1)


@pytest.mark.parametrize("name", REWRITING)
@pytest.mark.parametrize("f", [1, 4, 9])
def test_the_influence_of_f_attackers_is_bounded_by_the_clip(name: str, f: int) -> None:
    """fC/m against being absent, 2fC/m against having been honest, in float64."""
    for seed in range(5):
        sent, people = sealed(seed), list(range(PEOPLE))
        liars = sorted(np.random.default_rng(seed).permutation(PEOPLE)[:f].tolist())
        there = flat(rewriter(name, liars).rewrite(1, people, sent))
        honest = [person for person in people if person not in liars]
        assert np.array_equal(there[honest], flat(sent)[honest])
        mean, absent, before = (x.sum(0) / EXPECTED for x in (there, there[honest], flat(sent)))
        slack = 1 + 1e-12
        assert np.linalg.norm(mean - absent) <= f * CLIP / EXPECTED * slack
        assert np.linalg.norm(mean - before) <= 2 * f * CLIP / EXPECTED * slack


def test_the_adaptive_attack_reaches_both_bounds() -> None:
    """Everybody honest sends C e; f attackers send -C e: that is fC/m and 2fC/m, and not a bit less."""
    e = unit(np.arange(1.0, 8.0))
    sent = {"a": np.tile(CLIP * e[:6].reshape(2, 3), (PEOPLE, 1, 1)), "b": np.full(PEOPLE, CLIP * e[6])}
    liars = [2, 5, 6]
    there = flat(rewriter("adaptive_under_clip", liars).rewrite(1, list(range(PEOPLE)), sent))
    absent = flat(sent)[[p for p in range(PEOPLE) if p not in liars]]
    bound = len(liars) * CLIP / EXPECTED
    assert np.linalg.norm((there.sum(0) - absent.sum(0)) / EXPECTED) == pytest.approx(bound, rel=1e-12)
    assert np.linalg.norm((there - flat(sent)).sum(0) / EXPECTED) == pytest.approx(2 * bound, rel=1e-12)


def test_model_replacement_replaces_the_mean() -> None:
    """f attackers who send (m/f) x each leave the mean at x plus the honest part, where nothing clips."""
    own = [[1.0, -2.0], [1.0, -2.0]]
    sent = get_attack("scaling").send(cohort([[0.0, 0.0]], own))
    assert sent.sum(0).tolist() == [EXPECTED, -2 * EXPECTED]
    assert get_attack("sign_flip", {"factor": 3}).send(cohort([[0.0, 0.0]], own))[0].tolist() == [-3.0, 6.0]


def test_noise_is_drawn_by_name_whoever_else_attacks() -> None:
    sent = sealed(1)
    alone = flat(rewriter("gaussian", [4], std=0.01).rewrite(2, list(range(PEOPLE)), sent))
    some_more = flat(rewriter("gaussian", [1, 4], std=0.01).rewrite(2, list(range(PEOPLE)), sent))
    assert np.array_equal(alone[4], some_more[4])
    assert not np.array_equal(
        alone[4], flat(rewriter("gaussian", [4]).rewrite(3, list(range(PEOPLE)), sent))[4]
    )


def test_no_attacker_among_them_no_byte_changed() -> None:
    sent = sealed(1)
    assert rewriter("alie", [40]).rewrite(1, list(range(PEOPLE)), sent) is sent


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("krum", {}, r"attack.name is 'krum'; known attacks: adaptive_under_clip, alie, .*, or '' for none"),
        ("alie", {"zz": 1}, "attack.options.zz is unknown to alie; accepted: z"),
        ("label_flip", {"x": 1}, "attack.options.x is unknown to label_flip; accepted: none"),
        ("sign_flip", {"factor": -1}, "attack.options.factor is -1; accepted: 0 or more"),
        ("sign_flip", {"factor": "big"}, "attack.options.factor is 'big'; accepted: 0 or more"),
        ("min_max", {"direction": "up"}, "attack.options.direction is 'up'; accepted: unit, std, sign"),
        ("unaligned", {"pairs": 2.5}, "attack.options.pairs is 2.5; a whole number is needed"),
        ("backdoor", {"trigger": " "}, "attack.options.trigger is ' '; a text is needed"),
        ("targeted_flip", {"topic": 3}, "attack.options.topic is 3; a text is needed"),
    ],
)
def test_bad_input(name: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        get_attack(name, options)


def test_every_attack_says_what_it_changes_who_knows_what_and_where_it_is_from() -> None:
    for name, kind in ATTACKS.items():
        assert kind.changes, name
        assert kind.knows, name
        assert kind.source, name
    assert len(ATTACKS) == 12
