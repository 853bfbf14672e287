"""One suite that every registered strategy passes, inside the person-level wrapper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy_grid as toy

from commonground.server.checkpoint import load_state, save_state
from commonground.strategies.person_dp import Arrays, PersonLevel
from commonground.strategies.registry import LINEAR, STRATEGIES

PEOPLE = 7
NAMES = sorted(STRATEGIES)
OPTIONS: dict[str, dict[str, float]] = {
    "fedadam": {"eta": 0.05},
    "fedyogi": {"eta": 0.05},
    "fedadagrad": {"eta": 0.2},
    "multikrum": {"num_nodes_to_select": 5},
}
every_strategy = pytest.mark.parametrize("name", NAMES)


def wrap(name: str, **changes: object) -> PersonLevel:
    return toy.wrap(name, OPTIONS.get(name), people=PEOPLE, **changes)


def different(round: int, person: int, shared: Arrays) -> Arrays:
    return toy.random(100 * round + person)


def bits(arrays: Arrays) -> bytes:
    return b"".join(arrays[spec.name].tobytes() for spec in toy.SPECS)


@every_strategy
def test_order_of_replies_changes_no_bit(name: str) -> None:
    start = toy.constant(0.25)
    straight = toy.run_round(wrap(name), 1, start, different)
    turned = toy.run_round(wrap(name), 1, start, different, order=lambda replies: replies.reverse())
    assert bits(straight) == bits(turned)


@every_strategy
def test_who_holds_which_update_does_not_matter(name: str) -> None:
    start = toy.constant(0.25)
    straight = toy.run_round(wrap(name), 1, start, different)
    turned = toy.run_round(wrap(name), 1, start, lambda r, p, s: different(r, (p + 3) % PEOPLE, s))
    np.testing.assert_allclose(toy.flat(straight), toy.flat(turned), atol=1e-6)


@every_strategy
def test_zero_updates_are_a_fixed_point(name: str) -> None:
    wrapper, start = wrap(name), toy.random(5, size=2.0)
    shared = start
    for round in (1, 2, 3):
        shared = toy.run_round(wrapper, round, shared, lambda r, p, s: toy.constant(0.0))
    assert bits(shared) == bits(start)


@pytest.mark.parametrize("name", sorted({*NAMES} - LINEAR | {"fedavg", "fedavgm"}))
def test_equal_updates_are_applied_as_they_are(name: str) -> None:
    step = toy.random(9)
    moved = toy.run_round(wrap(name), 1, toy.constant(0.5), lambda r, p, s: step)
    np.testing.assert_allclose(toy.flat(moved), 0.5 + toy.flat(step), atol=1e-6)


@every_strategy
def test_dtypes_and_shapes_are_kept(name: str) -> None:
    moved = toy.run_round(wrap(name), 1, toy.constant(0.5), different)
    assert [(n, v.dtype.name, v.shape) for n, v in moved.items()] == [
        (spec.name, spec.dtype, spec.shape) for spec in toy.SPECS
    ]
    assert bits(moved) != bits(toy.constant(0.5))


@every_strategy
def test_state_round_trips_through_a_file(name: str, tmp_path: Path) -> None:
    wrapper, shared = wrap(name, average=True), toy.constant(0.5)
    for round in (1, 2, 3):
        shared = toy.run_round(wrapper, round, shared, different)
    save_state(tmp_path / "state.npz", wrapper.state_dict())
    resumed, state = wrap(name, average=True), load_state(tmp_path / "state.npz")
    assert state is not None
    resumed.load_state_dict(state)
    assert bits(resumed.current) == bits(shared)
    went_on = toy.run_round(wrapper, 4, shared, different)
    assert bits(toy.run_round(resumed, 4, shared, different)) == bits(went_on)
    assert wrapper.averaged is not None
    assert resumed.averaged is not None
    assert bits(wrapper.averaged) == bits(resumed.averaged)
    assert wrapper.counts == resumed.counts


@every_strategy
def test_one_reply_is_enough_or_the_round_is_skipped(name: str) -> None:
    start, step = toy.constant(0.5), toy.random(2)
    wrapper = wrap(name)
    moved = toy.run_round(wrapper, 1, start, lambda r, p, s: step if p == 4 else None)
    assert np.isfinite(toy.flat(moved)).all()
    skipped = name == "bulyan"  # needs 4 f + 3 replies
    assert (bits(moved) == bits(start)) is skipped
    assert wrapper.counts["skipped"] == int(skipped)


@every_strategy
def test_no_reply_at_all_is_survived(name: str) -> None:
    start = toy.constant(0.5)
    assert bits(toy.run_round(wrap(name), 1, start, lambda r, p, s: None)) == bits(start)


@every_strategy
def test_quadratic_is_approached(name: str) -> None:
    """F_i(x) = |x - m_i|^2 / 2: the mean of m_i is the optimum (methods D); robust rules stay among m_i."""
    centres = {person: toy.flat(toy.random(person, size=1.0)) + 1.0 for person in range(PEOPLE)}

    def towards(round: int, person: int, shared: Arrays) -> Arrays:
        step = 0.2 * (centres[person] - toy.flat(shared))
        step *= min(1.0, 0.999 / float(np.linalg.norm(step)))
        parts = np.split(step, [3, 7])
        return {
            spec.name: np.asarray(part.reshape(spec.shape), np.float32)
            for spec, part in zip(toy.SPECS, parts, strict=True)
        }

    wrapper, shared = wrap(name, rounds=60), toy.constant(0.0)
    for round in range(1, 61):
        shared = toy.run_round(wrapper, round, shared, towards)
    optimum = np.mean(list(centres.values()), axis=0)
    distance = float(np.linalg.norm(toy.flat(shared) - optimum))
    assert distance < (0.15 if name in LINEAR else 1.0), distance
    assert float(np.linalg.norm(optimum)) > 2.5  # where it started from
