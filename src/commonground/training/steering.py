"""What an algorithm adds to the local steps of the shared phase.

    y <- y - rate * opt(free * (g(y) + constant + pull * (y - u) + added(y)))   for the first `steps` steps

`constant` is SCAFFOLD's c - c_i, `pull` FedProx's mu, `steps` FedNova's tau_i, `free` the factor that RoLoRA
trains, `added` the gradient of HetLoRA's pull on the last components, and `start` the factor that a device of
FedSA-LoRA kept. Without a steering nothing is computed: the
plain path is bit for bit what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from commonground.training.model import Tensors
from commonground.training.people import along, choose, take


@dataclass
class Steering:
    """How one call of the shared phase is steered, and what it saw.

    Attributes:
        constant: name -> (P, *shape), added to every gradient; None adds nothing.
        pull: mu of (mu/2) ||y - u||^2, added to the loss.
        added: name -> (P, *shape) of where people are, added to the gradient; None adds nothing.
        free: name -> 1 where a number trains and 0 where it rests, of a shape that broadcasts; a name that is
            missing trains.
        start: name -> (P, *shape), where people begin instead of at u.
        steps: (P,) int64, local steps of each person; None = as many as the plan says.
        watch: keep the mean of the plain gradients in `seen`.
        seen: name -> (P, *shape), after the call: the mean over the local steps of g(y).
    """

    constant: Tensors | None = None
    pull: float = 0.0
    added: Callable[[Tensors], Tensors] | None = None
    free: Tensors | None = None
    start: Tensors | None = None
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
        if self.added is not None:
            more = self.added(current)
            gradient = {n: v + more[n] if n in more else v for n, v in gradient.items()}
        if self.free is not None:
            gradient = {n: v * self.free[n] if n in self.free else v for n, v in gradient.items()}
        return gradient

    def hold(self, after: Tensors, before: Tensors, step: int) -> Tensors:
        """`after`, except for the people whose steps are spent."""
        if self.steps is None:
            return after
        return choose(step < self.steps, after, before) if after else after


def only(people: torch.Tensor, update: Tensors) -> Tensors:
    """`update` for the people of a (P,) bool, zero for the others."""
    return {name: torch.where(along(people, value), value, 0.0) for name, value in update.items()}


def begin(shared: Tensors, people: int, steering: Steering | None) -> Tensors:
    """Where people begin, name -> (P, *shape): at the round's `shared` unless a steering says otherwise."""
    start = take(shared, people)
    return start if steering is None or steering.start is None else start | steering.start
