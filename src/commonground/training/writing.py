"""Write answers with adapters that act from the last prompt token on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commonground.adapters import Adapters
from commonground.randomness import generator
from commonground.training.gated import cache_keyword
from commonground.training.texts import Ids


@torch.no_grad()
def write(
    model: Any,
    adapters: Adapters,
    prompts: Sequence[Ids],
    *,
    end: int | None,
    tokens: int,
    temperature: float,
    seed: int,
) -> list[list[int]]:
    """Continue prompts, all in one batch, padded on the left.

    Args:
        model: the model that `adapters` sit on; whatever is enabled acts on the answer only.
        adapters: both adapters.
        prompts: R prompts, none empty.
        end: token that ends an answer, or None.
        tokens: at most so many tokens.
        temperature: 0 is greedy.
        seed: of the draws; a row's draws depend on its prompt and not on the batch.

    Returns:
        Tokens of each answer, without the end token.
    """
    from transformers import DynamicCache

    if not prompts or tokens < 1:
        return [[] for _ in prompts]
    rows, longest = len(prompts), max(len(p) for p in prompts)
    cache = DynamicCache(config=model.config)
    keyword = {cache_keyword(model): cache, "use_cache": True}
    ids, seen = torch.zeros(rows, longest, dtype=torch.int64), torch.zeros(rows, longest, dtype=torch.int64)
    for r, prompt in enumerate(prompts):
        ids[r, longest - len(prompt) :] = torch.tensor(prompt)
        seen[r, longest - len(prompt) :] = 1
    places = (seen.cumsum(1) - 1).clamp(min=0)
    if longest > 1:
        with adapters.disabled():
            model(
                input_ids=ids[:, :-1],
                attention_mask=seen[:, :-1],
                position_ids=places[:, :-1],
                logits_to_keep=1,
                **keyword,
            )
    draws = [generator(seed, "write", *name) for name in _names(prompts)] if temperature > 0 else []
    token, place = ids[:, -1:], places[:, -1:]
    answers: list[list[int]] = [[] for _ in prompts]
    done = [False] * rows
    for _ in range(tokens):
        logits = model(input_ids=token, attention_mask=seen, position_ids=place, **keyword).logits[:, -1]
        chosen = _choose(logits.float(), temperature, draws)
        for r, value in enumerate(chosen.tolist()):
            done[r] = done[r] or value == end
            if not done[r]:
                answers[r].append(value)
        if all(done):
            break
        token, place = chosen[:, None], place + 1
        seen = torch.cat([seen, torch.ones(rows, 1, dtype=torch.int64)], dim=1)
    return answers


def _choose(logits: Tensor, temperature: float, draws: Sequence[np.random.Generator]) -> Tensor:
    """Greedy, or a sample by the Gumbel trick; (R, vocabulary) -> (R,)."""
    if not draws:
        return logits.argmax(-1)
    noise = torch.from_numpy(np.stack([g.gumbel(size=logits.shape[1]) for g in draws]).astype(np.float32))
    return (logits / temperature + noise).argmax(-1)


def _names(prompts: Sequence[Ids]) -> list[tuple[str, int]]:
    """A name for each row's draws: its prompt, and which copy of it this is."""
    counts: dict[Ids, int] = {}
    names = []
    for prompt in prompts:
        counts[prompt] = counts.get(prompt, -1) + 1
        names.append((hashlib.sha256(repr(prompt).encode()).hexdigest(), counts[prompt]))
    return names
