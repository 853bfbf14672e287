"""What each defence of a shared reward leaves, of safety under attack and of an owner's taste without one.

    shared alone   nobody has a private reward
    none           private rewards without a bound
    projection     private weights moved off the shared direction: no guarantee, and the saturating attacker
                   knows it, so that she learns in what is left and pushes five times as hard
    guard          shared decides every pair whose shared margin is above 2c
    bound          r_shared + c tanh(r_private / c), what is said of both answers taken off first
    bound apart    the same without taking it off: what a constant in a private reward costs

The oracle is no adapter: it moves every pair by all of 2c, always the wrong way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from commonground.bounds.reward import bounded_margin, bounded_reward
from commonground.simulations.bench.reward_splits import (
    FOLDS,
    Floats,
    Pairs,
    Rewards,
    Split,
    folds,
    learn_taste,
    off,
)

SATURATING, COMPLEMENT = 50.0, 5.0  # factors on an attacker's weights, as in the trial
PLAIN, STRONG, WORST, TASTE = "plain", "saturating", "oracle", "taste"
COLUMNS = (PLAIN, STRONG, WORST, TASTE)
SHARED, NONE, PROJECTION, CHOSEN = "shared alone", "none", "projection", "bound, c by rule"
CANDIDATES = (0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.75, 1.0)
KEPT = 0.55  # of a taste's gain that the rule asks for; half is the bar, and one in ten is left for chance
Table = dict[str, dict[str, float]]  # defence -> column -> accuracy
Defence = Callable[[Floats], Floats]  # private weights -> margins


def tried(
    pairs: Pairs, split: Split, found: Rewards, multiples: tuple[float, ...], rule: float
) -> tuple[Table, int]:
    """Accuracy on the pairs that measure.

    Args:
        pairs: all pairs.
        split: which measure.
        found: what was learned.
        multiples: of the median shared margin, each a c.
        rule: the multiple that `by_rule` gave.

    Returns:
        The table, and how many pairs lost their order though their shared margin is above 2c: none may.
    """
    test = Measuring(pairs.of(split.test), found)
    table: Table = {
        SHARED: {PLAIN: test.safe(test.margin), TASTE: test.liked(test.margin)},
        NONE: test.row(lambda weights: test.margin + test.moved(weights)),
        PROJECTION: {
            PLAIN: test.safe(test.margin + test.moved(off(found.attack, found.shared))),
            STRONG: test.safe(test.margin + test.moved(COMPLEMENT * found.hidden)),
            TASTE: test.liked(test.margin + test.moved(off(found.taste, found.shared))),
        },
    }
    broken = 0
    named = [(f"bound, c = {m:g}", m) for m in multiples] + [(CHOSEN, rule)]
    for name, multiple in named:
        limits = test.under(multiple * found.median)
        table[name] = test.row(limits.bounded) | {WORST: test.safe(test.margin - 2 * limits.c)}
        table[name.replace("bound", "guard")] = test.row(limits.guarded)
        table[name.replace("bound", "bound apart")] = test.row(limits.apart)
        for weights in (found.attack, SATURATING * found.attack, found.taste, 1e30 * found.attack):
            for after in (limits.bounded(weights), limits.apart(weights)):
                turned = np.sign(after) != np.sign(test.margin)
                broken += int((turned & (np.abs(test.margin) > 2 * limits.c)).sum())
    return table, broken


def by_rule(pairs: Pairs, split: Split, seed: int) -> float:
    """The multiple of the median that is used: the least of `CANDIDATES` that keeps `KEPT` of a taste's gain.

    Kept of the taste for shorter replies, which anybody can make of public pairs, by cross-validation within
    the pairs that shared learned from. No pair that measures is looked at.
    """
    inner = pairs.of(split.shared)
    fold = folds(len(split.shared), seed)
    shared, free, held = 0.0, 0.0, np.zeros(len(CANDIDATES))
    for k in range(FOLDS):
        rest = np.flatnonzero(fold != k).astype(np.int64)
        own = rest[: len(split.owner)]
        found = learn_taste(inner, Split(rest, own, np.flatnonzero(fold == k).astype(np.int64)), seed)
        test = Measuring(inner.of(np.flatnonzero(fold == k).astype(np.int64)), found)
        shared += test.liked(test.margin)
        free += test.liked(test.margin + test.moved(found.taste))
        held += [test.liked(test.under(m * found.median).bounded(found.taste)) for m in CANDIDATES]
    kept = (held - shared) / max(free - shared, 1e-12)
    fits = [multiple for multiple, part in zip(CANDIDATES, kept.tolist(), strict=True) if part >= KEPT]
    return min(fits, default=CANDIDATES[-1])


class Measuring:
    """Pairs that measure, under some private weights."""

    def __init__(self, pairs: Pairs, found: Rewards) -> None:
        self._chosen, self._rejected = pairs.chosen - found.centre, pairs.rejected - found.centre
        self._liking, self._found = pairs.shorter, found
        self.margin: Floats = (self._chosen - self._rejected) @ found.shared

    def row(self, under: Defence) -> dict[str, float]:
        """Both attacks and the taste under one defence."""
        return {
            PLAIN: self.safe(under(self._found.attack)),
            STRONG: self.safe(under(SATURATING * self._found.attack)),
            TASTE: self.liked(under(self._found.taste)),
        }

    def safe(self, margin: Floats) -> float:
        """How many pairs are in the order of safety; a tie counts half."""
        return float(np.where(margin == 0, 0.5, margin > 0).mean())

    def liked(self, margin: Floats) -> float:
        """How many pairs are in the order of the owner's taste."""
        told = self._liking != 0
        return self.safe(self._liking[told] * margin[told])

    def moved(self, weights: Floats) -> Floats:
        """Private margins without a bound."""
        return np.asarray((self._chosen - self._rejected) @ weights)

    def under(self, c: float) -> Limited:
        """What a bound of c makes of private weights."""
        sides = (self._chosen, self._rejected)
        return Limited(self.margin, sides, c)


@dataclass(frozen=True)
class Limited:
    """Margins under a bound, by private weights.

    Attributes:
        margin: (n,) shared margins.
        sides: centred features of the chosen and of the rejected replies, (n, D) each.
        c: of the bound.
    """

    margin: Floats
    sides: tuple[Floats, Floats]
    c: float

    def bounded(self, weights: Floats) -> Floats:
        """Those of the bounded reward."""
        chosen, rejected = (torch.from_numpy(side @ weights) for side in self.sides)
        return np.asarray(bounded_margin(torch.from_numpy(self.margin), chosen, rejected, self.c).numpy())

    def apart(self, weights: Floats) -> Floats:
        """Those of the bounded reward of each answer by itself."""
        zero = torch.zeros(len(self.margin), dtype=torch.float64)
        chosen, rejected = (
            bounded_reward(zero, torch.from_numpy(side @ weights), self.c) for side in self.sides
        )
        return np.asarray(self.margin + (chosen - rejected).clamp(-2 * self.c, 2 * self.c).numpy())

    def guarded(self, weights: Floats) -> Floats:
        """Shared decides pairs whose shared margin is above 2c; the private reward joins in below."""
        moved = (self.sides[0] - self.sides[1]) @ weights
        return np.where(np.abs(self.margin) > 2 * self.c, self.margin, self.margin + moved)
