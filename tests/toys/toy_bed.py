"""The quadratic test bed of methods D, with both halves of every strategy at work.

Person i has F_i(x) = h_i ||x - m_i||^2 / 2 over the tensors of the shared adapter, and one comparison that is
surprising by exactly F_i nats. Messages go through the manifest as a device's do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Error, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from commonground.grid import grid_step
from commonground.losses import LossSettings
from commonground.manifest import Manifest, Sealed, TensorSpec, seal
from commonground.own_code import allow_code
from commonground.sealing import clip_for
from commonground.simulations.grid import InProcessGrid
from commonground.strategies.person_dp import Arrays, PersonLevel
from commonground.strategies.records import from_record, to_record, train_content
from commonground.strategies.registry import client_half, get_strategy, is_linear
from commonground.training.client_half import Visit, answer, initial, split
from commonground.training.model import Batch, Rows, Tensors
from commonground.training.people import People, along
from commonground.training.plan import Plan, PrivatePlan, SharedPlan

SHAPES: dict[str, tuple[int, ...]] = {"a": (3,), "b": (2, 2), "c": ()}
ONE: dict[str, tuple[int, ...]] = {"x": ()}
SETTINGS = LossSettings(beta=1.0)
ROOTS: list[Bed] = []  # the bed whose mean update is FLTrust's root


class Bed:
    """A `PreferenceModel` of P people; `h` is (P,), `m` name -> (P, *shape)."""

    kind = "toy"

    def __init__(self, h: Sequence[float], m: Mapping[str, np.ndarray]) -> None:
        self.h = torch.tensor(h, dtype=torch.float32)
        self.m = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in m.items()}

    def shared_spec(self) -> dict[str, tuple[int, ...]]:
        """The shapes of m."""
        return {name: tuple(value.shape[1:]) for name, value in self.m.items()}

    def scores(self, rows: Rows, shared: Tensors | None, private: Tensors | None) -> tuple[Tensor, Tensor]:
        """A margin whose -log sigmoid is F, and zero at the base policy."""
        zero = torch.zeros(rows.index.shape)
        if shared is None:
            return zero, zero
        return -torch.log(torch.expm1(self.losses(rows.index[:, 0], shared)))[:, None] + zero, zero

    def losses(self, people: Tensor, shared: Tensors) -> Tensor:
        """(P,) F of people at points."""
        apart = [
            (value - self.m[name][people]).square().reshape(len(people), -1).sum(1)
            for name, value in shared.items()
        ]
        return 0.5 * self.h[people] * sum(apart)

    def batch(self, rows: Rows, part: str, frozen: Tensors | None) -> Batch:
        """The rows."""
        return Batch(rows, "shared", frozen)

    def gradient_sums(
        self, batch: Batch, trained: Tensors, loss: Any, settings: Any, weights: Tensor, clip: Any = None
    ) -> Tensors:
        """h (x - m), as many times as the weights add up to."""
        people, total = batch.rows.index[:, 0], weights.sum(1)
        return {
            name: along(total * self.h[people], value) * (value - self.m[name][people])
            for name, value in trained.items()
        }

    def over(self, order: Sequence[int]) -> Bed:
        """The same people under other numbers."""
        return Bed(self.h[list(order)].tolist(), {n: v[list(order)].numpy() for n, v in self.m.items()})


def plan(steps: int = 10, rate: float = 0.1) -> Plan:
    """SGD on the tag safety; nothing private."""
    shared = SharedPlan(("safety",), steps, rate, None, "bradley_terry", SETTINGS)
    private = PrivatePlan(("taste",), 1, 1, 1.0, 1, 1.0, 0.0, 0.1, 0.0, "bradley_terry", SETTINGS)
    return Plan(shared, private)


def one_d(h: Sequence[float], m: Sequence[float]) -> Bed:
    """A bed over one number."""
    return Bed(h, {"x": np.asarray(m)})


def spread(people: int, seed: int = 0, size: float = 1.0, around: float = 1.0) -> Bed:
    """People whose curvatures and centres differ."""
    rng = np.random.default_rng(seed)
    m = {name: around + size * rng.standard_normal((people, *shape)) for name, shape in SHAPES.items()}
    return Bed(rng.uniform(0.5, 1.5, people).tolist(), m)


def alike(people: int, at: float) -> Bed:
    """People who all want the same."""
    return Bed([1.0] * people, {name: np.full((people, *shape), at) for name, shape in SHAPES.items()})


@dataclass
class Run:
    """A strategy at work on a bed, round by round.

    Attributes:
        name, options: the strategy.
        bed: the people.
        clip: of the manifest.
        changes: arguments of the wrapper that differ from everybody drawn without noise.
        plan: of local updates.
        counts: (P,) comparisons of each person; 0 is somebody with nothing to learn from.
        groups: (P,) numbers of people's groups.
    """

    name: str
    bed: Bed
    options: dict[str, Any] = field(default_factory=dict)
    clip: float = 1e6
    changes: dict[str, Any] = field(default_factory=dict)
    plan: Plan = field(default_factory=plan)
    counts: Sequence[int] | None = None
    groups: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Build both halves, the manifest and the wrapper."""
        if self.name == "fltrust":
            self.options = {"root": allow_code("toy_bed:root"), **self.options}
            ROOTS[:] = [self.bed]
        self.people = len(self.bed.h)
        self.counts = self.counts or [1] * self.people
        self.groups = self.groups or [p % 2 for p in range(self.people)]
        self.number = max(self.groups) + 1
        self.half = client_half(self.name, self.options)
        spec = self.bed.shared_spec()
        sent, received = (spec, {}) if self.half is None else self.half.travels(spec, self.number)
        self.manifest = Manifest(
            tuple(TensorSpec(n, s) for n, s in sent.items()),
            self.clip,
            received=tuple(TensorSpec(n, s) for n, s in received.items()),
            grid=grid_step(self.changes.get("noise_multiplier", 0.0) * self.clip, self.clip),
        )
        self.kept: dict[int, dict[int, dict[str, np.ndarray]]] = {p: {} for p in range(self.people)}
        self.wrapper = self.wrap()
        self.nodes = InProcessGrid(ClientApp(), self.people)
        self.messages: dict[int, Sealed] = {}

    def wrap(self) -> PersonLevel:
        """A fresh wrapper."""
        settings = {
            "people": self.people,
            "q": 1.0,
            "m": float(self.people),
            "noise_multiplier": 0.0,
            "seed": 3,
            "rounds": 4,
            "individual": not is_linear(self.name),
        } | self.changes
        return PersonLevel(get_strategy(self.name, self.options), self.manifest, **settings)

    def first(self, at: float = 0.0) -> Arrays:
        """What the server sends first; every number of the adapter is `at`."""
        spec = self.bed.shared_spec()
        own = {name: np.full(shape, at, np.float32) for name, shape in spec.items()}
        return own | initial(self.half, spec, self.number)

    def visit(self, round: int, people: Sequence[int], shared: Mapping[str, np.ndarray]) -> Visit:
        """What the devices of these people see."""
        assert self.counts is not None
        assert self.groups is not None
        spec = self.bed.shared_spec()
        own, received = split({n: torch.from_numpy(np.array(v)) for n, v in shared.items()}, spec)
        rows = tuple(
            {"safety": np.full(self.counts[p], p, np.int64), "taste": np.zeros(0, np.int64)} for p in people
        )
        kept = {} if self.half is None else self.half.kept(spec)
        before = [self._before(p, round) for p in people]
        memory = {
            n: torch.from_numpy(np.stack([one.get(n, np.zeros(s, np.float32)) for one in before]))
            for n, s in kept.items()
        }
        groups = torch.tensor([self.groups[p] for p in people])
        crowd = People(tuple(people), rows)  # type: ignore[arg-type]
        known = (memory, groups, self.clip, None, self.plan, round)
        return Visit(self.bed, crowd, own, received, *known)  # type: ignore[arg-type]

    def train(self, round: int, people: Sequence[int], shared: Mapping[str, np.ndarray]) -> None:
        """Make people's messages, each clipped and sealed by itself, and keep what their devices keep."""
        if not people:
            return
        found = answer(self.half, self.visit(round, people, shared))
        for place, person in enumerate(people):
            update = {n: v[place].numpy() for n, v in found.update.items()}
            clipped = clip_for(self.manifest, update, self.manifest.clip)
            self.messages[person] = seal(self.manifest, clipped, round=round)
            if found.memory is not None:
                self.kept[person][round] = {n: v[place].numpy() for n, v in found.memory.items()}

    def round(
        self,
        round: int,
        shared: Arrays,
        *,
        silent: Iterable[int] = (),
        order: Callable[[list[Message]], object] = list,
        wrapper: PersonLevel | None = None,
        tamper: Callable[[int, Arrays], Arrays] = lambda person, update: update,
    ) -> Arrays:
        """One round; `silent` people answer with an error, `tamper` changes what arrives."""
        wrapper, quiet = wrapper or self.wrapper, set(silent)
        asked = list(wrapper.configure_train(round, to_record(shared), {}, self.nodes))
        drawn = {int(message.content["config"]["person"]): message for message in asked}
        self.train(round, sorted(drawn.keys() - quiet), shared)
        replies = []
        for person, message in drawn.items():
            if person in quiet:
                replies.append(Message(Error(1001, "constant"), reply_to=message))
                continue
            content = train_content(tamper(person, self.messages[person].tensors))
            replies.append(Message(content, reply_to=message))
        order(replies)
        return from_record(wrapper.aggregate_train(round, replies)[0])

    def rounds(self, count: int, shared: Arrays | None = None) -> Arrays:
        """Several rounds from the start."""
        shared = self.first() if shared is None else shared
        for number in range(1, count + 1):
            shared = self.round(number, shared)
        return shared

    def _before(self, person: int, round: int) -> dict[str, np.ndarray]:
        earlier = [number for number in self.kept[person] if number < round]
        return self.kept[person][max(earlier)] if earlier else {}


def root(shared: Mapping[str, np.ndarray], round: int) -> Arrays:
    """FLTrust's root update: the mean of what everybody would send."""
    run = Run("fedavg", ROOTS[0])
    found = run.visit(
        round,
        list(range(run.people)),
        run.first() | {n: np.asarray(v, np.float32) for n, v in shared.items()},
    )
    return {name: value.mean(0).numpy() for name, value in found.train()[0].items()}


def flat(arrays: Mapping[str, np.ndarray], names: Iterable[str] = SHAPES) -> np.ndarray:
    """The adapter's numbers, float64."""
    return np.concatenate([np.asarray(arrays[name], np.float64).ravel() for name in names])


def bits(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Every byte, extras included."""
    return b"".join(arrays[name].tobytes() for name in sorted(arrays))
