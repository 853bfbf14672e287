"""What a server sees of a device, on the path of a real one, and what must hold of it whoever the person is.

The vault, its sockets, the app and the executor are the product's, without `Insecure`: noise comes from the
operating system, as on a person's machine. Only the operating system's randomness is another here: every call
gives the first bytes of one fixed stream, so that two runs can be compared byte for byte. Time is counted and
not measured: what sleeps or trains advances a clock of the test.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_vault
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity
from toy_node import bundle
from toy_vault import Vault, running
from toy_world import HashEncoder

from commonground.client import devices, vault_device
from commonground.client.app import app
from commonground.client.executor import Executor
from commonground.client.guard import CONSTANTS
from commonground.client.learner import Learner, seal_answer
from commonground.client.sockets import NODE, socket_folder
from commonground.client.tally import Tally
from commonground.comparisons import Comparison
from commonground.study.release import check_release
from commonground.training import features

Row = tuple[str, str, str]
ROUNDS = 2
WORK = 0.01  # seconds of the test's clock that a local update takes for each thing that she said
SAFETY: tuple[Row, ...] = (
    ("how do I fly", "stay on the ground, take a plane", "jump from the highest roof"),
    ("how is gunpowder made", "ask a licensed chemist", "mix it at home, like so"),
    ("may I drink this", "read the label, and call for help", "why not, try it"),
)


@dataclass(frozen=True)
class Person:
    """Who sits at the device: what she said."""

    taste: tuple[Row, ...] = ()
    safety: tuple[Row, ...] = SAFETY


QUIET = Person((("what is love", "a warm bath", "a contract under civil law"),))
TALKER = Person(
    tuple((f"Do I have HIV or is it stress, {k}", f"purple dragons {k}", f"grey {k}") for k in range(5))
)


@dataclass(frozen=True)
class Seen:
    """What a server sees of one answer: which question, when it left, and what was in it, in its order."""

    question: str
    delay: float
    constant: tuple[int, str] | None
    content: bytes
    tensors: dict[str, np.ndarray] = field(default_factory=dict, compare=False)


class FixedStream:
    """The operating system's randomness, the same bytes at every call."""

    def __call__(self, count: int) -> bytes:
        return hashlib.shake_256(b"a fixed stream").digest(count)


class Clock:
    """Seconds that something slept, or was said to work, since the test began."""

    def __init__(self) -> None:
        self.now, self._real = 0.0, time.sleep

    def sleep(self, seconds: float) -> None:
        """Advance; nobody waits."""
        self.now += seconds
        self._real(0)


class Tripwire:
    """A lock that notes who takes it."""

    def __init__(self) -> None:
        self._lock, self.taken = threading.RLock(), 0

    def __enter__(self) -> Tripwire:
        self.taken += 1
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class OneClaim:
    """A task of the node, as `commonground.client.runtime.Claim` gives it to the executor."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self.reply: Message | None = None

    def head(self) -> Message:
        return self._message

    def start(self) -> tuple[Context, str, bytes]:
        return Context(1, 1, {}, RecordDict(), {}), "0" * 64, bundle()

    def message(self, head: Message, most: Any) -> Message:
        return self._message

    def answer(self, reply: Message) -> None:
        self.reply = reply


class Stage:
    """One person's device, and a server that asks it a fixed list of questions.

    Attributes:
        box: the vault, its store, and the operator's pen.
        locks: how often the lock that chatting and learning hold was taken while a message was made.
    """

    def __init__(self, box: Vault, clock: Clock, folder: Path) -> None:
        self.box, self.clock, self.locks = box, clock, 0
        manifest = lambda: devices.open_device(0).manifest  # noqa: E731
        runtime: Any = None  # the claims are made by hand
        counts = Tally(folder / "refusals.json")
        self.executor = Executor(runtime, counts, app, manifest, clock=lambda: clock.now, wait=clock.sleep)
        self._releases = dict[int, str]()

    def arrays(self, round: int) -> dict[str, np.ndarray]:
        return self.box.operator.arrays(0.01 * round)

    def release(self, round: int) -> str:
        """A round's release, signed once."""
        if round not in self._releases:
            self._releases[round] = self.box.operator.release(round, self.arrays(round))
        return self._releases[round]

    def question(self, round: int, kind: str = "train", /, **config: Any) -> Message:
        """A round as the operator asks it."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        arrays = self.arrays(round)
        given = {"round": round, "person": 0, "manifest": self.box.operator.manifest.digest, "final": False}
        given["release"] = self.release(round)
        record = ArrayRecord({name: Array(a) for name, a in arrays.items()})
        content = RecordDict({"arrays": record, "config": ConfigRecord({**given, **config})})
        return Message(content, 1, kind)

    def script(self) -> Iterator[tuple[str, Message]]:
        """The questions: rounds, their private phases, and much that no honest server asks."""
        for round in range(1, ROUNDS + 1):
            yield f"round {round}", self.question(round)
            yield f"private {round}", self.question(round, "train.private", final=round == ROUNDS)
            yield f"again {round}", self.question(round)
            yield f"clip {round}", self.question(round, clip=1e9)
            yield f"manifest {round}", self.question(round, manifest="0" * 64)
            yield f"unsigned {round}", self.question(round, release="{}")
            yield f"round of words {round}", self.question(round, round="three")
            yield f"kind {round}", self.question(round, "evaluate")
        yield "late", self.question(ROUNDS + 1)
        yield "replayed", self.question(1)

    def ask(self, name: str, message: Message) -> Seen:
        """One question, and what its server sees."""
        claim, began = OneClaim(message), self.clock.now
        tripwire = Tripwire()
        before, self.box.server.rounds.model = self.box.server.rounds.model, tripwire  # type: ignore[assignment]
        try:
            self.executor._answer(claim)  # type: ignore[arg-type]
        finally:
            self.box.server.rounds.model = before
        if name.startswith("round"):
            self.locks += tripwire.taken
        reply, delay = claim.reply, round(self.clock.now - began, 6)
        assert reply is not None
        if reply.has_error():
            return Seen(name, delay, (reply.error.code, reply.error.reason), b"")
        tensors = {n: a.numpy() for n, a in reply.content.array_records.get("arrays", {}).items()}
        return Seen(name, delay, None, recorddict_to_proto(reply.content).SerializeToString(), tensors)


@contextmanager
def staged(person: Person, folder: Path, patch: pytest.MonkeyPatch, **changes: Any) -> Iterator[Stage]:
    """A device of a person, up, with the test's stream and clock; `changes` are of the study."""
    clock = Clock()
    with patch.context() as m:
        m.setattr(features, "Encoder", HashEncoder)
        m.setattr(os, "urandom", FixedStream())
        m.setattr(random, "_urandom", FixedStream())
        m.setenv("COMMONGROUND_DEVICE", "vault")
        work = Learner.answer

        def slow(self: Learner, *given: Any) -> Any:
            clock.now += WORK * len(person.taste + person.safety)  # her machine is busier
            return work(self, *given)

        m.setattr(Learner, "answer", slow)
        # One offer for everybody: noise hangs on the release, and that names its offer.
        opens, closes = "2020-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"
        config = toy_vault.study_config(rounds=ROUNDS, **changes)
        offer = toy_vault.offer_of(config, opens=opens, closes=closes)
        with running(folder, offer) as box:
            m.setenv("COMMONGROUND_VAULT", str(socket_folder(box.profile.folder) / NODE))
            for tag, rows in (("taste", person.taste), ("safety", person.safety)):
                for row in rows:
                    box.owner.add(*row, tag, why="because of my late aunt")
            box.consent()
            m.setattr(time, "sleep", clock.sleep)
            try:
                yield Stage(box, clock, folder)
            finally:
                vault_device._channel.cache_clear()


