"""The exact cancellation on SmolLM2: what is left of a shared adapter is the base policy, to the logits."""

from __future__ import annotations

import pytest
import torch

from commonground.bounds.policies import Adapted
from commonground.data.starter import safety_pairs, taste_prompts
from commonground.language_model import load_base
from commonground.randomness import generator, normal
from commonground.simulations.device_attacks.base import Scene
from commonground.simulations.device_attacks.registry import ATTACKS
from commonground.training.policy import PolicyModel
from commonground.training.writing import Request

pytestmark = pytest.mark.model
PROMPT = safety_pairs()[0].prompt


def test_cancelled_logits_are_those_of_the_base() -> None:
    model = PolicyModel(load_base(), [], layers=4, rank=4, adapter="lora", factors="both")
    start = model.initial_shared()
    shared = {name: value + 0.05 * normal(tuple(value.shape), 0, name) for name, value in start.items()}
    scene = Scene(model, shared, safety_pairs(), taste_prompts())
    private = ATTACKS["cancellation"].private(scene, generator(0, "test"))
    prompt = [model.texts.prompt(PROMPT)]
    with torch.no_grad():
        ours, theirs, _ = Adapted(model, [Request(PROMPT, shared, private)]).begin(prompt)
        base, _, _ = Adapted(model, [Request(PROMPT)]).begin(prompt)
    assert theirs is not None
    assert float((ours - base).abs().max()) > 1  # the shared policy is another one
    assert float((theirs - base).abs().max()) < 1e-3
