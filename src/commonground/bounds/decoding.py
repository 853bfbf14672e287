"""Write answers under the decode-time budget: batched, with key-value caches, one token at a time.

The loop asks two next-token functions, personal and shared, for logits, moves as far as the budget affords
(bounds/budget.py) and draws. Once no open answer can spend any more, the personal policy is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from commonground.bounds.budget import Budget, check_sampling, spend
from commonground.errors import InputError

Ids = tuple[int, ...]
SPENT = 1e-3  # nats; an answer that has less left goes on with the shared policy


class Policy(Protocol):
    """One policy's next-token function over R prompts."""

    def begin(self, prompts: Sequence[Ids]) -> tuple[Tensor, Any]:
        """Logits (R, V) of the first token of each answer, and a cache."""
        ...

    def follow(self, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits (R, V) of what follows (R,) tokens, and the cache to go on with."""
        ...


class Two(Protocol):
    """Shared and personal policy, asked together."""

    def begin(self, prompts: Sequence[Ids]) -> tuple[Tensor, Tensor | None, Any]:
        """Logits of shared and personal, each (R, V), and what both remember."""
        ...

    def follow(self, tokens: Tensor, cache: Any, personal: bool) -> tuple[Tensor, Tensor | None, Any]:
        """What follows (R,) tokens; without `personal` the second is None, from then on."""
        ...


class Apart:
    """Two policies that know nothing of each other."""

    def __init__(self, shared: Policy, personal: Policy) -> None:
        self._shared, self._personal = shared, personal

    def begin(self, prompts: Sequence[Ids]) -> tuple[Tensor, Tensor | None, Any]:
        """See `Two`."""
        shared, left = self._shared.begin(prompts)
        personal, right = self._personal.begin(prompts)
        return shared, personal, (left, right)

    def follow(self, tokens: Tensor, cache: Any, personal: bool) -> tuple[Tensor, Tensor | None, Any]:
        """See `Two`."""
        shared, left = self._shared.follow(tokens, cache[0])
        if not personal:
            return shared, None, (left, None)
        logits, right = self._personal.follow(tokens, cache[1])
        return shared, logits, (left, right)


@dataclass(frozen=True)
class Written:
    """One token of R answers.

    Attributes:
        tokens: a token a row; None where the answer has ended (the end token itself is not given).
        spent: (R,) float64, nats spent so far.
        weight: (R,) float64, l of this token: 0 is shared, 1 is personal.
    """

    tokens: list[int | None]
    spent: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Bounded:
    """A finished answer.

    Attributes:
        tokens: without the end token.
        spent: nats; at most the budget's delta.
        weights: l of each token drawn, the end token included.
    """

    tokens: tuple[int, ...]
    spent: float
    weights: tuple[float, ...]


@torch.no_grad()
def _ask(ask: Callable[..., tuple[Tensor, Tensor | None, Any]], *values: Any) -> Any:
    return ask(*values)


def decode(
    two: Two,
    prompts: Sequence[Ids],
    budget: Budget,
    draws: Sequence[np.random.Generator],
    *,
    end: int | None,
    tokens: int,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
) -> Iterator[Written]:
    """Continue prompts token by token.

    Args:
        two: the policies.
        prompts: R token sequences, none empty.
        budget: of each answer.
        draws: a generator a row.
        end: token that ends an answer, or None.
        tokens: at most so many.
        temperature: of both policies; must be above 0.
        top_p: must be 1.
        top_k: must be 0.

    Yields:
        A token of every answer, until all have ended. Nobody else may use the models in between.

    Raises:
        InputError: greedy or truncated sampling, or not one generator a prompt.
        ModelError: two vocabularies, or a shared policy without numbers.
    """
    check_sampling(temperature, top_p=top_p, top_k=top_k)
    if len(draws) != len(prompts) or not all(prompts):
        raise InputError(f"{len(prompts)} prompts and {len(draws)} generators; one each, and no empty prompt")
    return _decode(two, prompts, budget, draws, end, tokens, temperature)


def _decode(
    two: Two,
    prompts: Sequence[Ids],
    budget: Budget,
    draws: Sequence[np.random.Generator],
    end: int | None,
    tokens: int,
    temperature: float,
) -> Iterator[Written]:
    rows = len(prompts)
    left, ended = budget.start(rows), torch.zeros(rows, dtype=torch.bool)
    chosen, cache = torch.empty(0), None
    for place in range(tokens if rows else 0):
        if place == 0:
            shared, personal, cache = _ask(two.begin, prompts)
        else:
            able = bool(((left > SPENT) & ~ended).any())
            shared, personal, cache = _ask(two.follow, chosen, cache, able)
        log_probs, weight = (shared.float() / temperature).log_softmax(1), torch.zeros(rows).double()
        if personal is not None:
            step = spend(
                shared.float() / temperature,
                personal.float() / temperature,
                torch.where(ended, 0.0, left),
                gate=budget.gate,
                most=budget.step,
            )
            log_probs, weight, left = step.log_probs, step.weight, left - step.spent
        chosen = torch.tensor([draw(row, source) for row, source in zip(log_probs, draws, strict=True)])
        over = ended if end is None else ended | (chosen == end)
        given = [None if gone else int(token) for token, gone in zip(chosen, over, strict=True)]
        ended = over
        yield Written(given, budget.delta - left, weight)
        if bool(ended.all()):
            return


def draw(log_probs: Tensor, source: np.random.Generator) -> int:
    """One token by its probabilities, (V,): inversion in double precision, never an impossible token."""
    total = np.cumsum(log_probs.double().exp().numpy())
    found = int(np.searchsorted(total, source.random() * total[-1], side="right"))
    # a uniform next to 1 can round up to the total: the last token that has any weight
    return min(found, int(np.searchsorted(total, total[-1], side="left")))


def collect(steps: Iterator[Written], rows: int) -> list[Bounded]:
    """The answers of `rows` rows, whole."""
    texts: list[list[int]] = [[] for _ in range(rows)]
    weights: list[list[float]] = [[] for _ in range(rows)]
    spent, open_rows = [0.0] * rows, [True] * rows
    for step in steps:
        for r, token in enumerate(step.tokens):
            if open_rows[r]:
                weights[r].append(float(step.weight[r]))
                spent[r] = float(step.spent[r])
            if token is None:
                open_rows[r] = False
            else:
                texts[r].append(token)
    return [Bounded(tuple(t), s, tuple(w)) for t, s, w in zip(texts, spent, weights, strict=True)]
