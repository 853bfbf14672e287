r"""MaxMin over groups (agnostic federated learning): train for the group that is served worst.

    device:  sends (w_g (y - u), s F_i e_g, s e_g), clipped jointly to C;  g her group, w as received
    server:  u <- u + mean;  F_g = sum of losses / count, of g;  lam <- proj_simplex(lam + rate F);
             w_g = min(lam_g / p_g, cap),  p_g = count_g / sum of counts

F_i is the mean -log probability of what the person chose, before training, at most `highest` nats. Mohri,
Sivek, Suresh, ICML 2019, arXiv 1902.00146; for preferences: Chakraborty et al., ICML 2024, arXiv
2402.08925. Groups are public and few; people without a group form one. Losses and counts are released
inside the joint clip, never in clear, and averaged over rounds (`memory`) because one round's are noisy; a
group whose count is not above its noise keeps the mean loss of all and weight 1. With rate = 0 every w
stays 1, and where nobody is clipped this is FedAvg.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.nn.functional import one_hot

from commonground.strategies.server_half import Arrays, ServerHalf, between
from commonground.training.client_half import EXTRA, Answer, ClientHalf, Spec, Visit
from commonground.training.people import along

LOSS, COUNT, WEIGHT = f"{EXTRA}group_loss", f"{EXTRA}group_count", f"{EXTRA}group_weight"


class MaxMin(ServerHalf):
    """The server's half.

    Args:
        rate: step size of lam.
        cap: most that a person's update is weighed by.
        scale: s, how much of the clip the two scalars take.
        highest: bound on a person's loss, nats.
        memory: part of the old sums of losses and counts that is kept each round, in [0, 1).
    """

    def __init__(
        self,
        rate: float = 0.1,
        cap: float = 10.0,
        scale: float = 0.5,
        highest: float = 2.0,
        memory: float = 0.8,
    ) -> None:
        super().__init__()
        self.rate, self.cap = between("rate", rate, 0.0, np.inf), between("cap", cap, 1.0, np.inf)
        self.scale, self.highest = (
            between("scale", scale, 1e-6, np.inf),
            between("highest", highest, 0.1, np.inf),
        )
        self.memory = between("memory", memory, 0.0, 0.999)
        self.lam = np.zeros(0)
        self.sums = np.zeros((2, 0))

    def client_half(self) -> ClientHalf:
        """The device's half."""
        return MaxMinDevice(self.scale, self.highest)

    def step(self, start: Arrays, moves: Sequence[Arrays]) -> Arrays:
        """See the module's text."""
        (mean,) = moves
        found = np.stack([mean[LOSS], mean[COUNT]]) / self.scale
        groups = found.shape[1]
        if not len(self.lam):
            self.lam, self.sums = np.full(groups, 1 / groups), np.zeros((2, groups))
        self.sums = self.memory * self.sums + (1 - self.memory) * found
        # Deviation of the averaged sums, once the average has settled.
        noise = self.noise / self.scale * np.sqrt((1 - self.memory) / (1 + self.memory))
        losses, counts = self.sums
        seen = counts > max(2 * noise, 1e-9)
        if seen.any():
            overall = float(np.clip(losses[seen].sum() / counts[seen].sum(), 0, self.highest))
            each = np.where(seen, losses / np.where(seen, counts, 1), overall).clip(0, self.highest)
            self.lam = project_simplex(self.lam + self.rate * each)
            shares = np.where(seen, counts, 0) / counts[seen].sum()
        moved = {name: value + mean[name] for name, value in start.items()}
        moved |= {LOSS: np.zeros(groups), COUNT: np.zeros(groups)}
        if seen.any() and self.rate > 0:
            weights = np.divide(self.lam, shares, out=np.ones(groups), where=shares > 0)
            moved[WEIGHT] = np.minimum(weights, self.cap)
        return moved


class MaxMinDevice(ClientHalf):
    """The device's half; its arguments are the server's."""

    groups = True

    def __init__(self, scale: float, highest: float) -> None:
        self.scale, self.highest = scale, highest

    def sent(self, shared: Spec, groups: int) -> Spec:
        """One loss and one count a group."""
        return {LOSS: (groups,), COUNT: (groups,)}

    def received(self, shared: Spec, groups: int) -> Spec:
        """One weight a group."""
        return {WEIGHT: (groups,)}

    def first(self, shared: Spec, groups: int) -> dict[str, np.ndarray]:
        """Everybody counts the same."""
        return {WEIGHT: np.ones(groups)}

    def update(self, visit: Visit) -> Answer:
        """See the module's text."""
        moved, after = visit.train()
        weights = visit.received[WEIGHT]
        mine = one_hot(visit.groups, len(weights)).float() * visit.learns[:, None]
        loss = visit.surprise().clamp(max=self.highest)
        weight = weights[visit.groups]
        update = {name: along(weight, value) * value for name, value in moved.items()}
        return Answer(update | {LOSS: self.scale * loss[:, None] * mine, COUNT: self.scale * mine}, after)


def project_simplex(values: np.ndarray) -> np.ndarray:
    """The nearest point of {x >= 0, sum x = 1} to (n,) `values`; Duchi et al., ICML 2008."""
    ordered = np.sort(values)[::-1]
    over = (np.cumsum(ordered) - 1) / np.arange(1, len(values) + 1)
    threshold = over[np.flatnonzero(ordered > over)[-1]]
    return np.asarray(np.maximum(values - threshold, 0.0))
