"""The local update of one person: which comparisons count, whose draws they are, how loud the noise is."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import toy_vault
from toy_world import HashEncoder

from commonground.client import learner as learners
from commonground.client.learner import (
    Insecure,
    Learner,
    Understood,
    device_normals,
    seal_answer,
    understand,
)
from commonground.clipping import joint_norm
from commonground.comparisons import Comparison
from commonground.errors import EgressError, TrustError
from commonground.study.offer import Offer
from commonground.training import features, label_coins
from commonground.training import private_phase as private_phases
from commonground.training.model import Batch, Rows
from commonground.training.reward import RewardModel


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "Encoder", HashEncoder)


@pytest.fixture
def offer(encoder: None) -> Offer:
    return toy_vault.offer_of(toy_vault.study_config())


@pytest.fixture
def meant(offer: Offer) -> Understood:
    return understand(offer)


def said(count: int) -> list[Comparison]:
    """Both tags by turns, the oldest first."""
    return [
        Comparison(f"q {k}", f"kind {tag} {k}", f"curt {tag} {k}", tag, "owner")
        for k in range(count)
        for tag in ("safety", "taste")
    ]


def start(meant: Understood) -> dict[str, np.ndarray]:
    return {t.name: np.zeros(t.shape, np.float32) for t in meant.manifest.broadcast}


def test_the_newest_comparisons_of_each_tag_count_up_to_the_public_cap(meant: Understood) -> None:
    learner = Learner(meant, said(11), 1)
    assert meant.cap == 8
    for tag, rows in learner.rows.items():
        assert [learner.table[row].prompt for row in rows] == [f"q {k}" for k in range(3, 11)]
        assert {learner.table[row].tag for row in rows} == {tag}
    assert len(learner.table) == 16


def test_nobody_who_said_nothing_is_told_from_silence_by_anything_but_noise(meant: Understood) -> None:
    found = Learner(meant, [], 1).answer(1, start(meant), meant.manifest.clip, {}, None)
    assert all(not value.any() for value in found.update.values())
    sealed = seal_answer(meant, found, 1, None, None)
    assert all(value.all() for value in sealed.tensors.values())
    state = Learner(meant, [], 1).private(start(meant), None, {}, 3)
    assert int(state.steps[0]) == 3  # noise alone, as the claim says


@pytest.mark.parametrize("which", ["operating system", "secret", "simulation"])
def test_noise_has_the_deviation_of_the_claim(meant: Understood, which: str) -> None:
    draws = []
    for round in range(1, 401):
        insecure = Insecure(1, 0) if which == "simulation" else None
        sent = {spec.name: np.zeros(spec.shape, np.float32) for spec in meant.manifest.tensors}
        secret = (bytes(32), f"release {round}") if which == "secret" else None
        drawn = device_normals(meant, sent, round, insecure, secret)["shared.safety.u"]
        draws.append(meant.noise_std * drawn)
    values, std = np.concatenate(draws), meant.terms.claim.noise_multiplier * meant.manifest.clip
    assert std == meant.noise_std > 0
    # Five deviations of an estimate from 6,400 draws are 4.4 %: a tenth too little noise is seen.
    assert values.std() == pytest.approx(std, rel=5 / np.sqrt(2 * len(values)))
    assert abs(values.mean()) < 5 * std / np.sqrt(len(values))


def test_the_noise_is_added_to_the_clipped_update(meant: Understood, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Learner(meant, said(4), 1).answer(1, start(meant), meant.manifest.clip, {}, None)
    loud = {name: 1e6 * value for name, value in found.update.items()}
    monkeypatch.setattr(
        learners, "device_normals", lambda *_: {n: np.zeros(v.shape[1:]) for n, v in loud.items()}
    )
    sealed = seal_answer(meant, replace(found, update=loud), 1, None, None)
    assert joint_norm(sealed.tensors) == pytest.approx(meant.manifest.clip, abs=4 * meant.manifest.grid)
    with pytest.raises(EgressError, match="for good"):
        seal_answer(meant, found, 1, 0.5 * meant.manifest.clip, None)


def test_draws_hang_on_the_seed_of_the_life_and_nothing_else(meant: Understood) -> None:
    def numbers(seed: int, person: int = 0) -> bytes:
        state = Learner(meant, said(4), seed, person).private(start(meant), None, {}, 5)
        return b"".join(value.numpy().tobytes() for value in state.adapter.values())

    secret = (1 << 127) + 12345
    assert numbers(secret) == numbers(secret)
    assert len({numbers(secret), numbers(secret + 1), numbers(1), numbers(1, person=2)}) == 4


def test_a_choice_is_reported_once_whatever_is_said_after_it(
    encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind: a coin found by a place in the newest comparisons, which the next one moves."""
    changes = {"privacy__private__mechanism": "label", "privacy__private__epsilon": 1.0}
    label = understand(toy_vault.offer_of(toy_vault.study_config(**changes)))
    seen: list[dict[str, float]] = []
    honest = RewardModel.batch

    def batch(model: RewardModel, rows: Rows, *rest: Any) -> Batch:
        texts, pairs = model.features.texts, zip(rows.index[0].tolist(), rows.flip[0].tolist(), strict=True)
        seen.append({texts[int(model.features.chosen[row])]: flip for row, flip in pairs})
        return honest(model, rows, *rest)

    monkeypatch.setattr(RewardModel, "batch", batch)
    # One pair stands in all of it a second time, so that what is told apart by a number is there too.
    words = [c for c in said(label.cap * 2) if c.tag == "taste"]
    words[3] = replace(words[1], prompt="asked again")
    for count in range(1, len(words) + 1):
        learner = Learner(label, words[:count], seed=100 + count, label_seed=7)
        learner.private(start(label), None, {}, 1)
    first: dict[str, float] = {}
    for reports in seen[4:]:  # the answers that stand twice have two coins, under one name here
        for answer, flip in reports.items():
            if answer != words[1].chosen:
                assert first.setdefault(answer, flip) == flip
    assert len(first) == len(words) - 2
    assert 0 < sum(first.values()) < len(first)


