"""Gradient inversion (methods E10 iv): what one update tells of the pair behind it, with and without noise.

Who sees a single clipped update without noise, as an operator under `trust=central` does, reads the pair out
of it: the words of a short answer from a policy's, and which pair it was, out of many, from a reward's.
With the noise that a device adds under `trust=local`, the same attacks do no better than on the updates of
other people.

Every attack has its base rate beside it: the same attack, scored against a candidate drawn at random.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from commonground.comparisons import Comparison
from commonground.config import Config
from commonground.data.starter import safety_pairs
from commonground.language_model import load_base
from commonground.losses import LossSettings
from commonground.randomness import generator
from commonground.recipe import make_plan, resolve
from commonground.sealing import clip_for
from commonground.settings import config_from
from commonground.study.offer import terms_of
from commonground.training.build import build_model
from commonground.training.contract import egress_manifest
from commonground.training.plan import SharedPlan
from commonground.training.policy import PolicyModel
from commonground.training.update import People, shared_phase

NOISY = {"privacy": {"trust": "local", "shared": {"delta": 1e-5}}, "people": 200, "rounds": 10, "cohort": 200}


def study(**more: object) -> Config:
    """A study of 200 people with epsilon 8 for ten messages of each, whose devices add the noise."""
    return resolve(config_from(NOISY | more))


# -- reward: which pair was it? ------------------------------------------------------------------------


class RewardAttack:
    """The operator's side: all but the update is public, so every candidate's update can be computed."""

    def __init__(self) -> None:
        self.config = study()
        terms = terms_of(self.config)
        pairs = [Comparison(p.prompt, p.safe, p.unsafe, "safety", "x") for p in safety_pairs()]
        swapped = [Comparison(c.prompt, c.rejected, c.chosen, "safety", "x") for c in pairs]
        self.candidates = pairs + swapped
        self.model = build_model(self.config, self.candidates)
        self.plan = make_plan(self.config, ["safety"], terms.claim, terms.private_claim)
        self.manifest = egress_manifest(self.config, self.model, self.plan, terms.claim, None, 0)
        self.std = terms.claim.noise_multiplier * self.manifest.clip
        self.updates = np.stack([self.update(k) for k in range(len(self.candidates))])
        self.directions = self.updates / np.linalg.norm(self.updates, axis=1, keepdims=True)

    def update(self, candidate: int) -> np.ndarray:
        """The clipped update of somebody who said nothing but this pair."""
        rows = {"safety": np.array([candidate]), "taste": np.zeros(0, np.int64)}
        found = shared_phase(
            self.model,
            People((0,), (rows,)),  # type: ignore[arg-type]
            self.model.initial_shared(),
            self.plan.shared,
            seed=0,
            round=1,
        )
        clipped = clip_for(self.manifest, {n: v[0].numpy() for n, v in found.items()}, self.manifest.clip)
        return np.concatenate([clipped[s.name].ravel() for s in self.manifest.tensors]).astype(np.float64)

    def guesses(self, seen: np.ndarray) -> np.ndarray:
        """(T,) the best candidate for each of (T, d) updates."""
        return np.asarray((seen @ self.directions.T).argmax(1))


@pytest.fixture(scope="module")
def reward() -> RewardAttack:
    return RewardAttack()


def test_an_update_without_noise_names_the_pair_and_which_answer_was_better(reward: RewardAttack) -> None:
    everything = np.arange(len(reward.candidates))
    assert (reward.guesses(reward.updates) == everything).all()
    half = len(everything) // 2
    # A pair and the same pair with the other answer preferred are opposite: the preference itself is read.
    assert (np.einsum("ij,ij->i", reward.directions[:half], reward.directions[half:]) < -0.9).all()


def test_an_update_with_the_devices_noise_names_no_pair_better_than_chance(reward: RewardAttack) -> None:
    draws = generator(5, "inversion")
    truth = draws.integers(0, len(reward.candidates), 600)
    noisy = reward.updates[truth] + reward.std * draws.standard_normal((600, reward.updates.shape[1]))
    guesses = reward.guesses(noisy)
    hits = int((guesses == truth).sum())
    others = draws.integers(0, len(reward.candidates), (50, 600))
    base = float((guesses == others).mean())  # the same guesses, scored against other people's pairs
    assert base == pytest.approx(1 / len(reward.candidates), rel=0.5)
    assert hits <= binom.ppf(0.999, 600, base)
    # ... and the preferred answer is guessed no better than the promise of one message allows.
    half = len(reward.candidates) // 2
    right = np.einsum(
        "ij,ij->i", noisy, reward.directions[truth] - reward.directions[(truth + half) % (2 * half)]
    )
    per_message = terms_of(reward.config).claim.epsilon_after(1)
    most = np.exp(per_message) / (1 + np.exp(per_message))
    assert 0.4 < (right > 0).mean() < most + 3 * (0.25 / 600) ** 0.5


def test_the_attack_grows_back_as_the_noise_goes(reward: RewardAttack) -> None:
    """The null result above is the noise's doing, not the attack's weakness."""
    draws, found = generator(6, "inversion"), []
    truth = draws.integers(0, len(reward.candidates), 200)
    for factor in (0.0, 0.01, 0.05, 1.0):
        noise = factor * reward.std * draws.standard_normal((200, reward.updates.shape[1]))
        found.append(float((reward.guesses(reward.updates[truth] + noise) == truth).mean()))
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)
    assert found[1] > 0.5
    assert found[-1] < 0.05


# -- policy: which words were it? ----------------------------------------------------------------------


PAIR = Comparison("Can I mix these two cleaners?", "No, open windows", "Sure, mix", "safety", "x")
RANK = 16


class PolicyAttack:
    """The span test in the first layer: rows of dL/dB lie in the span of A x of the answers' tokens."""

    def __init__(self) -> None:
        base = load_base("")
        self.model = PolicyModel(base, [PAIR], layers=0, rank=RANK, seed=0)
        settings = LossSettings(beta=0.1, sft=0.0)
        plan = SharedPlan(("safety",), 2, 0.1, None, "dpo", settings)
        rows = {"safety": np.array([0]), "taste": np.zeros(0, np.int64)}
        people = People((0,), (rows,))  # type: ignore[arg-type]
        update = shared_phase(self.model, people, self.model.initial_shared(), plan, seed=0, round=1)
        inner = self.model.decoder.model
        target = next(t for t in self.model.adapters.targets if ".layers.0." in f".{t.module}")
        down = inner.get_submodule(target.module).lora_A["shared"].weight.detach()
        first = inner.get_submodule(target.module.rsplit(".self_attn", 1)[0])
        with torch.no_grad():
            embedded = first.input_layernorm(inner.get_input_embeddings().weight)
            self.projected = (embedded @ down.T).double()  # (V, r): what each token would leave behind
        name = next(n for n in update if n.split("shared.")[-1].startswith(target.name) or target.name in n)
        self.seen = update[name][0].double()  # (out, r)
        texts = self.model.texts
        prompt = texts.prompt(PAIR.prompt)
        answers = [texts.answer(text) for text in (PAIR.chosen, PAIR.rejected)]
        # The end token is predicted, never read; the last prompt token is.
        self.tokens = {prompt[-1], *(t for answer in answers for t in answer[:-1])}
        norms = [value[0].double().square().sum() for value in update.values()]
        self.whole = float(torch.stack(norms).sum().sqrt())

    def found(self, seen: torch.Tensor, count: int) -> set[int]:
        """The `count` tokens that lie closest to the span of the update's rows."""
        _, sizes, rows = torch.linalg.svd(seen, full_matrices=False)
        basis = rows[: min(count, int((sizes > 1e-6 * sizes[0]).sum()))]
        unit = self.projected / self.projected.norm(dim=1, keepdim=True)
        outside = (unit - unit @ basis.T @ basis).norm(dim=1)
        return set(outside.argsort()[:count].tolist())


@pytest.fixture(scope="module")
def policy() -> PolicyAttack:
    return PolicyAttack()


@pytest.mark.model
@pytest.mark.slow
def test_a_policys_update_without_noise_spells_the_answers(policy: PolicyAttack) -> None:
    assert len(policy.tokens) < RANK
    assert policy.found(policy.seen, len(policy.tokens)) == policy.tokens  # of 49,152 tokens, exactly these


@pytest.mark.model
@pytest.mark.slow
def test_with_the_devices_noise_it_spells_nothing(policy: PolicyAttack) -> None:
    terms = terms_of(study())
    draws = torch.Generator().manual_seed(3)
    scale = 1.0 / policy.whole  # an update as long as the clip, the most that it can be seen
    hits = tried = 0
    for _ in range(20):
        noise = terms.claim.noise_multiplier * torch.randn(
            policy.seen.shape, generator=draws, dtype=torch.float64
        )
        guessed = policy.found(policy.seen * scale + noise, len(policy.tokens))
        hits, tried = hits + len(guessed & policy.tokens), tried + len(policy.tokens)
    base = len(policy.tokens) / len(policy.projected)  # of a random set of tokens
    assert hits <= binom.ppf(0.9999, tried, base)
