"""The theorem of the decode-time budget, by enumeration of every answer of toy language models.

Four tokens, the last one ends an answer, at most four tokens: 121 answers. Each policy is a table of logits
for every prefix; an adapter adds to it, so any table whatever is a personal policy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from commonground.bounds.budget import Budget, spend

VOCABULARY, LENGTH, END = 4, 4, 3
Table = dict[tuple[int, ...], list[float]]
PREFIXES = [p for n in range(LENGTH) for p in itertools.product(range(END), repeat=n)]


def answers() -> list[tuple[int, ...]]:
    """Every answer: ended by the end token, or cut at the longest length."""
    ended = [(*prefix, END) for prefix in PREFIXES]
    return ended + list(itertools.product(range(END), repeat=LENGTH))


def table(values: np.ndarray) -> Table:
    return dict(zip(PREFIXES, values.reshape(len(PREFIXES), VOCABULARY).tolist(), strict=True))


def tables(*parts: Table) -> Table:
    return {p: [sum(x) for x in zip(*(part[p] for part in parts), strict=True)] for p in PREFIXES}


def law(
    shared: Table, personal: Table, budget: Budget, temperature: float = 1.0
) -> dict[tuple[int, ...], float]:
    """Log-probability of every answer under the budget; all prefixes of a length are one batch."""
    found: dict[tuple[int, ...], float] = {}
    level: list[tuple[tuple[int, ...], float, float]] = [((), 0.0, budget.delta)]
    for length in range(LENGTH):
        logits = [
            torch.tensor([source[p] for p, _, _ in level], dtype=torch.float64) / temperature
            for source in (shared, personal)
        ]
        left = torch.tensor([nats for _, _, nats in level], dtype=torch.float64)
        step = spend(logits[0], logits[1], left, gate=budget.gate, most=budget.step)
        after = (left - step.spent).tolist()
        following = []
        for row, (prefix, logp, _) in enumerate(level):
            for token in range(VOCABULARY):
                here = logp + float(step.log_probs[row, token])
                if token == END or length == LENGTH - 1:
                    found[(*prefix, token)] = here
                else:
                    following.append(((*prefix, token), here, after[row]))
        level = following
    return found


def ratios(shared: Table, personal: Table, budget: Budget, temperature: float = 1.0) -> Tensor:
    """ln pi(y)/pi_s(y) of every answer that shared can give; the others must be impossible under both."""
    ours, theirs = law(shared, personal, budget, temperature), law(shared, shared, Budget(0.0), temperature)
    assert sorted(ours) == sorted(theirs) == sorted(answers())
    assert sum(math.exp(v) for v in ours.values()) == pytest.approx(1, abs=1e-12)
    assert all(ours[y] == -math.inf for y in ours if theirs[y] == -math.inf)
    return torch.tensor([ours[y] - theirs[y] for y in ours if theirs[y] > -math.inf], dtype=torch.float64)


def random_table(seed: int, scale: float) -> Table:
    return table(scale * np.random.default_rng(seed).standard_normal(len(PREFIXES) * VOCABULARY))


BASE, SHARED = random_table(1, 1.0), random_table(2, 1.5)
POLICY = tables(BASE, SHARED)


def rare_token(scale: float) -> Table:
    """Pulls towards the token that shared likes least, at every prefix."""
    return {p: [scale * (v == min(POLICY[p])) for v in POLICY[p]] for p in PREFIXES}


def end_only(scale: float) -> Table:
    return {p: [0.0, 0.0, 0.0, scale] for p in PREFIXES}


def negative(of: Table) -> Table:
    return {p: [-x for x in row] for p, row in of.items()}


def late(scale: float) -> Table:
    """Does nothing until the last token, so that the whole budget is there for it."""
    return {
        p: [scale if len(p) == LENGTH - 1 and t == 0 else 0.0 for t in range(VOCABULARY)] for p in PREFIXES
    }


ADVERSARIES: dict[str, Callable[[], Table]] = {
    "exact cancellation of shared": lambda: negative(SHARED),
    "cancellation and beyond": lambda: tables(negative(SHARED), negative(POLICY)),
    "unbounded norm": lambda: random_table(5, 1e9),
    "towards the rarest": lambda: rare_token(1e6),
    "ends at once": lambda: end_only(1e3),
    "never ends": lambda: end_only(-1e3),
    "waits for the last token": lambda: late(1e4),
    "not a number": lambda: table(np.full(len(PREFIXES) * VOCABULARY, np.nan)),
    "overflows": lambda: table(np.tile([1e308, -1e308, 1e308, -1e308], len(PREFIXES))),
    "benign": lambda: random_table(6, 0.3),
}


@pytest.mark.parametrize("delta", [0.0, 0.5, 1.0, 2.0, 3.0, 10.0])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_no_answer_gets_more_than_e_to_the_delta(name: str, delta: float) -> None:
    found = ratios(POLICY, tables(POLICY, ADVERSARIES[name]()), Budget(delta))
    assert found.max() <= delta + 1e-9


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0, 3.0])
def test_the_bound_is_reached(delta: float) -> None:
    """Delta is what is spent: for each of these adapters some answer gets it all."""
    for name in ("unbounded norm", "towards the rarest", "cancellation and beyond"):
        found = ratios(POLICY, tables(POLICY, ADVERSARIES[name]()), Budget(delta))
        assert found.max() == pytest.approx(delta, abs=1e-6), name


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0])
def test_the_temperature_is_applied_to_both_before(temperature: float) -> None:
    personal = tables(POLICY, rare_token(50.0))
    assert ratios(POLICY, personal, Budget(1.0), temperature).max() == pytest.approx(1.0, abs=1e-6)


def test_a_temperature_on_the_mixture_would_break_the_bound() -> None:
    """Why it is applied before: sharpening what was drawn from multiplies the log-ratio."""
    shared, left = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([1.0]).double()
    step = spend(shared, torch.tensor([[0.0, 5.0]]).double(), left)
    sharpened = (step.log_probs / 0.2).log_softmax(1)
    assert (sharpened - (shared / 0.2).log_softmax(1)).max() > 1.5


def test_impossible_answers_stay_impossible() -> None:
    """`ratios` asserts it: no answer that holds a forbidden token gets any weight."""
    forbidden = {
        p: [-math.inf if t == len(p) % END else x for t, x in enumerate(POLICY[p])] for p in PREFIXES
    }
    for build in ADVERSARIES.values():
        personal = tables(POLICY, build())  # the personal policy does not forbid it
        found = ratios(forbidden, personal, Budget(5.0))
        assert len(found) < len(answers())
        assert found.max() <= 5.0 + 1e-9


@pytest.mark.parametrize("budget", [Budget(2.0, gate=0.4), Budget(2.0, step=0.7), Budget(2.0, 0.2, 0.9)])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_gates_and_shares_keep_the_bound(name: str, budget: Budget) -> None:
    assert ratios(POLICY, tables(POLICY, ADVERSARIES[name]()), budget).max() <= 2.0 + 1e-9


def test_any_event_is_at_most_e_to_the_delta_as_likely() -> None:
    """Violations are a set of answers: its probability obeys the same bound (here a rare set, exactly)."""
    bad = [y for y in answers() if y[:2] == (0, 1)]
    delta, theirs = 1.0, law(POLICY, POLICY, Budget(0.0))
    floor = sum(math.exp(theirs[y]) for y in bad)
    pull = {
        p: [1e6 * (t == (0, 1)[len(p)]) if len(p) < 2 else 0.0 for t in range(VOCABULARY)] for p in PREFIXES
    }
    ours = law(POLICY, tables(POLICY, pull), Budget(delta))
    rate = sum(math.exp(ours[y]) for y in bad)
    assert floor * 2 < rate <= math.exp(delta) * floor + 1e-12
    free = law(tables(POLICY, pull), tables(POLICY, pull), Budget(0.0))
    assert sum(math.exp(free[y]) for y in bad) > 0.999  # undefended, the adapter always violates


entries = (
    st.floats(-1e15, 1e15) | st.floats(-8, 8) | st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e300])
)


@settings(max_examples=60)
@given(
    st.lists(entries, min_size=VOCABULARY, max_size=3 * VOCABULARY),
    st.floats(0, 12),
    st.integers(0, 2**20),
    st.booleans(),
)
def test_any_adapter_keeps_the_bound(values: list[float], delta: float, seed: int, cancel: bool) -> None:
    """Any numbers at all, dealt over the prefixes, on top of shared or of its exact cancellation."""
    order = np.random.default_rng(seed).integers(0, len(values), len(PREFIXES) * VOCABULARY)
    private = table(np.array(values)[order])
    personal = tables(BASE, private) if cancel else tables(POLICY, private)
    assert ratios(POLICY, personal, Budget(delta)).max() <= delta + 1e-9
