"""Time of the decode-time budget, as a ratio to the personal policy alone, on SmolLM2. The bar is 2.3."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from commonground.bounds.budget import Budget
from commonground.bounds.policies import write_bounded
from commonground.language_model import load_base
from commonground.training.policy import PolicyModel
from commonground.training.writing import Request

BAR = 2.3
TOKENS, ROUNDS = 16, 3
PROMPTS = ["How do I keep pasta from sticking together?", "What is a tide?", "How can I sleep better?"]


@pytest.fixture(scope="module")
def model() -> PolicyModel:
    return PolicyModel(load_base(), [], layers=4, rank=8, adapter="lora")


def adapter(start: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {n: v + scale * torch.randn(v.shape, generator=draw) for n, v in start.items()}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize("rows", [1, 12])
@pytest.mark.parametrize("delta", [3.0, 30.0, 1e5])
def test_the_budget_costs_at_most_the_bar(model: PolicyModel, rows: int, delta: float) -> None:
    """Interleaved runs, median of ratios; at 1e5 nats both policies are asked to the end."""
    shared, private = adapter(model.initial_shared(), 0.01), adapter(model.initial_private(), 0.02)
    requests = [Request(PROMPTS[r % len(PROMPTS)], shared, private) for r in range(rows)]
    alone = partial(model.generate_each, requests, tokens=TOKENS, temperature=0.7)
    both = partial(write_bounded, model, requests, Budget(delta), tokens=TOKENS)
    end, model.texts.end = model.texts.end, None  # no answer ends early: both write equally many tokens
    try:
        ratios = [seconds(partial(both, seed=k)) / seconds(partial(alone, seed=k)) for k in range(ROUNDS)]
    finally:
        model.texts.end = end
    print(f"\n{rows} rows, Delta {delta:g}: {statistics.median(ratios):.2f} ({[f'{r:.2f}' for r in ratios]})")
    assert statistics.median(ratios) <= BAR