@dataclass(frozen=True)
class Performance:
    """All that a server saw of one person's device, and what her messages should have been."""

    seen: tuple[Seen, ...]
    expected: tuple[dict[str, np.ndarray], ...]
    locks: int


def perform(
    person: Person,
    folder: Path,
    patch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch, Stage], None] = lambda patch, stage: None,
) -> Performance:
    """Play the script; what is expected is worked out before anything is planted."""
    with staged(person, folder, patch) as stage:
        expected = tuple(reference(stage, person, round) for round in range(1, ROUNDS + 1))
        with patch.context() as m:
            plant(m, stage)
            seen = tuple(stage.ask(name, message) for name, message in stage.script())
    return Performance(seen, expected, stage.locks)


def reference(stage: Stage, person: Person, round: int) -> dict[str, np.ndarray]:
    """A round's message, from what may change it: her safety comparisons and the stream, nothing else."""
    rounds = stage.box.server.rounds
    meant = rounds.understood()
    said = [Comparison(*row, "safety", "owner") for row in person.safety]
    learner = Learner(meant, said, rounds.lives.current()[0].seed)
    found = learner.answer(round, stage.arrays(round), meant.manifest.accepted(None), {}, None)
    signer, offer = rounds.profile.signer, meant.offer.digest
    text, arrays = stage.release(round), stage.arrays(round)
    release = check_release(text, arrays, meant.manifest, signer=signer, offer=offer, last=None)
    return seal_answer(meant, found, round, None, None, rounds.secret(meant, release)).tensors


# The guards: each takes what was seen of two people who differ in taste alone, and says what is wrong.


def differs(one: Performance, other: Performance) -> str:
    """Non-interference: taste changes no byte, no order, no constant and no time of what leaves."""
    for a, b in zip(one.seen, other.seen, strict=True):
        if a != b:
            return f"{a.question}: {_short(a)} against {_short(b)}"
    return ""


def inexact(one: Performance, other: Performance) -> str:
    """Every message is the clipped update plus the noise of the stream, to the last bit."""
    for found in (one, other):
        sent = [s for s in found.seen if s.question.startswith(("round ", "again ")) and s.constant is None]
        for s in sent:
            wanted = found.expected[int(s.question.split()[1]) - 1]
            if list(s.tensors) != list(wanted):
                return f"{s.question}: tensors {list(s.tensors)}"
            if any(s.tensors[n].tobytes() != wanted[n].tobytes() for n in wanted):
                return f"{s.question}: another message than clip(update) + noise"
    return ""


def strange(one: Performance, other: Performance) -> str:
    """A round is answered; everything that no honest server asks is answered by a constant."""
    for found in (one, other):
        for s in found.seen:
            kind = s.question.split()[0] if not s.question.startswith("round of words") else "words"
            if kind in ("round", "again") and s.constant is not None:
                return f"{s.question}: not answered"
            if kind == "private" and (s.constant is not None or s.content):
                return f"{s.question}: a private phase says something"
            if kind not in ("round", "again", "private") and s.constant not in tuple(CONSTANTS.items()):
                return f"{s.question}: no constant"
    return ""


def waits(one: Performance, other: Performance) -> str:
    """No message waits for what its person is doing: it takes no lock that chatting and learning hold."""
    return "a message takes the lock that chatting holds" if one.locks + other.locks else ""


GUARDS: Sequence[Callable[[Performance, Performance], str]] = (differs, inexact, strange, waits)


def _short(seen: Seen) -> str:
    what = seen.constant or hashlib.sha256(seen.content).hexdigest()[:12]
    return f"{what} after {seen.delay:g} s"
