"""What a hostile server may ask of a device, kind by kind, under both trusts: a constant, and no charge.

The class: a field of a message from outside whose type, size, order or signature is another than an honest
server's. The path is a real device's from the executor to the vault; over a real network the same is asked in
`test_hostile_study.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from leak_guards import QUIET, Stage, staged

from commonground.client.guard import CONSTANTS

CENTRAL = {"privacy__trust": "central", "privacy__shared__mechanism": "banded", "privacy__shared__clip": 1.0}
Kind = Callable[[Stage], Message]


def signed(stage: Stage, round: int = 1, **changes: Any) -> str:
    return stage.box.operator.release(round, stage.arrays(round), **changes)


def tensors(stage: Stage, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Message:
    """A round whose tensors are others than an honest server's."""
    message = stage.question(1)
    found = change(stage.arrays(1))
    message.content["arrays"] = ArrayRecord({name: Array(value) for name, value in found.items()})
    return message


def without(stage: Stage, name: str) -> Message:
    message = stage.question(1)
    del message.content[name]
    return message


def dropped(stage: Stage, field: str) -> Message:
    message = stage.question(1)
    values = {name: value for name, value in message.content["config"].items() if name != field}
    message.content["config"] = ConfigRecord(values)
    return message


def blob(stage: Stage, **changes: Any) -> Message:
    """A tensor whose head says something else than its bytes."""
    message = stage.question(1)
    whole = {"dtype": "float32", "shape": (3,), "stype": "numpy.ndarray", "data": b"\x93NUMPY\x01\x00("}
    name = next(iter(stage.arrays(1)))
    message.content["arrays"] = ArrayRecord({name: Array(**whole | changes)})
    return message


KINDS: dict[str, Kind] = {
    "another signer": lambda s: s.question(1, release=signed(s, key=Ed25519PrivateKey.generate())),
    "an edited release": lambda s: s.question(1, release=signed(s).replace('"round": 1', '"round": 2')),
    "another offer": lambda s: s.question(1, release=signed(s, offer="f" * 64)),
    "another digest": lambda s: s.question(1, release=signed(s, tensors="0" * 64)),
    "a version of words": lambda s: s.question(1, release=signed(s, version="one")),
    "a version below all": lambda s: s.question(1, release=signed(s, version=-(2**70))),
    "a release of another round": lambda s: s.question(1, release=signed(s, 2)),
    "no release": lambda s: dropped(s, "release"),
    "a release that is deep": lambda s: s.question(1, release="[" * 50_000),
    "a surrogate in a release": lambda s: s.question(1, release='{"a": "\\ud800"}'),
    "no manifest": lambda s: dropped(s, "manifest"),
    "another manifest": lambda s: s.question(1, manifest="0" * 64),
    "a manifest of numbers": lambda s: s.question(1, manifest=7),
    "round 0": lambda s: s.question(1, **{"round": 0}),
    "a negative round": lambda s: s.question(1, **{"round": -1}),
    "a huge round": lambda s: s.question(1, **{"round": 2**62}),
    "a round of words": lambda s: s.question(1, **{"round": "one' OR 1=1; %s {0.__class__}"}),
    "a round that is no number": lambda s: s.question(1, **{"round": float("nan")}),
    "a round of many": lambda s: s.question(1, **{"round": [1, 2]}),
    "no round": lambda s: dropped(s, "round"),
    "a clip above": lambda s: s.question(1, clip=1e9),
    "a negative clip": lambda s: s.question(1, clip=-1.0),
    "a clip that is no number": lambda s: s.question(1, clip=float("nan")),
    "a clip of words": lambda s: s.question(1, clip="all"),
    "no person": lambda s: dropped(s, "person"),
    "no tensors": lambda s: without(s, "arrays"),
    "no settings": lambda s: without(s, "config"),
    "wrong shapes": lambda s: tensors(s, lambda a: {n: v.reshape(1, -1) for n, v in a.items()}),
    "wrong types": lambda s: tensors(s, lambda a: {n: v.astype(np.float64) for n, v in a.items()}),
    "not finite": lambda s: tensors(s, lambda a: {n: np.full_like(v, np.inf) for n, v in a.items()}),
    "other tensors": lambda s: tensors(s, lambda a: {n: v + 1 for n, v in a.items()}),
    "one tensor more": lambda s: tensors(s, lambda a: {**a, "digest differs": np.zeros(1, np.float32)}),
    "names that steer": lambda s: tensors(s, lambda a: dict.fromkeys(("is signed by",), np.zeros(3))),
    "an open bracket": lambda s: blob(s, data=b"\x93NUMPY\x01\x00\x20\x00{'descr': '<f4', 'shape': (3,   "),
    "a pickle": lambda s: blob(s, stype="pickle", data=b"\x80\x04cos\nsystem\n."),
    "endless shapes": lambda s: blob(s, shape=(2**31, 2**31, 2**31)),
    "another kind of message": lambda s: s.question(1, "evaluate"),
    "a query": lambda s: s.question(1, "query.secrets"),
}


@pytest.fixture(params=["local", "central"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    changes = CENTRAL if request.param == "central" else {}
    with staged(QUIET, tmp_path / "p", monkeypatch, **changes) as found:
        yield found


def counted(stage: Stage) -> int:
    """What executor and vault have refused so far."""
    kept = sum(int(row["count"]) for row in stage.box.store.refusals.all())
    return kept + sum(stage.executor._tally.counts.values())


def test_every_kind_is_a_constant_that_costs_nothing_and_the_study_goes_on(stage: Stage) -> None:
    for name, made in KINDS.items():
        before = counted(stage)
        seen = stage.ask(name, made(stage))
        assert seen.constant in tuple(CONSTANTS.items()), name
        assert seen.content == b"", name
        assert seen.delay == 0.25, name
        assert counted(stage) > before, name
        private = made(stage)
        if private.metadata.message_type == "train":
            private.metadata.message_type = "train.private"
            told = stage.ask(name, private)
            assert (told.constant, told.content) in ((None, b""), (seen.constant, b"")), name
    assert stage.box.owner.ledger()["messages"] == 0
    assert stage.box.owner.receipts() == []
    again = stage.question(1, release=signed(stage))
    first, second = stage.ask("round 1", again), stage.ask("again 1", again)
    assert first.tensors
    assert first.content == second.content
    assert stage.box.owner.ledger()["messages"] == 1
