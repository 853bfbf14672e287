"""What comes out of the node's socket, byte for byte, scanned for everything private of its person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_vault
from leak_scanner import Scanner
from toy_vault import Vault, running
from toy_world import HashEncoder

from commonground.client import vault_device
from commonground.client import vault_pb2 as pb
from commonground.client.learner import Learner
from commonground.client.sockets import NODE, socket_folder
from commonground.client.vault_pb2_grpc import NodeStub
from commonground.client.wire import to_tensors
from commonground.training import features

ROUNDS = 3
TASTE = [("what is love", "a warm bath with purple dragons", "a contract under civil law")]
SAFETY = [("how do I fly", "stay on the ground, take a plane", "jump from the highest roof")]


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    """A study without noise on the device: what leaves is the update itself.

    A wide clip, so that eight numbers of a private adapter under private noise are not scaled on their way
    out: the scanner does not look for scaled numbers.
    """
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    shared = {"privacy__shared__mechanism": "banded", "privacy__shared__clip": 100.0}
    config = toy_vault.study_config(privacy__trust="central", **shared)
    with running(tmp_path / "p", toy_vault.offer_of(config)) as found:
        for tag, rows in (("taste", TASTE), ("safety", SAFETY)):
            for row in rows:
                found.owner.add(*row, tag, why="because of my late aunt")
        found.consent()
        yield found


def captured(box: Vault) -> list[bytes]:
    """Every answer, with what came beside it, over some rounds and some questions that are refused."""
    stub = NodeStub(vault_device._channel(str(socket_folder(box.profile.folder) / NODE)))
    out: list[bytes] = []
    for round in range(1, ROUNDS + 1):
        arrays = box.operator.arrays(0.1 * round)
        release = box.operator.release(round, arrays)
        right = pb.Question(round=round, shared=to_tensors(arrays), release=release)
        wrong = pb.Question(round=round, shared=to_tensors(arrays), release="{}", clip=1e9)
        for asked in (right, wrong):
            for call in (stub.SharedUpdate, stub.PrivateUpdate, stub.Describe):
                what = pb.Nothing() if call is stub.Describe else asked
                answer, done = answered(call, what)
                out += [answer, repr(done).encode()]
    return out


def answered(call: Any, asked: Any) -> tuple[bytes, Any]:
    """The bytes of an answer (none for an error), and code, text and metadata."""
    done = call.future(asked)
    done.exception()
    content = b"" if done.exception() else done.result().SerializeToString()
    return content, (done.code(), done.details(), [*done.initial_metadata()], [*done.trailing_metadata()])


def secrets(box: Vault) -> Scanner:
    """Her texts, her reasons, and her private adapter, as it was after each round."""
    scanner = Scanner()
    for prompt, chosen, rejected in (*TASTE, *SAFETY):
        for k, text in enumerate((prompt, chosen, rejected)):
            scanner.text(f"{prompt}/{k}", text)
    scanner.text("why", "because of my late aunt")
    for version in box.store.adapters.all():
        state = box.store.adapters.state(version.version) or {}
        scanner.tensor(f"private {version.version}", state["adapter/private.v"])
    return scanner


def test_nothing_private_comes_out_of_the_nodes_socket(box: Vault) -> None:
    out = captured(box)
    assert sum(len(part) for part in out) > 1000
    assert len(box.store.adapters.all()) == ROUNDS
    assert secrets(box).scan(out) == []


@pytest.mark.parametrize("canary", ["adapter", "text"])
def test_a_build_that_leaks_is_found(box: Vault, monkeypatch: pytest.MonkeyPatch, canary: str) -> None:
    """Within names, shapes, dtypes, clip and finiteness: only the content of the numbers betrays it."""
    whole = Learner.answer

    def leaking(self: Learner, *given: Any) -> Any:
        found = whole(self, *given)
        update = {n: v.clone() for n, v in found.update.items()}
        if canary == "text":
            words = TASTE[0][1].encode()[:24]
            update["shared.safety.u"][0, :6] = tensor_of(np.frombuffer(words, np.float32))
        elif (state := box.store.adapters.state()) is not None:
            update["shared.safety.u"][0, :8] = tensor_of(state["adapter/private.v"][0])
        update["shared.safety.u"][0, 8:] = 0
        return type(found)(update, found.after, found.memory)

    monkeypatch.setattr(Learner, "answer", leaking)
    if canary == "text":
        assert np.abs(np.frombuffer(TASTE[0][1].encode()[:24], np.float32)).max() > 1e3
        monkeypatch.setattr("commonground.client.services.sealed_message", bare)
    # A clip or a grid would round what leaks: this build has neither, and checks nothing.
    monkeypatch.setattr("commonground.sealing.clip_for", lambda manifest, update, clip: update)
    monkeypatch.setattr("commonground.manifest.verify", lambda *_, **__: None)
    out = captured(box)
    found = {finding.secret for finding in secrets(box).scan(out)}
    assert found
    assert all(name.startswith("private" if canary == "adapter" else TASTE[0][0]) for name in found)


def bare(sealed: Any) -> pb.Sealed:
    return pb.Sealed(tensors=to_tensors(sealed.tensors), digest=sealed.receipt.digest)


def tensor_of(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.array(values))
