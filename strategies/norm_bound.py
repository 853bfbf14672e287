r"""A bound on the step of any strategy, and on people's moves where it sees them one by one.

    u_{t+1} = u_t + s min(1, B / ||s||),   s = inner(u_t, ...) - u_t;      x_i <- x_i min(1, B / ||x_i||)

Sun, Kairouz, Suresh, McMahan 2019, arXiv 1911.07963. B is a public number (`strategy.norm_bound`, inf = off).
The step is the shared adapter's alone; a person's move is everything that the person sent. Under a claim the
clip bounds every message already and B says how far one round may go; without a claim (epsilon = inf, where
nobody is clipped) it is what stops a single person in rules that look at people one by one. A step that is
not finite is no step, and the rule forgets it.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Message
from flwr.serverapp.strategy import Strategy

from commonground.clipping import joint_norm
from commonground.errors import InputError
from commonground.strategies.around import Around
from commonground.strategies.records import from_record, to_record
from commonground.strategies.server_half import Arrays, adapter


class NormBound(Around):
    """See the module's text.

    Args:
        inner: the strategy.
        bound: B, in units of an update.
        individual: the strategy sees people's moves one by one.
    """

    def __init__(self, inner: Strategy, bound: float, *, individual: bool = False) -> None:
        super().__init__(inner)
        if not bound > 0:
            raise InputError(f"{bound:g}; accepted: above 0 (inf = no bound)", key="strategy.norm_bound")
        self.bound, self.individual = bound, individual

    def seen(self, replies: list[Message]) -> list[Message]:
        """Moves no longer than B."""
        if not self.individual:  # one reply, the mean; its step is bounded behind the rule
            return replies
        for reply in replies:
            key = next(iter(reply.content.array_records))
            sent = from_record(reply.content[key])
            moved = bounded({name: sent[name] - value for name, value in self._start.items()}, self.bound)
            reply.content[key] = to_record({name: value + moved[name] for name, value in self._start.items()})
        return replies

    def settled(self, round: int, start: Arrays, candidate: Arrays) -> Arrays | None:
        """See the module's text."""
        step = {name: value - start[name] for name, value in adapter(candidate).items()}
        if not all(np.isfinite(value).all() for value in step.values()):
            return None
        if joint_norm(step) <= self.bound:
            return candidate
        short = bounded(step, self.bound)
        return candidate | {name: start[name] + value for name, value in short.items()}


def bounded(move: Arrays, bound: float) -> Arrays:
    """A move of L2 norm at most `bound` over all its tensors, in its own direction; zeros if not finite."""
    norm = joint_norm(move)
    if not np.isfinite(norm):
        return {name: np.zeros_like(value) for name, value in move.items()}
    factor = bound / norm if norm > bound else 1.0
    return {name: value * factor for name, value in move.items()}
