"""The adapted clip around strategies: hand arithmetic, every linear rule, resume, and Flower's wrong sign."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_bed
import toy_grid as toy
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping, FedAvg

from commonground.clipping import BIT, joint_norm
from commonground.errors import EgressError, StrategyError
from commonground.keystream import secret_normals
from commonground.manifest import TensorSpec, seal
from commonground.privacy.adaptive_clip import adaptive_clip
from commonground.randomness import key
from commonground.sealing import clip_for
from commonground.server.checkpoint import load_state, save_state
from commonground.simulations.grid import InProcessGrid
from commonground.strategies.adaptive_clip import AdaptedClip
from commonground.strategies.person_dp import Arrays, PersonLevel
from commonground.strategies.quiet import quiet_flower
from commonground.strategies.records import to_record, train_content
from commonground.strategies.registry import LINEAR, STRATEGIES
from commonground.training.client_half import Visit, answer

# The bed has no two low-rank factors.
NAMES = sorted(name for name in LINEAR if not getattr(STRATEGIES[name], "factors", ""))
PEOPLE = 50
FLAG = TensorSpec("extra.within_clip", ())
MANIFEST = replace(toy.manifest(2.0, grid=2.0**-12), bit=FLAG)


def adapted(z: float = 0.0, start: float = 0.5, most: float = 2.0, people: int = PEOPLE) -> AdaptedClip:
    return AdaptedClip(adaptive_clip(people, z, most, start), seed=3)


def wrap(z: float = 0.0, **changes: Any) -> PersonLevel:
    mechanism = adapted(z, changes.pop("start", 0.5))
    given = {"people": PEOPLE, "manifest": MANIFEST, "noise_multiplier": z, "mechanism": mechanism}
    return toy.wrap(**given | changes)  # type: ignore[arg-type]


def within(size: float, clip: float, seed: int) -> Mapping[str, np.ndarray]:
    """What an honest device sends that moved by `size`."""
    return clip_for(MANIFEST, toy.random(seed, size), clip)


def test_one_round_is_hand_arithmetic() -> None:
    """Forty move by 0.3 and are within 0.5, ten by 1 and are clipped to it: b = 0.8, C e^{-0.2 * 0.3}."""
    wrapper = wrap()
    asked: list[float] = []

    def send(round: int, person: int, shared: Arrays) -> Mapping[str, np.ndarray]:
        return within(0.3 if person < 40 else 1.0, 0.5, person)

    for message in wrapper.configure_train(1, *_start(wrapper)):
        asked.append(message.content["config"]["clip"])
    assert asked == [0.5] * PEOPLE
    moved = toy.run_round(wrap(), 1, toy.constant(0.0), send)
    total = sum(toy.flat(within(0.3 if p < 40 else 1.0, 0.5, p)) for p in range(PEOPLE))
    np.testing.assert_allclose(toy.flat(moved), np.asarray(total) / PEOPLE, atol=1e-7)
    wrapper = wrap()
    toy.run_round(wrapper, 1, toy.constant(0.0), send)
    assert wrapper.counts["refused"] == 0
    assert wrapper.mechanism.clip == pytest.approx(0.5 * math.exp(-0.06), rel=1e-12)
    assert wrapper.counts["bytes"] == PEOPLE * 9 * 4


def _start(wrapper: PersonLevel) -> tuple[Any, Any, Any]:
    return to_record(toy.constant(0.0)), ConfigRecord(), InProcessGrid(ClientApp(), wrapper.people)


def test_noise_is_z_delta_of_the_clip_under_way_and_s_b_on_the_bits() -> None:
    z, wrapper = 0.8, wrap(0.8)
    z_delta = (z**-2 - (2 * 2.5) ** -2) ** -0.5
    moved = toy.run_round(wrapper, 1, toy.constant(0.0), lambda r, p, s: within(0.0, 0.5, p))
    draws = secret_normals((8,), key(3, "noise", 1))
    np.testing.assert_allclose(toy.flat(moved), z_delta * 0.5 * draws / PEOPLE, atol=2.0**-14 / PEOPLE)
    bits = float(secret_normals((1,), key(3, "bit noise", 1))[0])
    clip = 0.5 * math.exp(-0.2 * (25 + 2.5 * bits) / PEOPLE)
    assert wrapper.mechanism.clip == pytest.approx(clip, rel=1e-5)
    clip = wrapper.mechanism.clip
    later = toy.run_round(wrapper, 2, toy.constant(0.0), lambda r, p, s: within(0.0, clip, p))
    draws = secret_normals((8,), key(3, "noise", 2))
    np.testing.assert_allclose(toy.flat(later), z_delta * clip * draws / PEOPLE, atol=2.0**-14 / PEOPLE)


def test_an_empty_round_moves_the_clip_by_noise_alone() -> None:
    quiet, loud = wrap(q=0.0), wrap(0.8, q=0.0)
    for wrapper in (quiet, loud):
        toy.run_round(wrapper, 1, toy.constant(0.0), lambda r, p, s: None)
    assert quiet.mechanism.clip == 0.5
    assert loud.mechanism.clip == pytest.approx(
        0.5 * math.exp(-0.2 * 2.5 * float(secret_normals((1,), key(3, "bit noise", 1))[0]) / PEOPLE), rel=1e-5
    )


@pytest.mark.parametrize(
    "update",
    [
        dict(within(1.0, 0.505, 1)),
        {**within(0.3, 0.5, 1), FLAG.name: np.asarray(0.4, np.float32)},
        {**within(0.3, 0.5, 1), FLAG.name: np.asarray(7.0, np.float32)},
        dict(toy.random(1)),
    ],
    ids=["longer than asked", "a bit of another size", "a large bit", "no bit"],
)
def test_what_does_not_keep_to_the_round_is_refused(update: Arrays) -> None:
    wrapper = wrap()
    toy.run_round(wrapper, 1, toy.constant(0.0), lambda r, p, s: update if p == 7 else within(0.3, 0.5, p))
    assert wrapper.counts["refused"] == 1
    assert 7 not in wrapper.answered


def test_parts_that_do_not_go_together() -> None:
    with pytest.raises(StrategyError, match="an adapted clip needs a manifest with a bit"):
        toy.wrap(people=PEOPLE, mechanism=adapted())
    with pytest.raises(StrategyError, match="an adapted clip needs a manifest with a bit"):
        toy.wrap(people=PEOPLE, manifest=MANIFEST)
    with pytest.raises(StrategyError, match="works on the mean"):
        wrap(individual=True)


class AdaptedRun(toy_bed.Run):
    """A strategy on a bed whose devices clip to what the round asks for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.manifest = replace(self.manifest, bit=FLAG)
        self.wrapper = self.wrap()

    def wrap(self) -> PersonLevel:
        if self.manifest.bit is None:  # the base class's own, thrown away
            return super().wrap()
        z = self.changes.get("noise_multiplier", 0.0)
        self.changes["mechanism"] = adapted(z, 0.5, self.clip, self.people)
        return super().wrap()

    def visit(self, round: int, people: Sequence[int], shared: Mapping[str, np.ndarray]) -> Visit:
        return replace(super().visit(round, people, shared), clip=self.wrapper.mechanism.clip)

    def train(self, round: int, people: Sequence[int], shared: Mapping[str, np.ndarray]) -> None:
        clip = self.wrapper.mechanism.clip
        found = answer(self.half, self.visit(round, people, shared))
        for place, person in enumerate(people):
            update = {n: v[place].numpy() for n, v in found.update.items()}
            clipped = clip_for(self.manifest, update, clip)
            self.messages[person] = seal(self.manifest, clipped, round=round, clip=clip)
            if found.memory is not None:
                self.kept[person][round] = {n: v[place].numpy() for n, v in found.memory.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_linear_strategy_goes_with_it_and_resumes(name: str, tmp_path: Path) -> None:
    run = AdaptedRun(name, toy_bed.spread(PEOPLE), clip=3.0, changes={"noise_multiplier": 0.5})
    shared, clips = run.first(), [run.wrapper.mechanism.clip]
    for round in (1, 2):
        before = run.wrapper.mechanism.clip
        shared = run.round(round, shared)
        clips.append(run.wrapper.mechanism.clip)
        plain = [{n: v for n, v in s.tensors.items() if n != FLAG.name} for s in run.messages.values()]
        assert max(map(joint_norm, plain)) <= before * (1 + 1e-6)
    assert run.wrapper.counts["refused"] == 0
    assert len(set(clips)) == 3
    assert all(abs(math.log(b / a)) < 0.2 for a, b in pairwise(clips))
    save_state(tmp_path / "state.npz", run.wrapper.state_dict())
    resumed, state = run.wrap(), load_state(tmp_path / "state.npz")
    assert state is not None
    resumed.load_state_dict(state)
    assert resumed.mechanism.clip == clips[-1]
    went_on = run.round(3, shared)
    kept = run.wrapper
    run.wrapper = resumed
    again = run.round(3, resumed.current)
    assert toy_bed.bits(again) == toy_bed.bits(went_on)
    assert resumed.mechanism.clip == kept.mechanism.clip


def test_a_server_half_is_told_how_loud_the_round_is() -> None:
    run = AdaptedRun("maxmin", toy_bed.spread(PEOPLE), clip=3.0, changes={"noise_multiplier": 0.5})
    run.rounds(2)
    half, mechanism = run.wrapper.inner, run.wrapper.mechanism
    list(run.wrapper.configure_train(3, *_arrays(run)))
    assert half.noise == mechanism.z * mechanism.clip / PEOPLE
    assert mechanism.clip != 0.5


def _arrays(run: AdaptedRun) -> tuple[Any, Any, Any]:
    return to_record(run.wrapper.current), ConfigRecord(), run.nodes


@pytest.mark.parametrize("asked", [None, 0.0, -1.0, 2.1, math.inf, math.nan])
def test_a_device_takes_no_clip_above_its_own(asked: float | None) -> None:
    with pytest.raises(EgressError, match="the manifest allows above 0 and at most 2"):
        MANIFEST.accepted(asked)
    with pytest.raises(EgressError, match="the manifest allows above 0 and at most 2"):
        seal(MANIFEST, clip_for(MANIFEST, toy.random(1), 0.2), round=1, clip=asked)
    assert MANIFEST.accepted(2.0) == 2.0


def test_flowers_own_adaptive_clip_runs_away_and_ours_does_not() -> None:
    """methods D2, flwr 1.42 with its noise: 0.0017 and 632 after 40 rounds; without noise e^-4 and e^4 times.

    All are clipped, C falls, and all are clipped again; nobody is clipped, C rises, and nobody is again.
    """
    ends = {start: _flowers(start) for start in (0.1, 10.0)}
    assert ends[0.1] == pytest.approx(0.1 * math.exp(-4), rel=1e-3)
    assert ends[10.0] == pytest.approx(10 * math.exp(4), rel=1e-3)
    for start in ends:
        assert _ours(start) == pytest.approx(1.0, abs=0.1)


def _sizes(round: int) -> np.ndarray:
    return np.random.default_rng([5, round]).lognormal(0, 0.3, 100)


def _flowers(start: float, rounds: int = 40) -> float:
    """Where Flower's wrapper has its clip, driven with 100 replies a round, the medians of which are 1."""
    inner = FedAvg(fraction_train=0.0, min_train_nodes=0, min_available_nodes=0)
    theirs = DifferentialPrivacyServerSideAdaptiveClipping(inner, 1e-6, 100, start, clipped_count_stddev=1e-3)
    InProcessGrid(ClientApp(), 1)  # Flower's Message() asks the process which task it belongs to
    theirs.current_arrays = ArrayRecord({"x": Array(np.zeros(1))})
    with quiet_flower():
        for round in range(1, rounds + 1):
            replies = [
                Message(train_content({"x": np.array([size])}), 0, MessageType.TRAIN)
                for size in _sizes(round)
            ]
            theirs.aggregate_train(round, replies)
    return float(theirs.clipping_norm)


def _ours(start: float, rounds: int = 60) -> float:
    mechanism, clips = adapted(0.5, start, 20.0, 100), []
    for round in range(1, rounds + 1):
        mechanism.count(round, float(np.where(_sizes(round) <= mechanism.clip, BIT, -BIT).sum()))
        clips.append(mechanism.clip)
    return float(np.mean(clips[-10:]))
