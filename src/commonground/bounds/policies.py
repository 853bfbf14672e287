"""The policies that the budget's decoder asks: two adapters on one model, or two Hugging Face models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commonground.bounds.budget import Budget, check_sampling
from commonground.bounds.decoding import Apart, Bounded, Ids, Two, collect, decode
from commonground.errors import ModelError
from commonground.language_model import LanguageModel
from commonground.randomness import generator
from commonground.training.gated import cache_keyword
from commonground.training.policy import PolicyModel
from commonground.training.writing import AT_ONCE, Factors, Request, acting, padded_left, row_factors


@dataclass
class _Place:
    """Where a batch is in its answers."""

    cache: Any
    seen: Tensor
    place: Tensor

    def on(self) -> _Place:
        more = torch.ones(len(self.seen), 1, dtype=torch.int64)
        return _Place(self.cache, torch.cat([self.seen, more], dim=1), self.place + 1)


def _forward(model: Any, tokens: Tensor, at: _Place) -> Tensor:
    """Logits (R, V) after (R, 1) tokens; the cache grows in place."""
    keyword = {cache_keyword(model): at.cache, "use_cache": True}
    out = model(input_ids=tokens, attention_mask=at.seen, position_ids=at.place, **keyword)
    return torch.as_tensor(out.logits[:, -1])


def _read_but_last(model: Any, prompts: Sequence[Ids]) -> tuple[Tensor, _Place]:
    """Prompts into a cache, but for their last token, which is given back as (R, 1)."""
    from transformers import DynamicCache

    ids, seen, places = padded_left(prompts)
    cache = DynamicCache(config=model.config)
    if ids.shape[1] > 1:
        keyword = {cache_keyword(model): cache, "use_cache": True}
        before = {"attention_mask": seen[:, :-1], "position_ids": places[:, :-1]}
        model(input_ids=ids[:, :-1], logits_to_keep=1, **before, **keyword)
    return ids[:, -1:], _Place(cache, seen, places[:, -1:])


class CausalPolicy:
    """A `Policy` that is a whole causal language model of its own.

    Args:
        model: a transformers model in eval mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def begin(self, prompts: Sequence[Ids]) -> tuple[Tensor, Any]:
        """See `Policy`."""
        last, at = _read_but_last(self.model, prompts)
        return _forward(self.model, last, at), at

    def follow(self, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """See `Policy`."""
        at = cache.on()
        return _forward(self.model, tokens[:, None], at), at


def two_models(shared: LanguageModel, personal: LanguageModel) -> Apart:
    """Two Hugging Face policies with one tokenizer; raises `ModelError` where there are two."""
    left, right = (m.tokenizer.get_vocab() for m in (shared, personal))
    if left != right:
        odd = sorted(set(left.items()) ^ set(right.items()))[0][0]
        raise ModelError(
            f"the policies {shared.name} and {personal.name} have different tokenizers "
            f"({len(left)} and {len(right)} tokens, {odd!r} differs); one tokenizer is needed"
        )
    return Apart(CausalPolicy(shared.model), CausalPolicy(personal.model))


class Adapted:
    """Shared and personal policy of each request, on one model with adapters, in one batch of 2 R rows.

    Row 2r is the shared policy of request r and row 2r + 1 the personal one, so that the weights are read
    once for both. The rows of a batch do not meet in any operation: no private tensor, whatever it holds,
    changes a bit of the shared logits (a test holds it). The prompt before its last token is read by the
    base model, once for both, as in training.

    Args:
        model: the model.
        requests: R of them; without a private adapter the personal policy is the shared one.
    """

    def __init__(self, model: PolicyModel, requests: Sequence[Request]) -> None:
        self._model, self._adapters = model.decoder.model, model.adapters
        pairs = [(Request(r.prompt, r.shared), r) for r in requests]
        self._both = row_factors(model.adapters, [one for pair in pairs for one in pair])
        self._alone: Factors = [(down[0::2], up[0::2]) for down, up in self._both]

    def begin(self, prompts: Sequence[Ids]) -> tuple[Tensor, Tensor | None, Any]:
        """See `Two`."""
        self._adapters.enable(())
        last, at = _read_but_last(self._model, prompts)
        if at.cache.get_seq_length() > 0:
            at.cache.batch_repeat_interleave(2)
        at = _Place(at.cache, at.seen.repeat_interleave(2, 0), at.place.repeat_interleave(2, 0))
        return self._ask(last.repeat_interleave(2, 0), at)

    def follow(self, tokens: Tensor, cache: Any, personal: bool) -> tuple[Tensor, Tensor | None, Any]:
        """See `Two`."""
        at: _Place = cache
        both = len(at.seen) == 2 * len(tokens)
        if both and not personal:
            rows = torch.arange(0, 2 * len(tokens), 2)
            at.cache.batch_select_indices(rows)
            at, both = _Place(at.cache, at.seen[rows], at.place[rows]), False
        at = at.on()
        if both:
            return self._ask(tokens[:, None].repeat_interleave(2, 0), at)
        with acting(self._model, self._adapters, self._alone):
            return _forward(self._model, tokens[:, None], at), None, at

    def _ask(self, tokens: Tensor, at: _Place) -> tuple[Tensor, Tensor, _Place]:
        with acting(self._model, self._adapters, self._both):
            logits = _forward(self._model, tokens, at)
        return logits[0::2], logits[1::2], at


def write_bounded(
    model: PolicyModel,
    requests: Sequence[Request],
    budget: Budget,
    *,
    tokens: int,
    temperature: float = 0.7,
    seed: int = 0,
) -> list[Bounded]:
    """Answers of many people's personal policies, each within the budget.

    Args:
        model: the policy model.
        requests: what is asked, and the adapters of whom.
        budget: of each answer.
        tokens: at most so many an answer.
        temperature: of both policies; above 0.
        seed: of the draws.

    Returns:
        An answer a request; `model.texts.decode` makes it a text.
    """
    check_sampling(temperature)
    found: list[Bounded] = []
    for first in range(0, len(requests), AT_ONCE):
        part = requests[first : first + AT_ONCE]
        prompts = [model.texts.prompt(r.prompt) for r in part]
        sources = [generator(seed, "bounded", first + k, r.prompt) for k, r in enumerate(part)]
        steps = decode(
            Adapted(model, part),
            prompts,
            budget,
            sources,
            end=model.texts.end,
            tokens=tokens,
            temperature=temperature,
        )
        found += collect(steps, len(part))
    return found


def stream_bounded(
    model: PolicyModel,
    request: Request,
    budget: Budget,
    source: np.random.Generator,
    *,
    tokens: int,
    temperature: float = 0.7,
) -> Iterator[str]:
    """One answer in pieces of text as it is written; nobody else may use the model meanwhile.

    Args:
        model: the policy model.
        request: what is asked.
        budget: of the answer.
        source: of the draws; a device takes one seeded by its operating system.
        tokens: at most so many.
        temperature: of both policies; above 0.
    """
    two: Two = Adapted(model, [request])
    prompt, ids, shown = model.texts.prompt(request.prompt), list[int](), ""
    steps = decode(
        two, [prompt], budget, [source], end=model.texts.end, tokens=tokens, temperature=temperature
    )
    for step in steps:
        if step.tokens[0] is None:
            break
        ids.append(step.tokens[0])
        text = model.texts.decode(ids)
        # a letter of several tokens decodes to a replacement character until it is whole
        if text.startswith(shown) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            if len(text) > len(shown):
                yield text[len(shown) :]
            shown = text
    if ids and len(rest := model.texts.decode(ids)) > len(shown):
        yield rest[len(shown) :]
