r"""Person-level differential privacy around any Flower strategy.

    y_t = (1/m) (sum_{i in S_t} x_i + N(0, (z C)^2 I)),   u_{t+1} = inner(u_t, u_t + y_t)

x_i is the update that person i's device clipped to L2 norm C over all tensors together, S_t the cohort
drawn with independent coins of probability q, m = q N a FIXED denominator, z the noise multiplier, inner
any Flower strategy. DP-FedAvg: McMahan, Ramage, Talwar, Zhang, ICLR 2018, arXiv 1710.06963.

The inner strategy is given ONE reply, u_t + y_t with weight 1. Whatever it does with it (momentum, Adam)
is post-processing, so the wrapper and not the strategy carries the privacy. The client half is
`commonground.client.handlers`: clip, seal, send. What would silently break the claim, and what is done
about it here (methods B2): coins that depend on data (`cohort.py`); weights or a denominator from the
replies (fixed); one person counted twice (second reply refused); a round released again with fresh noise
(noise is keyed by the round, so a resumed round repeats itself).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from commonground.errors import EgressError, StrategyError
from commonground.manifest import Manifest
from commonground.strategies import together
from commonground.strategies.arrivals import arrivals, check_sum, people_within_reach
from commonground.strategies.central_noise import CentralNoise
from commonground.strategies.cohort import draw_cohort, under_cap
from commonground.strategies.quiet import quick_collections, quiet_flower
from commonground.strategies.records import ARRAYS, CONFIG, from_record, to_record, train_content
from commonground.strategies.state import State, restore_strategy, strategy_state
from commonground.strategies.together import serves_cohorts
from commonground.strategies.unasked import Unasked

Arrays = dict[str, np.ndarray]


class PersonLevel(Unasked):
    """The wrapper. Its arrays, counters and average are the run's; `inner` takes the server step.

    Args:
        inner: the strategy that takes the server step.
        manifest: what may leave a device; C is its `clip`.
        people: how many people there are; a person is an index below it.
        q: probability that a person is drawn in a round.
        m: the fixed denominator, q times the number of eligible people.
        noise_multiplier: z of the central noise; 0 where the devices add it or nobody does.
        seed: the run's seed.
        rounds: rounds of the whole run, for the average over its last half.
        eligible: people who may be drawn; None is everybody.
        individual: True for rules that must see one reply a person.
        average: keep the mean of the parameters over the last half of the rounds (Polyak and Juditsky,
            SIAM J. Control Optim. 1992); post-processing.
        participations: most rounds that one person takes part in (`trust=local`), or None.
        mechanism: the central noise; None is fresh noise each round at the manifest's clip.
        minimum: usable replies that a round needs; with fewer it is void and the parameters stay.
        device_noise: standard deviation of the noise that a device adds to each number (`trust=local`); what
            no honest device can have sent under it is refused.

    Raises:
        StrategyError: noise and rule, or noise and clip, do not go together.
    """

    def __init__(
        self,
        inner: Strategy,
        manifest: Manifest,
        *,
        people: int,
        q: float,
        m: float,
        noise_multiplier: float,
        seed: int,
        rounds: int,
        eligible: Sequence[int] | None = None,
        individual: bool = False,
        average: bool = False,
        participations: int | None = None,
        mechanism: CentralNoise | None = None,
        minimum: int = 0,
        device_noise: float = 0.0,
    ) -> None:
        if not m > 0:
            raise StrategyError(f"the denominator m is {m}; it is the expected cohort and must be above 0")
        if noise_multiplier > 0 and (individual or manifest.noise_on_device):
            raise StrategyError(
                f"central noise (z = {noise_multiplier}) does not go together with "
                + ("a rule that sees replies one by one" if individual else "noise on the device")
            )
        if noise_multiplier > 0 and not np.isfinite(manifest.clip):
            raise StrategyError(
                f"noise multiplier {noise_multiplier} needs a finite clip, not {manifest.clip}"
            )
        if (device_noise > 0) != manifest.noise_on_device:
            raise StrategyError(
                f"noise on the device is {manifest.noise_on_device} in the manifest, and its deviation is "
                f"{device_noise:g}; accepted: above 0 exactly where devices add it"
            )
        if noise_multiplier > 0 and manifest.grid == 0:
            raise StrategyError(
                f"noise multiplier {noise_multiplier} needs a manifest with a grid: off one, the low bits of "
                "the noise tell what it hides"
            )
        self.mechanism = mechanism or CentralNoise(noise_multiplier, manifest.clip, seed)
        if (manifest.bit is not None) != ("clip" in self.mechanism.asked) or (individual and manifest.bit):
            raise StrategyError(
                "an adapted clip needs a manifest with a bit, and a rule that works on the mean; the "
                f"bit is {manifest.bit}, the mechanism is {type(self.mechanism).__name__}"
            )
        self.inner, self.manifest, self.people = inner, manifest, people
        self.q, self.m, self.z, self.seed, self.rounds = q, m, noise_multiplier, seed, rounds
        self.eligible = np.arange(people) if eligible is None else np.array(eligible, np.int64)
        self.individual, self.average, self.participations = individual, average, participations
        self.minimum, self.device_noise = minimum, device_noise
        self._tell()
        self.taken_part = np.zeros(people, np.int64)
        self.counts = {"messages": 0, "bytes": 0, "refused": 0, "errors": 0, "skipped": 0}
        self.cohort: list[int] = []  # people of the round under way, ascending
        self.drawn: dict[int, int] = {}  # node id -> person, where they were asked one by one
        self.answered: list[int] = []  # people whose reply was used, ascending
        self.refused: dict[int, str] = {}  # of the round under way: person -> why its reply was not used
        # The parameters in float64; what is broadcast is their float32 cast, so that momentum and the
        # average never see the rounding.
        self._exact: Arrays | None = None
        self._sum: Arrays | None = None
        self._averaged = 0

    # -- one round ------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the cohort and address one message to each person of it, ascending by person.

        A grid that trains many people at once gets one message for all of them; see `together`.
        """
        current = from_record(arrays)
        shapes = {name: value.shape for name, value in current.items()}
        if shapes != {spec.name: spec.shape for spec in self.manifest.broadcast}:
            raise StrategyError(f"the arrays to broadcast have shapes {shapes}; the manifest differs")
        if self._exact is None or not same(self._cast(self._exact, server_round), current):
            specs = self.manifest.broadcast
            self._exact = {spec.name: current[spec.name].astype(np.float64) for spec in specs}
        self._tell()
        with quiet_flower():  # lets the inner strategy note where it stands; it samples nobody
            self.inner.configure_train(server_round, to_record(self._exact), ConfigRecord(dict(config)), grid)
        drawn = self.turn(server_round)
        self.taken_part[drawn] += 1
        self.cohort = drawn.tolist()
        shared: dict[str, int | str | float] = {"round": server_round, "manifest": self.manifest.digest}
        shared |= self.mechanism.asked
        if serves_cohorts(grid):
            each = {**shared, "each": self.individual}
            return [together.ask(together.TRAIN, 1, arrays, self.cohort, each)] if self.cohort else []
        # Node ids are random numbers in Flower's simulation, new in every run. A person is the rank of
        # the node's id, the same in every runtime; whose rank is whose does not matter, because a
        # device's data and state are looked up by the person and never by the node.
        nodes = sorted(grid.get_node_ids())
        if len(nodes) < self.people:
            raise StrategyError(f"{len(nodes)} nodes are connected; this run has {self.people} people")
        self.drawn = {nodes[person]: person for person in self.cohort}
        return [
            Message(
                RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord({**shared, "person": person})}),
                dst_node_id=node,
                message_type=MessageType.TRAIN,
            )
            for node, person in self.drawn.items()
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check, sum and noise the replies; hand the inner strategy one reply; cast what it gives back."""
        if self._exact is None:
            raise StrategyError("aggregate_train came before configure_train")
        received = list(replies)
        if received and received[0].metadata.message_type == together.TRAIN:
            updates, total = self._from_cohort(received)
        else:
            updates = self._checked(received)
            total = None if self.individual else self._total(updates)
        if len(self.answered) < self.minimum:
            # Nothing of this round is used or released, its noise neither.
            self.counts["skipped"] += 1
            return self._ended(server_round), None
        if total is None:
            proposals = [self._moved(update) for update in updates]
        else:
            proposals = [self._moved(self._noised_mean(server_round, total))]
        contents = [train_content(proposal) for proposal in proposals]
        messages = [Message(c, dst_node_id=0, message_type=MessageType.TRAIN) for c in contents]
        with quiet_flower(), quick_collections():
            result, metrics = self.inner.aggregate_train(server_round, messages)
        if result is None:  # too few replies for this rule: the parameters stay
            self.counts["skipped"] += 1
        else:
            self._exact = self._checked_result(server_round, from_record(result))
        return self._ended(server_round), metrics

    def turn(self, server_round: int) -> np.ndarray:
        """The people whose turn a round is, (n,) ascending: drawn of those who are eligible now."""
        drawn = draw_cohort(self.seed, server_round, self.eligible, self.q, self.mechanism.band)
        return under_cap(drawn, self.taken_part, self.participations)

    @property
    def current(self) -> Arrays:
        """The parameters as they are broadcast next, in the manifest's dtypes."""
        return self._cast(self._exact or {}, 0)

    @property
    def averaged(self) -> Arrays | None:
        """Mean over the last half of the rounds so far; None before it begins or without `average`."""
        if self._sum is None:
            return None
        return self._cast({name: value / self._averaged for name, value in self._sum.items()}, 0)

    def begin_anew(self, fresh: Strategy) -> None:
        """Forget where the rule came from: the next round begins with other parameters than this one left.

        Momentum and the average belong to the parameters that were given up. Who took part, what was counted
        and the noise go on: people have spent what they spent.

        Args:
            fresh: the inner strategy, as at the start.
        """
        self.inner, self._exact, self._sum, self._averaged = fresh, None, None, 0
        self._tell()

    # -- its parts ------------------------------------------------------------------------------------

    def _ended(self, round: int) -> ArrayRecord:
        """What is broadcast next, once it has gone into the average."""
        exact = self._exact or {}
        if self.average and round > self.rounds // 2:
            previous = self._sum or {name: np.zeros_like(value) for name, value in exact.items()}
            self._sum = {name: previous[name] + value for name, value in exact.items()}
            self._averaged += 1
        return to_record(self._cast(exact, round))

    def _tell(self) -> None:
        """Tell a server half that scales by q, or must know how loud the noise is."""
        if hasattr(self.inner, "attach"):
            self.inner.attach(q=self.q, noise=self.mechanism.scale / self.m)

    def _checked(self, replies: Iterable[Message]) -> list[Arrays]:
        """Usable updates ascending by person; errors and refusals are counted, never aggregated."""
        clip = self.mechanism.asked.get("clip")
        found = arrivals(replies, self.drawn, self.manifest, clip, self.device_noise)
        self.counts["errors"] += found.errors
        self.counts["refused"] += found.refusals
        self.counts["messages"] += len(found.updates)
        self.counts["bytes"] += sum(v.nbytes for one in found.updates.values() for v in one.values())
        self.refused, self.answered = found.refused, sorted(found.updates)
        return [found.updates[person] for person in self.answered]

    def _from_cohort(self, replies: Sequence[Message]) -> tuple[list[Arrays], np.ndarray | None]:
        """Updates one by one, or what they add up to, of the one reply of a grid that serves cohorts."""
        self.answered, self.refused, reply = [], {}, replies[0]
        if reply.has_error():
            self.counts["errors"] += 1
            return [], None if self.individual else self._total([])
        found = together.received(reply, self.manifest, each=self.individual)
        if not set(found.answered) <= set(self.cohort):
            raise EgressError("a cohort's reply holds somebody who was not drawn")
        if self.individual:
            found, self.refused = people_within_reach(found, self.manifest, self.device_noise)
        else:
            check_sum(found, self.manifest, self.device_noise)
        self.answered = found.answered
        self.counts["refused"] += found.refused
        self.counts["messages"] += len(found.answered)
        sizes = (int(np.prod(t.shape)) * np.dtype(t.dtype).itemsize for t in self.manifest.sent)
        self.counts["bytes"] += len(found.answered) * sum(sizes)
        if self.individual:
            people = range(len(found.answered))
            return [{name: value[p] for name, value in found.arrays.items()} for p in people], None
        return [], np.concatenate([value.ravel() for value in found.arrays.values()])

    def _total(self, updates: Sequence[Arrays]) -> np.ndarray:
        """(d,) float64, added up in the order of people: a sum of floats depends on its order.

        Where there is a bit, its sum is one number more at the end.
        """
        flat = np.zeros(self.manifest.size + (self.manifest.bit is not None), np.float64)
        for update in updates:
            flat += np.concatenate([update[t.name].ravel() for t in self.manifest.sent])
        return flat

    def _noised_mean(self, round: int, total: np.ndarray) -> Arrays:
        """y_t, float64, from what `_total` gives; the bits move the clip of the next round."""
        step = self.manifest.step(self.mechanism.asked.get("clip"))
        flat = self.mechanism.noised(round, total[: self.manifest.size], step)
        self.mechanism.count(round, float(total[self.manifest.size :].sum()))
        parts = np.split(
            flat / self.m, np.cumsum([int(np.prod(t.shape)) for t in self.manifest.tensors])[:-1]
        )
        return {t.name: part.reshape(t.shape) for t, part in zip(self.manifest.tensors, parts, strict=True)}

    def _moved(self, update: Arrays) -> Arrays:
        """u_t + update, float64: distances between replies would drown in float32."""
        # What a device only receives is no part of its update and stays until the inner strategy moves it.
        return {name: value + update.get(name, 0) for name, value in (self._exact or {}).items()}

    def _checked_result(self, round: int, result: Arrays) -> Arrays:
        exact: Arrays = {}
        for spec in self.manifest.broadcast:
            value = result.get(spec.name)
            if value is None or value.shape != spec.shape:
                shape = None if value is None else value.shape
                raise StrategyError(
                    f"round {round}: {type(self.inner).__name__} gave {spec.name!r} the shape {shape}; "
                    f"the manifest says {spec.shape}"
                )
            exact[spec.name] = value.astype(np.float64)
        return exact

    def _cast(self, exact: Mapping[str, np.ndarray], round: int) -> Arrays:
        dtypes = {spec.name: spec.dtype for spec in self.manifest.broadcast}
        with np.errstate(over="ignore"):
            cast = {name: np.asarray(value).astype(dtypes[name]) for name, value in exact.items()}
        broken = [name for name, value in cast.items() if not np.isfinite(value).all()]
        if broken:
            raise StrategyError(
                f"round {round}: {type(self.inner).__name__} gave a non-finite value in {broken[0]!r}",
                hint="lower the strategy's step size (strategy.options)",
            )
        return cast

    # -- state ----------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Everything a resumed run needs: arrays, numbers and texts, nothing pickled."""
        return {
            "inner": strategy_state(self.inner),
            "exact": None if self._exact is None else {k: v.copy() for k, v in self._exact.items()},
            "sum": None if self._sum is None else {k: v.copy() for k, v in self._sum.items()},
            "averaged": self._averaged,
            "taken_part": self.taken_part.copy(),
            "counts": dict(self.counts),
            **({"mechanism": kept} if (kept := self.mechanism.state_dict()) else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave, in a wrapper built with the same arguments."""
        restore_strategy(self.inner, state["inner"])
        # A tensor of one number has become a plain number on the way through the file.
        self._exact, self._sum = (
            None if state[key] is None else {n: np.asarray(v, np.float64) for n, v in state[key].items()}
            for key in ("exact", "sum")
        )
        self._averaged, self.taken_part = int(state["averaged"]), np.array(state["taken_part"], np.int64)
        self.counts = {name: int(count) for name, count in state["counts"].items()}
        if "mechanism" in state:
            self.mechanism.load_state_dict(state["mechanism"])

    def summary(self) -> None:
        """What the inner strategy says of itself, in Flower's log."""
        self.inner.summary()


def same(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """Whether two sets of arrays have the same names and the same numbers."""
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
