r"""The safety gate around any strategy: accept what a round proposes, repair it, or roll it back.

    allowed_t = min(best accepted loss, best loss of the shadow w_1..w_t) + tolerance
    accept      c                                    where L(c) <= allowed_t
    repair      c' = c - rate grad T, at most `steps` times, until L(c') <= allowed_t;
                taken where it gets there, or is at least no worse than u_t
    roll back   u_{t+1} = u_t otherwise, and where c is not finite

c is what the strategy proposes, clipped, summed and noised; L is the mean -log probability of the safe answer
(nats) on public pairs, T the run's loss on them. The shadow w is what the server reaches alone, with `steps`
public steps a round from the first adapter. Without it a poisoned run that only learns more slowly, or
settles at a worse place, would never lose anything it once had, and pass. Nothing of a person is read but
the released c, so the gate is post-processing and costs no privacy. Server-side safety
training as a defence: Ye, Chai, Liu, Yang, Wang, Chen, 2024, arXiv 2406.10630.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from flwr.serverapp.strategy import Strategy

from commonground.errors import StrategyError
from commonground.own_code import import_code
from commonground.strategies.around import Around
from commonground.strategies.server_half import Arrays, adapter
from commonground.strategies.state import State

ACTIONS = ("accepted", "repaired", "rolled_back")
PUBLIC = "commonground.simulations.public_safety:public_safety"


class PublicSafety(Protocol):
    """Public safety pairs; none of them may be in a test."""

    def score(self, shared: Arrays) -> tuple[float, float]:
        """(mean -log probability of the safe answer in nats, accuracy) of a shared adapter."""
        ...

    def gradient(self, shared: Arrays) -> Arrays:
        """Gradient of the mean loss that repairs."""
        ...


@dataclass(frozen=True)
class Decision:
    """What the gate did in a round, in numbers; a loss that is not finite is None.

    Attributes:
        action: accepted | repaired | rolled_back.
        reason: in words.
        proposed, proposed_accuracy: of what the strategy proposed.
        allowed: the largest loss that would have been accepted.
        loss, accuracy: of the adapter that goes on.
        steps: repair steps taken.
    """

    action: str
    reason: str
    proposed: float | None
    proposed_accuracy: float | None
    allowed: float | None
    loss: float
    accuracy: float
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for events.jsonl."""
        return {
            key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()
        }


class SafetyGate(Around):
    """See the module's text.

    Args:
        inner: the strategy.
        tolerance: loss that a proposal may lose, nats.
        steps: most repair steps of a round, and the shadow's steps a round.
        rate: their size.
        public: the public pairs, or "module:function" that gives them.
    """

    def __init__(
        self,
        inner: Strategy,
        *,
        tolerance: float,
        steps: int,
        rate: float,
        public: PublicSafety | str = PUBLIC,
    ) -> None:
        super().__init__(inner)
        self.tolerance, self.steps, self.rate = tolerance, steps, rate
        self._pairs = public
        self._shadow: Arrays | None = None
        self._best = math.inf  # of what was accepted, and of the shadow
        self.counts = dict.fromkeys(ACTIONS, 0)
        self.decision: Decision | None = None  # of the round under way

    @property
    def public(self) -> PublicSafety:
        """The public pairs, found when they are first needed."""
        if isinstance(self._pairs, str):
            self._pairs = _named(self._pairs)
        return self._pairs

    def settled(self, round: int, start: Arrays, candidate: Arrays) -> Arrays | None:
        """Accept, repair or roll back."""
        kept, kept_accuracy = self._score(start)
        if not math.isfinite(kept):
            raise StrategyError(f"round {round}: gate.public gives the loss {kept} where the round began")
        self._advance(start, kept)
        allowed = self._best + self.tolerance
        proposed, accuracy = self._score(candidate)
        found, loss, right, steps = candidate, proposed, accuracy, 0
        while steps < self.steps and allowed < loss < math.inf:
            found = candidate | self._stepped(adapter(found))
            (loss, right), steps = self._score(found), steps + 1
        if loss <= max(allowed, kept) and math.isfinite(loss):
            action = "repaired" if steps else "accepted"
        else:
            action, loss, right = "rolled_back", kept, kept_accuracy
        self._best = min(self._best, loss)
        self.counts[action] += 1
        self.decision = Decision(
            action, self._why(action, proposed, allowed, loss, steps), _finite(proposed),
            _finite(accuracy) if math.isfinite(proposed) else None, _finite(allowed), loss, right, steps,
        )  # fmt: skip
        return None if action == "rolled_back" else found

    def _advance(self, start: Arrays, kept: float) -> None:
        """The shadow's steps of this round, and the best loss that is known to be within reach."""
        shadow = adapter(start) if self._shadow is None else self._shadow
        for _ in range(self.steps):
            further = self._stepped(shadow)
            if not _in_float32(further):  # a rate at which public training itself diverges
                break
            shadow = further
        self._shadow = shadow
        reached = self._score(shadow)[0]
        self._best = min(self._best, kept, reached if math.isfinite(reached) else math.inf)

    def _stepped(self, shared: Arrays) -> Arrays:
        slope = self.public.gradient(shared)
        return {name: value - self.rate * slope[name] for name, value in shared.items()}

    def _score(self, arrays: Arrays) -> tuple[float, float]:
        """(loss, accuracy); an infinite loss where a number is not finite, or would not be on a device."""
        if not _in_float32(arrays):
            return math.inf, 0.0
        loss, accuracy = self.public.score(adapter(arrays))
        return (float(loss), float(accuracy)) if math.isfinite(loss) else (math.inf, 0.0)

    def _why(self, action: str, proposed: float, allowed: float, loss: float, steps: int) -> str:
        if not math.isfinite(proposed):
            return "what was proposed is not finite"
        if action == "accepted":
            return f"public safety loss {proposed:.4f} is within {allowed:.4f}"
        found = f"public safety loss {proposed:.4f} is above {allowed:.4f}"
        if action == "repaired":
            return f"{found}; {loss:.4f} after {steps} public steps"
        return f"{found}, and {steps} public steps leave it worse than the {loss:.4f} of the last accepted"

    def state_dict(self) -> State:
        """The rule's state, the shadow, and what was best."""
        return {
            **super().state_dict(),
            "shadow": None if self._shadow is None else {n: v.copy() for n, v in self._shadow.items()},
            "best": self._best if math.isfinite(self._best) else None,
            "counts": dict(self.counts),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        super().load_state_dict(state)
        kept = state["shadow"]
        # A tensor of one number has become a plain number on the way through the file.
        self._shadow = None if kept is None else {n: np.asarray(v, np.float64) for n, v in kept.items()}
        self._best = math.inf if state["best"] is None else float(state["best"])
        self.counts = {action: int(state["counts"][action]) for action in ACTIONS}


def _in_float32(arrays: Arrays) -> bool:
    """Whether every number is one in the dtype that is broadcast."""
    largest = np.finfo(np.float32).max
    return all(bool((np.abs(value) <= largest).all()) for value in arrays.values())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _named(name: str) -> PublicSafety:
    """What `module:function` gives; raises `InputError` where it cannot be imported."""
    found: Callable[[], PublicSafety] = import_code(name, "gate.public")
    return found()
