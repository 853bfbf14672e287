"""People who lie about how badly the shared adapter serves them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from commonground.training.client_half import Visit


@dataclass(frozen=True)
class LyingVisit(Visit):
    """A visit in which some people claim another loss than theirs.

    Attributes:
        claim: (P,) float32, nats; NaN of those who tell the truth.
    """

    claim: Tensor

    def surprise(self) -> Tensor:
        """See `Visit`; a strategy's own bound on a loss still applies to what comes out."""
        return torch.where(torch.isnan(self.claim), super().surprise(), self.claim)


def lying(visit: Visit, attackers: frozenset[int], claim: float) -> Visit:
    """The same visit, in which these people claim `claim`."""
    people = visit.people.index
    if attackers.isdisjoint(people):
        return visit
    claims = [claim if person in attackers else float("nan") for person in people]
    return LyingVisit(
        **{f.name: getattr(visit, f.name) for f in fields(Visit)},
        claim=torch.tensor(claims, dtype=torch.float32),
    )
