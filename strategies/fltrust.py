r"""FLTrust: trust people as far as they agree with a public root set.

    g_0 = the server's own update on the root set;   t_i = max(cos(x_i, g_0), 0)
    u <- u + sum_i t_i (||g_0|| / ||x_i||) x_i / sum_i t_i,   and u stays where every t_i is 0

Cao, Fang, Liu, Gong, NDSS 2021, arXiv 2012.13995. The root set is public: by default the starter safety
pairs, on which the server trains exactly as a device does. Every update is brought to the length of g_0, so
size buys nothing; a direction that the root set knows nothing of is trusted as little as a bad one. It
looks at replies one by one: with secure summation devices would have to score themselves, and a liar would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from commonground.errors import InputError
from commonground.own_code import OURS, import_code
from commonground.strategies.server_half import Arrays, ServerHalf, flat, unflat

Root = Callable[[Arrays, int], Arrays]  # (shared adapter, round) -> the update of the root set


class FLTrust(ServerHalf):
    """The whole algorithm: devices send their plain updates.

    Args:
        root: "module:function" that gives the root update at a shared adapter in a round, name -> array; one
            of the user's own only where she asked for it (see `commonground.own_code`).
    """

    individual = True

    def __init__(self, root: str = "commonground.simulations.root:safety_root") -> None:
        super().__init__()
        self.root = root
        if root not in OURS:  # a device builds this class for its half, and needs no root set
            _root(root)

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        found = _root(self.root)({name: value.copy() for name, value in start.items()}, self.round)
        trusted = flat({name: np.asarray(found[name], np.float64) for name in start})
        together = trusted_mean(np.stack([flat(move) for move in moves]), trusted)
        return {name: value + start[name] for name, value in unflat(together, start).items()}


def trusted_mean(updates: np.ndarray, root: np.ndarray) -> np.ndarray:
    """(d,) FLTrust aggregate of (n, d) updates and the (d,) root update; zero where nobody is trusted."""
    norms, size = np.linalg.norm(updates, axis=1), float(np.linalg.norm(root))
    safe = np.where(norms > 0, norms, 1.0)
    trust = np.maximum(updates @ root / (safe * (size or 1.0)), 0.0)
    if not trust.sum() > 0:
        return np.zeros_like(root)
    return np.asarray((trust * size / safe) @ updates / trust.sum())


def _root(name: str) -> Root:
    found: Root = import_code(name, "strategy.options.root")
    if not callable(found):
        raise InputError(
            f"{name!r}, a {type(found).__name__}; a function is needed", key="strategy.options.root"
        )
    return found