def test_a_repeat_keeps_its_coin_when_the_first_one_counts_no_longer(
    encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"privacy__private__mechanism": "label", "privacy__private__epsilon": 1.0}
    label = understand(toy_vault.offer_of(toy_vault.study_config(**changes)))
    kept: list[list[str]] = []

    def spy(names: list[str], probability: float, seed: int, person: int) -> np.ndarray:
        kept.append(names)
        return label_coins.flips(names, probability, seed, person)

    monkeypatch.setattr(private_phases, "flips", spy)
    words = [c for c in said(label.cap) if c.tag == "taste"]
    words = [words[0], replace(words[0], prompt="again"), *words[1:]]  # the cap leaves out the first of them
    Learner(label, words[: label.cap], 1).private(start(label), None, {}, 1)
    Learner(label, words, 1).private(start(label), None, {}, 1)
    assert kept[0][1:] == kept[1][:-1]


def test_a_life_cut_into_visits_is_the_life_in_one_go(meant: Understood) -> None:
    learner = Learner(meant, said(4), 7)
    whole = learner.private(start(meant), None, {}, 10)
    first = learner.private(start(meant), None, {}, 4)
    both = Learner(meant, said(4), 7).private(start(meant), first, {}, 6)
    assert int(both.steps[0]) == 10
    for name, value in whole.to_arrays().items():
        assert value.tobytes() == both.to_arrays()[name].tobytes()


def test_a_device_keeps_to_the_constraint_of_its_offer(encoder: None) -> None:
    """Public pairs are the shipped ones; the price is in the private state, and in no message."""
    config = toy_vault.study_config()
    free = Learner(understand(toy_vault.offer_of(config)), said(4), 4)
    bound = copy.deepcopy(config)
    bound.bounds.constraint, bound.bounds.constraint_rate = 0.0, 50.0
    meant = understand(toy_vault.offer_of(bound))
    learner = Learner(meant, said(4), 4)
    state = learner.private(start(meant), None, {}, 10)
    assert learner.model.public is not None
    assert set(state.dual) == {"price", "seen", "used"}
    assert float(state.dual["price"]) > 0
    plain = free.private(start(meant), None, {}, 10)
    assert not torch.equal(plain.adapter["private.v"], state.adapter["private.v"])
    sent = [spec.name for spec in meant.manifest.sent]
    assert not [name for name in state.to_arrays() if name in sent]
    answers = [one.answer(1, start(meant), 1.0, {}, None).update for one in (free, learner)]
    for name, value in answers[0].items():
        assert torch.equal(value, answers[1][name])


def test_an_offer_is_taken_for_what_it_says_on_this_device(offer: Offer, meant: Understood) -> None:
    assert meant.manifest.digest == toy_vault.Operator(offer).manifest.digest
    assert meant.terms.most >= 1
    wider = dict(
        offer.manifest, tensors=[*offer.manifest["tensors"], dict(offer.manifest["tensors"][0], name="v")]
    )
    for changed in (wider, offer.manifest | {"noise_on_device": False}):
        with pytest.raises(TrustError, match="another manifest"):
            understand(replace(offer, manifest=changed))
