"""Shared and personal policy on one model: the same as apart, and nothing private reaches the shared one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_models import tiny_base, tiny_gpt2, tiny_llama, tiny_tokenizer

from commonground.bounds.budget import Budget
from commonground.bounds.decoding import collect, decode
from commonground.bounds.policies import Adapted, CausalPolicy, stream_bounded, two_models, write_bounded
from commonground.errors import InputError, ModelError
from commonground.training.policy import PolicyModel
from commonground.training.writing import Request

PROMPTS = ["how do I boil an egg", "what is a tide ?", "moon"]


def policy(base: str = "llama") -> PolicyModel:
    return PolicyModel(
        tiny_base(tiny_gpt2() if base == "gpt2" else tiny_llama()), [], layers=2, rank=2, adapter="lora"
    )


def filled(start: dict[str, Tensor], scale: float, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {n: v + scale * torch.randn(v.shape, generator=draw) for n, v in start.items()}


def adapters(model: PolicyModel, scale: float = 0.5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return filled(model.initial_shared(), 0.5, 1), filled(model.initial_private(), scale, 2)


def shared_logits(model: PolicyModel, private: dict[str, Tensor] | None, steps: int = 3) -> list[Tensor]:
    """Shared logits of the first tokens of three answers, beside whatever is private."""
    shared, _ = adapters(model)
    two = Adapted(model, [Request(p, shared, private) for p in PROMPTS])
    with torch.no_grad():
        logits, _, cache = two.begin([model.texts.prompt(p) for p in PROMPTS])
        found = [logits]
        for token in range(steps):
            logits, _, cache = two.follow(torch.tensor([5, 6, 7 + token]), cache, True)
            found.append(logits)
    return found


@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_both_policies_in_one_batch_are_what_each_writes_alone(base: str) -> None:
    """At a budget of 0 the shared policy's own logits, at an endless one the personal policy's."""
    model = policy(base)
    shared, private = adapters(model)
    two = Adapted(model, [Request(p, shared, private) for p in PROMPTS])
    prompts = [model.texts.prompt(p) for p in PROMPTS]
    for parts, place in (((shared, None), 0), ((shared, private), 1)):
        with torch.no_grad():
            first = two.begin(prompts)[place]
        assert first is not None
        rows = [(prompt, (token,)) for prompt in prompts for token in range(4)]
        model._set(parts[0], parts[1], train=None)
        with torch.no_grad():
            wanted = model.decoder.logps(rows).reshape(len(prompts), 4)
        model.adapters.enable(())
        torch.testing.assert_close(first.log_softmax(1)[:, :4], wanted, atol=2e-5, rtol=0)


@pytest.mark.identity
@pytest.mark.parametrize("value", [0.5, 1e4, 1e30, math.nan, math.inf])
def test_no_private_tensor_changes_a_bit_of_the_shared_logits(value: float) -> None:
    model = policy()
    private = {n: torch.full_like(v, value) for n, v in model.initial_private().items()}
    clean = shared_logits(model, {n: torch.zeros_like(v) for n, v in private.items()})
    for left, right in zip(clean, shared_logits(model, private), strict=True):
        assert torch.isfinite(left).all()
        assert torch.equal(left, right)


def test_exact_cancellation_of_shared_is_bounded_too() -> None:
    """P5: v = -u makes the personal policy the base; the answer still costs at most Delta."""
    model = PolicyModel(
        tiny_base(), [], layers=2, rank=2, adapter="lora", factors="both"
    )  # both factors, so that v can be -u
    shared = filled(model.initial_shared(), 2.0, 1)
    private = {
        n: (-shared[s] if n.endswith("B") else shared[s])
        for n, s in ((n, n.replace("private", "shared")) for n in model.initial_private())
    }
    request = Request(PROMPTS[0], shared, private)
    with torch.no_grad():
        prompt = model.texts.prompt(PROMPTS[0])
        _, personal, _ = Adapted(model, [request]).begin([prompt])
        base, _, _ = Adapted(model, [Request(PROMPTS[0])]).begin([prompt])
    assert personal is not None
    torch.testing.assert_close(personal, base, atol=1e-4, rtol=0)
    answers = write_bounded(model, [request] * 30, Budget(0.7), tokens=8, temperature=1.0)
    assert max(a.spent for a in answers) <= 0.7
    assert max(a.spent for a in answers) > 0.69


def test_going_on_without_the_personal_policy_changes_nothing_of_shared() -> None:
    model = policy()
    shared, private = adapters(model)
    prompts = [model.texts.prompt(p) for p in PROMPTS]
    found = []
    for keep in (True, False):
        two = Adapted(model, [Request(p, shared, private) for p in PROMPTS])
        with torch.no_grad():
            _, _, cache = two.begin(prompts)
            _, _, cache = two.follow(torch.tensor([5, 6, 7]), cache, keep)
            logits, personal, _ = two.follow(torch.tensor([8, 9, 4]), cache, keep)
        assert (personal is None) == (not keep)
        found.append(logits)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


def test_a_streamed_answer_is_the_written_one_and_leaves_the_model_as_it_was() -> None:
    model = policy()
    shared, private = adapters(model)
    request = Request(PROMPTS[1], shared, private)
    pieces = list(
        stream_bounded(model, request, Budget(2.0), np.random.default_rng(3), tokens=8, temperature=1.0)
    )
    steps = decode(
        Adapted(model, [request]), [model.texts.prompt(PROMPTS[1])], Budget(2.0), [np.random.default_rng(3)],
        end=model.texts.end, tokens=8, temperature=1.0,
    )  # fmt: skip
    assert "".join(pieces) == model.texts.decode(list(collect(steps, 1)[0].tokens))
    assert len(pieces) > 1
    hooks = [m for m in model.decoder.model.modules() if m._forward_hooks]
    assert hooks == []


def test_a_personal_adapter_is_heard_within_its_budget_and_people_do_not_mix() -> None:
    model = policy()
    shared, private = adapters(model, scale=3.0)
    mixed = [Request(PROMPTS[0], shared, private), Request(PROMPTS[0], shared)] * 20
    answers = write_bounded(model, mixed, Budget(3.0), tokens=6, temperature=1.0)
    assert all(a.spent <= 3.0 for a in answers)
    assert all(a.spent < 1e-2 for a in answers[1::2])  # nothing private: only what rounding is charged
    assert min(a.spent for a in answers[0::2]) > 0.5


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_greedy_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match="about draws"):
        write_bounded(policy(), [Request("moon")], Budget(1.0), tokens=3, temperature=temperature)


def test_two_hugging_face_policies_with_one_tokenizer() -> None:
    base = tiny_base()
    other = dataclasses.replace(base, model=tiny_llama(seed=4), name="owner/other")
    two, prompt = two_models(base, other), (3, 4, 5)
    answers = [
        collect(
            decode(two, [prompt], Budget(1.0), [np.random.default_rng(k)], end=2, tokens=6, temperature=1.0),
            1,
        )[0]
        for k in range(20)
    ]
    assert max(a.spent for a in answers) > 0.99
    assert all(a.spent <= 1.0 for a in answers)
    with torch.no_grad():
        whole = base.model(input_ids=torch.tensor([[3, 4, 5, 6]])).logits[:, -1]
        _, at = CausalPolicy(base.model).begin([prompt])
        step, _ = CausalPolicy(base.model).follow(torch.tensor([6]), at)
    torch.testing.assert_close(step, whole, atol=1e-5, rtol=0)


def test_two_tokenizers_are_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["extra"])
    other = dataclasses.replace(tiny_base(), tokenizer=tokenizer, name="owner/other")
    with pytest.raises(ModelError, match=r"owner/tiny and owner/other have different tokenizers.*'extra'"):
        two_models(tiny_base(), other)
