"""The budget's decoder over policies that are plain tables: draws, ends, budgets, refusals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from commonground.bounds.budget import Budget
from commonground.bounds.decoding import Apart, collect, decode, draw
from commonground.errors import InputError, ModelError

END = 3


class Chain:
    """A Markov chain as a policy: the next token depends on the last one; it counts how often it is asked."""

    def __init__(self, logits: list[list[float]]) -> None:
        self.logits, self.asked = torch.tensor(logits, dtype=torch.float32), 0

    def begin(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Any]:
        return self.follow(torch.tensor([p[-1] for p in prompts]), None)

    def follow(self, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        self.asked += 1
        return self.logits[tokens], cache


SHARED = [[1.0, 0.0, -1.0, 0.5], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.3], [0.0, 0.0, 0.0, 0.0]]
PERSONAL = [[-3.0, 0.0, 4.0, 0.0], [0.0, -2.0, 5.0, 0.0], [3.0, 3.0, -9.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def sources(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(k) for k in range(count)]


def write(budget: Budget, rows: int, **more: Any) -> list[Any]:
    options = {"end": END, "tokens": 3, "temperature": 1.0} | more
    steps = decode(Apart(Chain(SHARED), Chain(PERSONAL)), [(0,)] * rows, budget, sources(rows), **options)
    return collect(steps, rows)


def test_draws_follow_the_law_of_the_budget() -> None:
    """20,000 answers against the bound's exact law: frequencies within 4 standard errors, ratios bounded."""
    rows, delta = 20_000, 1.0
    counts = Counter(answer.tokens[:1] for answer in write(Budget(delta), rows, tokens=1))
    shared = torch.tensor(SHARED[0]).double().log_softmax(0)
    personal = torch.tensor(PERSONAL[0]).double().log_softmax(0)
    from commonground.bounds.budget import spend

    law = spend(shared[None], personal[None], torch.tensor([delta])).log_probs[0].exp()
    for token in range(4):
        seen = counts[() if token == END else (token,)] / rows
        error = math.sqrt(float(law[token]) / rows)
        assert abs(seen - float(law[token])) < 4 * error
        assert seen < math.exp(delta) * float(shared[token].exp()) + 4 * error
    assert counts[(2,)] > 2 * rows * float(shared[2].exp())  # and the person is heard


def test_spending_adds_up_and_stops_at_the_budget() -> None:
    for answer in write(Budget(0.8), 200, tokens=6):
        assert 0 <= answer.spent <= 0.8
        assert len(answer.weights) == min(6, len(answer.tokens) + 1)
    assert max(a.spent for a in write(Budget(0.8), 200, tokens=6)) > 0.79


def test_without_a_budget_it_is_the_shared_policy_and_the_personal_one_is_asked_once() -> None:
    personal = Chain(PERSONAL)
    steps = decode(
        Apart(Chain(SHARED), personal),
        [(0,)] * 50,
        Budget(0.0),
        sources(50),
        end=None,
        tokens=5,
        temperature=1.0,
    )
    bounded = collect(steps, 50)
    assert personal.asked == 1
    alone = decode(
        Apart(Chain(SHARED), Chain(SHARED)),
        [(0,)] * 50,
        Budget(9.0),
        sources(50),
        end=None,
        tokens=5,
        temperature=1.0,
    )
    assert [a.tokens for a in bounded] == [a.tokens for a in collect(alone, 50)]
    assert all(a.spent == 0 for a in bounded)


def test_a_budget_without_end_is_the_personal_policy() -> None:
    free = collect(
        decode(
            Apart(Chain(PERSONAL), Chain(PERSONAL)), [(0,)] * 50, Budget(0.0), sources(50), end=END, tokens=5,
            temperature=1.0,
        ),
        50,
    )  # fmt: skip
    assert [a.tokens for a in write(Budget(1e6), 50, tokens=5)] == [a.tokens for a in free]


def test_a_row_depends_on_its_own_generator_and_not_on_its_neighbours() -> None:
    together = write(Budget(1.0), 8, tokens=5)
    for k in (0, 5):
        steps = decode(
            Apart(Chain(SHARED), Chain(PERSONAL)), [(0,)], Budget(1.0), [np.random.default_rng(k)], end=END,
            tokens=5, temperature=1.0,
        )  # fmt: skip
        assert collect(steps, 1)[0] == together[k]


def test_a_personal_policy_of_nonsense_is_shared() -> None:
    broken = Apart(Chain(SHARED), Chain([[math.nan] * 4] * 4))
    steps = decode(broken, [(0,)] * 20, Budget(5.0), sources(20), end=END, tokens=4, temperature=1.0)
    assert [a.tokens for a in collect(steps, 20)] == [a.tokens for a in write(Budget(0.0), 20, tokens=4)]


@pytest.mark.parametrize(
    ("options", "match"),
    [({"temperature": 0.0}, "greedy"), ({"top_p": 0.9}, "top_p"), ({"top_k": 5}, "top_k")],
)
def test_what_the_theorem_leaves_out_is_refused_before_anything_runs(
    options: dict[str, Any], match: str
) -> None:
    personal = Chain(PERSONAL)
    with pytest.raises(InputError, match=match):
        decode(
            Apart(Chain(SHARED), personal), [(0,)], Budget(1.0), sources(1),
            **({"end": END, "tokens": 3, "temperature": 1.0} | options),
        )  # fmt: skip
    assert personal.asked == 0


def test_prompts_and_generators_go_together() -> None:
    two = Apart(Chain(SHARED), Chain(PERSONAL))
    for prompts, count in (([(0,), (1,)], 1), ([()], 1)):
        with pytest.raises(InputError, match="one each, and no empty prompt"):
            decode(two, prompts, Budget(1.0), sources(count), end=END, tokens=3, temperature=1.0)


def test_two_vocabularies_are_refused() -> None:
    two = Apart(Chain(SHARED), Chain([row[:3] for row in PERSONAL]))
    with pytest.raises(ModelError, match="one tokenizer"):
        next(decode(two, [(0,)], Budget(1.0), sources(1), end=END, tokens=3, temperature=1.0))


class Top(np.random.Generator):
    """Always draws the largest number there is below 1."""

    def random(self, *_: Any, **__: Any) -> Any:
        return 1 - 2**-53


def test_an_impossible_token_is_never_drawn() -> None:
    logs = torch.tensor([-math.inf, math.log(0.3), math.log(0.7), -math.inf])
    assert draw(logs, Top(np.random.PCG64(0))) == 2
    assert {draw(logs, np.random.default_rng(k)) for k in range(200)} == {1, 2}


def test_no_token_and_no_prompt_are_no_trouble() -> None:
    assert write(Budget(1.0), 2, tokens=0)[0].tokens == ()
    assert write(Budget(1.0), 0) == []
