"""The device's half of an algorithm, beside the local update that all algorithms share.

An algorithm that needs more than the update of the shared adapter declares it here: tensors that its devices
send (they enter the manifest, so they are clipped and noised jointly with the update), tensors that they only
receive, and what a device keeps between visits. The same code serves one device (P = 1) and a fleet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from commonground.clipping import joint_norms
from commonground.training.model import PreferenceModel, Rows, Tensors, rectangle
from commonground.training.people import People, take
from commonground.training.plan import Plan
from commonground.training.private_phase import PrivateState
from commonground.training.steering import Steering, only
from commonground.training.update import visit

Spec = dict[str, tuple[int, ...]]
EXTRA = "extra."  # what the names of all tensors beside the adapter begin with


@dataclass(frozen=True)
class Visit:
    """One visit of P people in one round, as a client half sees it.

    Attributes:
        model: the preference model.
        people: the P people.
        shared: the shared adapter, no person axis.
        received: every other tensor that the server sent, no person axis.
        memory: what these people's devices kept, name -> (P, *shape); zeros before the first visit.
        groups: (P,) int64, the number of each person's public group.
        clip: C, the norm that what they send is clipped to.
        state: their private states; None in the decoupled schedule, where nothing private is read.
        plan: the run's plan of local updates.
        round: the round, from 1.
    """

    model: PreferenceModel
    people: People
    shared: Tensors
    received: Tensors
    memory: Tensors
    groups: Tensor
    clip: float
    state: PrivateState | None
    plan: Plan
    round: int

    def train(self, steering: Steering | None = None) -> tuple[Tensors, PrivateState | None]:
        """The shared update name -> (P, *shape), and the private states that it already changed; once."""
        update, after = visit(
            self.model, self.people, self.shared, self.state, self.plan, self.round, steering
        )
        return (update if steering is None else only(self.learns, update)), after

    @property
    def learns(self) -> Tensor:
        """(P,) bool: who has a comparison of a shared tag."""
        tags = self.plan.shared.tags
        return torch.tensor([any(len(rows[tag]) for tag in tags) for rows in self.people.rows])

    def surprise(self) -> Tensor:
        """(P,) mean -log probability of what each person chose, nats, before this round's training.

        The probability is sigma(beta D), whatever loss is trained; every shared tag that a person has
        counts the same. ln 2 at the base policy; 0 for people without a comparison of a shared tag.
        """
        plan, count = self.plan.shared, len(self.people.index)
        parts = [rows[tag] for rows in self.people.rows for tag in plan.tags]
        sizes = np.array([len(part) for part in parts], dtype=np.int64).reshape(count, len(plan.tags))
        present = np.maximum((sizes > 0).sum(1, keepdims=True), 1)
        each = (1 / np.maximum(sizes, 1) / present).astype(np.float32)
        index, real = rectangle(np.concatenate([np.zeros(0, np.int64), *parts]), sizes.sum(1))
        weights, _ = rectangle(np.repeat(each.ravel(), sizes.ravel()), sizes.sum(1))
        mask = torch.from_numpy(real.astype(np.float32))
        rows = Rows(torch.from_numpy(index), mask, torch.zeros_like(mask))
        private = None if self.state is None else self.state.adapter
        chosen, rejected = self.model.scores(rows, take(self.shared, count), private)
        base_chosen, base_rejected = self.model.scores(rows, None, None)
        advantage = (chosen - base_chosen) - (rejected - base_rejected)
        losses = -logsigmoid(plan.settings.beta * advantage)
        # where and not times: what a model makes of padding need not be finite
        weighted = torch.where(mask > 0, losses * torch.from_numpy(weights), 0.0)
        return weighted.sum(1)


@dataclass(frozen=True)
class Answer:
    """What a client half answers.

    Attributes:
        update: every tensor that is sent, the shared ones included, name -> (P, *shape); not yet clipped.
        after: the private states where the visit changed them already.
        memory: what the devices keep from now on, or None for a half without memory.
    """

    update: Tensors
    after: PrivateState | None = None
    memory: Tensors | None = None


class ClientHalf(ABC):
    """The device's half of one algorithm; `Spec` is name -> shape, names of extras begin with `extra.`."""

    groups = False  # whether it looks at people's public groups

    def sent(self, shared: Spec, groups: int) -> Spec:
        """What is sent beside the shared adapter, and broadcast under the same names."""
        return {}

    def received(self, shared: Spec, groups: int) -> Spec:
        """What devices only receive."""
        return {}

    def held(self, shared: Spec) -> tuple[str, ...]:
        """Names of tensors of the shared adapter that never leave a device; the server sends its own."""
        return ()

    def travels(self, shared: Spec, groups: int) -> tuple[Spec, Spec]:
        """All that is sent, and all that is only received; what is received is both, in this order."""
        held = self.held(shared)
        out = {name: shape for name, shape in shared.items() if name not in held}
        back = {name: shared[name] for name in held}
        return out | self.sent(shared, groups), back | self.received(shared, groups)

    def kept(self, shared: Spec) -> Spec:
        """What a device keeps between visits; zeros at first."""
        return {}

    def own(self, shared: Tensors, memory: Tensors) -> Tensors | None:
        """The shared adapter as devices use it, name -> (P, *shape); None where it is the server's.

        Args:
            shared: as the server sent it, no person axis.
            memory: what these people's devices kept, name -> (P, *shape).
        """
        return None

    def first(self, shared: Spec, groups: int) -> dict[str, np.ndarray]:
        """What the server sends in the first round, of the tensors that are not zero then."""
        return {}

    def bound(self, clip: float, private: bool) -> float | None:
        """L2 bound on what is sent, where the algorithm sets one.

        Args:
            clip: the run's own clip norm, `privacy.shared.clip`.
            private: whether there is a privacy claim, for which messages are clipped to `clip`.
        """
        return None

    @abstractmethod
    def update(self, visit: Visit) -> Answer:
        """Train, and say what is sent and kept; of people without shared comparisons nothing may show."""


def answer(half: ClientHalf | None, visit: Visit) -> Answer:
    """What the people of a visit answer; without a half of its own an algorithm sends the plain update."""
    if half is None:
        return Answer(*visit.train())
    found = half.update(visit)
    if held := half.held(visit.model.shared_spec()):
        return replace(found, update={n: v for n, v in found.update.items() if n not in held})
    return found


def initial(half: ClientHalf | None, shared: Spec, groups: int) -> dict[str, np.ndarray]:
    """Every tensor beside the shared adapter as the server sends it first, float32."""
    if half is None:
        return {}
    first = half.first(shared, groups)
    spec = half.sent(shared, groups) | half.received(shared, groups)
    return {n: np.asarray(first.get(n, np.zeros(shape)), np.float32) for n, shape in spec.items()}


def split(shared: Mapping[str, Tensor], spec: Mapping[str, object]) -> tuple[Tensors, Tensors]:
    """The tensors of a model's shared adapter, and the others, of what a server sent."""
    own = {name: shared[name] for name in spec}
    return own, {name: value for name, value in shared.items() if name not in spec}


def shrink(update: Tensors, clip: float) -> Tensor:
    """(P,) float32: what the manifest will multiply each person's message by, min(1, C / norm)."""
    norms = joint_norms({name: value.numpy() for name, value in update.items()})
    with np.errstate(invalid="ignore", divide="ignore"):
        factors = np.where(np.isfinite(norms), np.where(norms > clip, clip / norms, 1.0), 0.0)
    return torch.from_numpy(factors.astype(np.float32))
