"""The budget on SmolLM2: 49,152 tokens, single precision, a private adapter out of all bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from commonground.bounds.budget import Budget, spend
from commonground.bounds.policies import Adapted, stream_bounded, write_bounded
from commonground.language_model import load_base
from commonground.training.policy import PolicyModel
from commonground.training.writing import Request

PROMPT = "How do I keep pasta from sticking together?"
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model() -> PolicyModel:
    return PolicyModel(load_base(), [], layers=2, rank=4, adapter="lora")


def noisy(start: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {n: v + scale * torch.randn(v.shape, generator=draw) for n, v in start.items()}


@pytest.mark.parametrize("scale", [0.05, 100.0, math.inf])
def test_a_real_step_costs_what_is_charged_and_the_shared_row_is_untouched(
    model: PolicyModel, scale: float
) -> None:
    shared, private = noisy(model.initial_shared(), 0.02), noisy(model.initial_private(), scale)
    prompt, left = [model.texts.prompt(PROMPT)], torch.tensor([2.0], dtype=torch.float64)
    with torch.no_grad():
        ours, theirs, _ = Adapted(model, [Request(PROMPT, shared, private)]).begin(prompt)
        alone, _, _ = Adapted(model, [Request(PROMPT, shared, noisy(private, 0.0))]).begin(prompt)
        clean, _, _ = Adapted(model, [Request(PROMPT, shared, model.initial_private())]).begin(prompt)
    assert theirs is not None
    assert torch.equal(ours, clean)
    assert torch.equal(alone, clean)
    step = spend(ours / 0.7, theirs / 0.7, left)
    reference = (ours / 0.7).log_softmax(1).double().log_softmax(1)
    exact = (step.log_probs.double().log_softmax(1) - reference).max()
    assert exact <= step.spent[0] <= 2.0
    assert exact > 1.99 if scale == 100.0 else exact >= 0


def test_answers_stay_within_their_budget_and_stream(model: PolicyModel) -> None:
    shared, private = noisy(model.initial_shared(), 0.02), noisy(model.initial_private(), 100.0)
    request = Request(PROMPT, shared, private)
    answers = write_bounded(model, [request] * 4, Budget(3.0), tokens=8)
    assert all(2.9 < a.spent <= 3.0 for a in answers)
    pieces = list(stream_bounded(model, request, Budget(3.0), np.random.default_rng(1), tokens=8))
    assert len("".join(pieces)) > 5
