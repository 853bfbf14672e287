"""Write answers with adapters that act from the last prompt token on.

Writing is bound by reading the weights from memory, so twenty answers cost little more than one: answers of
different people are written in one batch, each row with its own adapters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from commonground.adapters import PRIVATE, SCALE, SHARED, Adapters
from commonground.randomness import generator
from commonground.training.gated import cache_keyword
from commonground.training.texts import Ids

AT_ONCE = 24  # rows written together; more would only cost memory


@dataclass(frozen=True, eq=False)
class Request:
    """One answer to write.

    Attributes:
        prompt: what is asked.
        shared: shared adapter without person axis, or None for disabled.
        private: private adapter without person axis, or None for disabled.
    """

    prompt: str
    shared: Mapping[str, Tensor] | None = None
    private: Mapping[str, Tensor] | None = None


Factors = list[tuple[Tensor, Tensor]]  # of each adapted map: (R, rank, inputs) and (R, outputs, rank)


@contextmanager
def each_row(model: nn.Module, adapters: Adapters, requests: Sequence[Request]) -> Iterator[None]:
    """Row r of every batch meets the adapters of request r, added behind each adapted linear map."""
    with acting(model, adapters, row_factors(adapters, requests)):
        yield


def row_factors(adapters: Adapters, requests: Sequence[Request]) -> Factors:
    """The adapters of every request, padded to the largest rank; empty where none acts."""
    known: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for request in requests:
        key = (id(request.shared), id(request.private))
        if key not in known:
            parts = [(SHARED, request.shared), (PRIVATE, request.private)]
            known[key] = _joined([adapters.factors(p, t) for p, t in parts if t is not None])
    rank = max((own[0][0].shape[0] for own in known.values() if own), default=0)
    rows = [known[id(r.shared), id(r.private)] for r in requests]
    factors: Factors = []
    for index, target in enumerate(adapters.targets if rank else ()):
        down = torch.zeros(len(rows), rank, target.inputs)
        up = torch.zeros(len(rows), target.outputs, rank)
        for r, own in enumerate(rows):
            if own:
                a, b = own[index]
                down[r, : a.shape[0]], up[r, :, : b.shape[1]] = a, SCALE * b
        factors.append((down, up))
    return factors


@contextmanager
def acting(model: nn.Module, adapters: Adapters, factors: Factors) -> Iterator[None]:
    """Row r of every batch meets row r of `factors`; what the model had enabled is disabled."""
    adapters.enable(())
    handles = []
    for target, (down, up) in zip(adapters.targets if factors else (), factors, strict=True):

        def add(_: nn.Module, inputs: Any, out: Tensor, down: Tensor = down, up: Tensor = up) -> Tensor:
            return out + torch.bmm(torch.bmm(inputs[0], down.mT), up.mT)

        handles.append(model.get_submodule(target.module).register_forward_hook(add))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _joined(parts: list[list[tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    """Adapters that act together, as one of the sum of their ranks."""
    if not parts:
        return []
    return [
        (torch.cat([a for a, _ in at]), torch.cat([b for _, b in at], dim=1))
        for at in zip(*parts, strict=True)
    ]


def write(
    model: Any,
    adapters: Adapters,
    requests: Sequence[Request],
    prompts: Sequence[Ids],
    *,
    end: int | None,
    tokens: int,
    temperature: float,
    seed: int,
) -> list[list[int]]:
    """Continue prompts in batches, padded on the left.

    Args:
        model: the model that `adapters` sit on.
        adapters: both adapters; all are disabled afterwards.
        requests: R answers to write.
        prompts: token ids of each request's prompt, none empty.
        end: token that ends an answer, or None.
        tokens: at most so many tokens.
        temperature: 0 is greedy.
        seed: of the draws; a row's draws depend on its prompt and not on the batch.

    Returns:
        Tokens of each answer, without the end token.
    """
    draws = [generator(seed, "write", *name) for name in _names(prompts)] if temperature > 0 else []
    answers: list[list[int]] = []
    for first in range(0, len(requests) if tokens > 0 else 0, AT_ONCE):
        at = slice(first, first + AT_ONCE)
        adapters.enable(())
        answers += _batch(model, adapters, requests[at], prompts[at], draws[at], end, tokens, temperature)
    return answers or [[] for _ in requests]


def write_one(
    model: Any,
    adapters: Adapters,
    request: Request,
    prompt: Ids,
    *,
    end: int | None,
    tokens: int,
    temperature: float,
    seed: int,
) -> Iterator[int]:
    """Continue one prompt token by token, as `write` does; nobody else may use the model meanwhile."""
    draws = [generator(seed, "write", *name) for name in _names([prompt])] if temperature > 0 else []
    adapters.enable(())
    for chosen in _steps(model, adapters, [request], [prompt], draws, tokens, temperature):
        if chosen[0] == end:
            break
        yield chosen[0]


def _batch(
    model: Any,
    adapters: Adapters,
    requests: Sequence[Request],
    prompts: Sequence[Ids],
    draws: Sequence[np.random.Generator],
    end: int | None,
    tokens: int,
    temperature: float,
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]
    done = [False] * len(prompts)
    steps = _steps(model, adapters, requests, prompts, draws, tokens, temperature)
    with closing(steps):
        for chosen in steps:
            for r, value in enumerate(chosen):
                done[r] = done[r] or value == end
                if not done[r]:
                    answers[r].append(value)
            if all(done):
                break
    return answers


def _steps(
    model: Any,
    adapters: Adapters,
    requests: Sequence[Request],
    prompts: Sequence[Ids],
    draws: Sequence[np.random.Generator],
    tokens: int,
    temperature: float,
) -> Generator[list[int]]:
    """The next token of every row, at most `tokens` times."""
    from transformers import DynamicCache

    rows, longest = len(prompts), max(len(p) for p in prompts)
    cache = DynamicCache(config=model.config)
    keyword = {cache_keyword(model): cache, "use_cache": True}
    ids, seen, places = padded_left(prompts)
    if longest > 1:
        with torch.no_grad():
            model(
                input_ids=ids[:, :-1],
                attention_mask=seen[:, :-1],
                position_ids=places[:, :-1],
                logits_to_keep=1,
                **keyword,
            )
    token, place = ids[:, -1:], places[:, -1:]
    with each_row(model, adapters, requests):
        for _ in range(tokens):
            with torch.no_grad():  # not around the yield: that would hold in whoever asks for the next token
                out = model(input_ids=token, attention_mask=seen, position_ids=place, **keyword)
                chosen = _choose(out.logits[:, -1].float(), temperature, draws)
            yield chosen.tolist()
            token, place = chosen[:, None], place + 1
            seen = torch.cat([seen, torch.ones(rows, 1, dtype=torch.int64)], dim=1)


def padded_left(prompts: Sequence[Ids]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and positions of prompts that end together, each (R, longest) int64."""
    rows, longest = len(prompts), max(len(p) for p in prompts)
    ids, seen = torch.zeros(rows, longest, dtype=torch.int64), torch.zeros(rows, longest, dtype=torch.int64)
    for r, prompt in enumerate(prompts):
        ids[r, longest - len(prompt) :] = torch.tensor(prompt)
        seen[r, longest - len(prompt) :] = 1
    return ids, seen, (seen.cumsum(1) - 1).clamp(min=0)


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
