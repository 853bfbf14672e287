"""Splits of real safety comparisons, and the rewards that `bench reward-bound` learns from them.

Pairs of one conversation are on one side. Shared learns from every pair that does not measure; an owner, who
is an attacker or has a taste of her own, has some hundred of those, as in a federation, where she is one of
those who taught it. A reward is w . x over frozen embeddings of the replies alone: Bradley-Terry with the
ridge that cross-validation on the very pairs it learns from picks. A private reward is learned on top of the
frozen shared one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from commonground.evaluation.logistic import curvature_bound, fit, log_loss
from commonground.randomness import generator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)
FOLDS, OWNER, STEPS = 5, 400, 300


@dataclass(frozen=True)
class Pairs:
    """Comparisons of replies.

    Attributes:
        chosen: (n, D) embeddings of the safer replies.
        rejected: (n, D) of the others.
        shorter: (n,) 1 where the safer reply is the shorter one, -1 where it is the longer, else 0.
        conversation: (n,) which conversation a pair is from.
    """

    chosen: Floats
    rejected: Floats
    shorter: Floats
    conversation: Ints

    @property
    def x(self) -> Floats:
        """(n, D) chosen minus rejected."""
        return self.chosen - self.rejected

    def of(self, rows: Ints) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.chosen[rows], self.rejected[rows], self.shorter[rows], self.conversation[rows])


@dataclass(frozen=True)
class Split:
    """Rows of the pairs: what shared learns from, those of them that the owner has, what measures."""

    shared: Ints
    owner: Ints
    test: Ints


def halves(pairs: Pairs, count: int, seed: int) -> Iterator[Split]:
    """Half of the pairs measures, another half each time."""
    for k in range(count):
        order = _by_conversation(pairs, seed, "half", k)
        middle = _cut(pairs, order, len(order) // 2)
        yield _split(order[middle:], order[:middle])


def fifths(pairs: Pairs, count: int, seed: int) -> Iterator[Split]:
    """Each pair measures once in `count` splits: the most that there is to learn from."""
    order = _by_conversation(pairs, seed, "fifth", 0)
    ends = [_cut(pairs, order, len(order) * k // count) for k in range(count + 1)]
    for first, last in itertools.pairwise(ends):
        yield _split(np.concatenate([order[last:], order[:first]]), order[first:last])


LAYOUTS = {"fifths": fifths, "halves": halves}


def _split(shared: Ints, test: Ints) -> Split:
    return Split(shared, shared[: min(OWNER, len(shared) // 2)], test)


def _by_conversation(pairs: Pairs, seed: int, what: str, k: int) -> Ints:
    """Rows in a drawn order of conversations, each conversation's together."""
    places = generator(seed, "reward bound", what, k).permutation(int(pairs.conversation.max()) + 1)
    return np.argsort(places[pairs.conversation], kind="stable").astype(np.int64)


def _cut(pairs: Pairs, order: Ints, at: int) -> int:
    """The first place from `at` on where a conversation begins."""
    while 0 < at < len(order) and pairs.conversation[order[at]] == pairs.conversation[order[at - 1]]:
        at += 1
    return at


def learned(rows: Floats, offset: Floats, seed: int) -> tuple[Floats, Floats]:
    """Weights on differences, and the margins of rows that were left out, offset not counted.

    Args:
        rows: (n, D) differences, the preferred one first.
        offset: (n,) margins that are there already.
        seed: of the folds.

    Returns:
        (D,) weights fitted to all rows with the ridge of the least cross-validated log-loss, and (n,) margins
        of each row by the weights of the folds without it.
    """
    fold = folds(len(rows), seed)
    left_out = np.zeros((len(RIDGES), len(rows)))
    for k in range(FOLDS):
        here = fold == k
        for i, ridge in enumerate(RIDGES):
            left_out[i, here] = rows[here] @ _fit(rows[~here], offset[~here], ridge)
    best = int(np.argmin(log_loss(left_out + offset).mean(1)))
    return _fit(rows, offset, RIDGES[best]), left_out[best]


def folds(count: int, seed: int) -> Ints:
    """(count,) the fold of each row, drawn."""
    return generator(seed, "reward bound", "folds").permutation(count).astype(np.int64) % FOLDS


def _fit(rows: Floats, offset: Floats, ridge: float) -> Floats:
    x = rows[None]
    found: Floats = fit(x, ridge=ridge, bound=curvature_bound(x), offset=offset[None], steps=STEPS)[0]
    return found


@dataclass(frozen=True)
class Rewards:
    """What was learned in a split.

    Attributes:
        shared: (D,) shared weights.
        attack: (D,) an attacker's, learned from her pairs with every label flipped.
        hidden: (D,) likewise, moved off the shared direction while learning.
        taste: (D,) those of an owner who likes the shorter reply.
        centre: (D,) a public constant: the mean reply that shared learned from.
        median: median of the shared margins, without sign, of pairs that shared learned from, each left out
            in turn: c is a multiple of it.
    """

    shared: Floats
    attack: Floats
    hidden: Floats
    taste: Floats
    centre: Floats
    median: float


def learn(pairs: Pairs, split: Split, seed: int) -> Rewards:
    """Everything that is learned in a split; no pair that measures is looked at."""
    found = learn_taste(pairs, split, seed)
    own = pairs.x[split.owner]
    margin = own @ found.shared
    attack, _ = learned(-own, -margin, seed)
    hidden, _ = learned(-off(own, found.shared), -margin, seed)
    return replace(found, attack=attack, hidden=off(hidden, found.shared))


def learn_taste(pairs: Pairs, split: Split, seed: int) -> Rewards:
    """The same without an attacker, whose weights are zero."""
    shared, left_out = learned(pairs.x[split.shared], np.zeros(len(split.shared)), seed)
    own, liking = pairs.x[split.owner], pairs.shorter[split.owner]
    told, margin, none = liking != 0, own @ shared, np.zeros_like(shared)
    taste, _ = learned(liking[told, None] * own[told], liking[told] * margin[told], seed)
    replies = np.concatenate([pairs.chosen[split.shared], pairs.rejected[split.shared]])
    return Rewards(shared, none, none, taste, replies.mean(0), float(np.median(np.abs(left_out))))


def off(rows: Floats, direction: Floats) -> Floats:
    """Without their part along a direction."""
    unit = direction / max(float(np.linalg.norm(direction)), 1e-12)
    return np.asarray(rows - np.multiply.outer(rows @ unit, unit))
