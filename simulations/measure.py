"""What the policies of a run get right: the researcher's omniscient view, which no deployment has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from commonground.bounds.reward import bounded_margin
from commonground.simulations.world import World
from commonground.training.model import PreferenceModel, Rows, Tensors, person_rows

CHUNK = 64  # people scored at once


@dataclass(frozen=True)
class Policy:
    """A policy of every person: a model with a shared adapter, private adapters, both or none.

    Attributes:
        model: the model that the adapters belong to.
        shared: no person axis, or None for disabled.
        private: leading axis = the evaluated people in order, or None for disabled.
        used: leading axis as there, the shared adapter as each person's device uses it; None where that is
            `shared`.
        limit: c of the bounded reward: a private reward moves a margin by less than 2c; None = no bound.
    """

    model: PreferenceModel
    shared: Tensors | None = None
    private: Tensors | None = None
    used: Tensors | None = None
    limit: float | None = None

    @property
    def by_person(self) -> bool:
        """Whether two people have different policies."""
        return self.private is not None or self.used is not None

    def of(self, chosen: slice) -> tuple[Tensors | None, Tensors | None]:
        """Adapters of some of the evaluated people, with a leading axis each."""
        shared = None if self.shared is None else {k: v.unsqueeze(0) for k, v in self.shared.items()}
        shared = shared if self.used is None else {k: v[chosen] for k, v in self.used.items()}
        private = None if self.private is None else {k: v[chosen] for k, v in self.private.items()}
        return shared, private


def margins(world: World, policy: Policy, rows: np.ndarray) -> np.ndarray:
    """Margin chosen minus rejected of comparisons of evaluated people.

    Args:
        world: the run's world.
        policy: whose margins.
        rows: (n,) table rows, each owned by an evaluated person.

    Returns:
        (n,) float64: differences of rewards, or of log-probability ratios to the base policy in nats.
    """
    owner = world.owner[rows]
    result = np.zeros(len(rows))
    for first in range(0, len(world.evaluated), CHUNK):
        chosen = slice(first, first + CHUNK)
        places = [np.flatnonzero(owner == person) for person in world.evaluated[chosen]]
        if not any(len(place) for place in places):
            continue
        table = person_rows([rows[place] for place in places])
        shared, private = policy.of(chosen)
        count = table.people
        shared = None if shared is None else {k: v.expand(count, *v.shape[1:]) for k, v in shared.items()}
        difference = _difference(policy, table, shared, private).numpy()
        for p, place in enumerate(places):
            result[place] = difference[p, : len(place)]
    return result


def _difference(policy: Policy, rows: Rows, shared: Tensors | None, private: Tensors | None) -> Tensor:
    """(P, B) float64 margins of a chunk of people."""
    better, worse = policy.model.scores(rows, shared, private)
    if policy.limit is None or private is None:
        return (better - worse).double()
    plain = policy.model.scores(rows, shared, None)
    own = [side.double() - without.double() for side, without in zip((better, worse), plain, strict=True)]
    return bounded_margin((plain[0] - plain[1]).double(), own[0], own[1], policy.limit)
