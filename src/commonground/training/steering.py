"""What an algorithm adds to the local steps of the shared phase.

    y <- y - rate * opt(g(y) + constant + pull * (y - u))        for the first `steps` steps of each person

`constant` is SCAFFOLD's c - c_i, `pull` FedProx's mu, `steps` FedNova's tau_i. Without a steering nothing is
computed: the plain path is bit for bit what it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from commonground.training.model import Tensors
from commonground.training.people import along, choose


@dataclass
class Steering:
    """How one call of the shared phase is steered, and what it saw.

    Attributes:
        constant: name -> (P, *shape), added to every gradient; None adds nothing.
        pull: mu of (mu/2) ||y - u||^2, added to the loss.
        steps: (P,) int64, local steps of each person; None = as many as the plan says.
        watch: keep the mean of the plain gradients in `seen`.
        seen: name -> (P, *shape), after the call: the mean over the local steps of g(y).
    """

    constant: Tensors | None = None
    pull: float = 0.0
    steps: torch.Tensor | None = None
    watch: bool = False
    seen: Tensors = field(default_factory=dict)

    def turn(self, gradient: Tensors, current: Tensors, start: Tensors, step: int) -> Tensors:
        """The steered gradient of one local step; each argument name -> (P, *shape)."""
        if self.watch:
            before = self.seen or {name: torch.zeros_like(value) for name, value in gradient.items()}
            self.seen = {name: before[name] + (v - before[name]) / (step + 1) for name, v in gradient.items()}
        if self.constant is not None:
            gradient = {name: value + self.constant[name] for name, value in gradient.items()}
        if self.pull:
            gradient = {n: v + self.pull * (current[n] - start[n]) for n, v in gradient.items()}
        return gradient

    def hold(self, after: Tensors, before: Tensors, step: int) -> Tensors:
        """`after`, except for the people whose steps are spent."""
        if self.steps is None:
            return after
        return choose(step < self.steps, after, before) if after else after


def only(people: torch.Tensor, update: Tensors) -> Tensors:
    """`update` for the people of a (P,) bool, zero for the others."""
    return {name: torch.where(along(people, value), value, 0.0) for name, value in update.items()}
