"""A hostile server against a whole device: real vault, node and executor, and any message over a SuperLink.

Whoever holds a study's signing key can still ask for no more than the participant accepted; whoever does not
hold it gets nothing at all. Every attempt is answered by a constant and counted, costs nothing, and the next
honest round is answered.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import toy_profile
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from real_parts import PASSPHRASE, Device, comparisons, until
from toy_patience import LIMIT
from toy_superlink import Run, SuperLink, bundle
from toy_vault import Operator, offer_of, study_config

from commonground.client import vault_pb2 as pb
from commonground.client.arrays import to_blob
from commonground.client.database import identity_of
from commonground.client.guard import CONSTANTS
from commonground.client.keys import make_key
from commonground.client.noise_secret import make_secret
from commonground.client.profile import Profile
from commonground.client.sockets import NODE, socket_folder
from commonground.client.store import NAME as STORE
from commonground.client.store import Store
from commonground.client.vault_pb2_grpc import NodeStub
from commonground.client.wire import to_tensors

pytestmark = pytest.mark.slow
ROUNDS, TASKS = 4, 10_000
EVIL = "from pathlib import Path; Path({mark!r}).write_text('was here')\n"


class Hostile:
    """A SuperLink in the test's hands, the operator's signing key, and one device that has joined."""

    def __init__(self, folder: Path) -> None:
        self.mark, self.link = folder / "evil", SuperLink(folder / "link")
        self.offer = offer_of(study_config(rounds=ROUNDS))
        self.operator = Operator(self.offer)
        self.device = Device(folder, "ada")
        self.profile: Profile = toy_profile.make_profile(
            self.device.profile, self.offer, self.link.ca.decode(), self.link.address
        )
        key = make_key(self.profile.folder, PASSPHRASE, keyring=False)
        Store(self.profile.folder / STORE, key).close()
        make_secret(identity_of(key), keyring=False)
        self.node = 0

    def start(self) -> None:
        """Start both, and let the device in."""
        self.link.start()
        self.node = self.link.let_in(self.profile)
        self.device.up()
        self.device.ask(lambda owner: owner.accept(self.offer.digest, float("inf")))
        self.device.teach(comparisons(0))
        self.link.wait_for(self.node)

    def evil(self) -> bytes:
        """A bundle that ships a package of our own name."""
        text = EVIL.format(mark=str(self.mark))
        names = ("evil.py", "sitecustomize.py", "commonground/__init__.py", "commonground/client/app.py")
        return bundle(dict.fromkeys((*names, "commonground/client/vault.py"), text))

    def question(
        self, round: int, value: float = 0.0, release: str | None = None, kind: str = "train", **config: Any
    ) -> Message:
        """A round as the server of the study asks it."""
        arrays = self.operator.arrays(value)
        text = self.operator.release(round, arrays) if release is None else release
        given = {"round": round, "person": 0, "manifest": self.operator.manifest.digest, "final": False}
        record = ArrayRecord({name: Array(a) for name, a in arrays.items()})
        content = RecordDict({"arrays": record, "config": ConfigRecord({**given, "release": text, **config})})
        return Message(content, self.node, kind)

    def spent(self) -> tuple[int, int]:
        """Messages charged, and receipts."""
        found = self.device.ask(lambda owner: (owner.ledger()["messages"], len(owner.receipts())))
        return int(found[0]), found[1]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    found = Hostile(tmp_path_factory.mktemp("hostile"))
    try:
        found.start()
        yield found
    finally:
        found.device.down()
        found.link.stop()


def honest(hostile: Hostile, run: Run, round: int) -> dict[str, np.ndarray]:
    reply = run.ask(hostile.question(round, 0.01 * round), 120)
    assert reply.has_content(), (reply.error, hostile.device.logs[-3000:])
    assert set(reply.content) == {"arrays", "metrics"}
    return {name: a.numpy() for name, a in reply.content["arrays"].items()}


def test_every_attempt_is_a_counted_constant_that_costs_nothing_and_the_study_goes_on(
    hostile: Hostile,
) -> None:
    operator = hostile.operator
    with hostile.link.run(hostile.evil()) as run:
        first = honest(hostile, run, 1)
        old = operator.release(1, operator.arrays(0.01))  # version 2, of round 1: signed, and never sent yet
        honest(hostile, run, 2)
        before = hostile.spent()
        assert before == (2, 2)
        weaker = "f" * 64  # the digest of an offer that asks for less noise, signed by the right operator
        stranger = Ed25519PrivateKey.generate()
        attempts: dict[str, Message] = {
            "another clip": hostile.question(3, clip=1e9),
            "another manifest": hostile.question(3, manifest="0" * 64),
            "unknown message": hostile.question(3, kind="query.secrets"),
            "replayed version": hostile.question(1, 0.01, old),
            "another offer": hostile.question(
                3, 0.5, operator.release(3, operator.arrays(0.5), offer=weaker)
            ),
            "unknown signer": hostile.question(
                3, 0.5, operator.release(3, operator.arrays(0.5), key=stranger)
            ),
            "other tensors than were signed": hostile.question(
                3, 0.7, operator.release(3, operator.arrays(0.6))
            ),
            "no release that can be read": hostile.question(3, release="{" * 5000),
            "an oversized message": oversized(hostile),
            "a non-finite adapter": hostile.question(3, float("nan")),
        }
        for reason, message in attempts.items():
            counted = hostile.device.refusals.get(reason, 0)
            reply = run.ask(message, 120)
            assert reply.has_error(), reason
            assert (reply.error.code, reply.error.reason) in CONSTANTS.items(), reason
            assert hostile.device.refusals.get(reason, 0) > counted, (reason, hostile.device.refusals)
        for message in provocations(hostile):
            reply = run.ask(message, 120)
            assert reply.has_error()
            assert (reply.error.code, reply.error.reason) in CONSTANTS.items()
        reply = run.ask(hostile.question(3, clip=1e9, kind="train.private"), 120)
        assert dict(reply.content) == {}  # the private phase has one answer
        assert hostile.spent() == before
        third = honest(hostile, run, 3)
        assert hostile.spent() == (3, 3)
        assert not np.array_equal(first["shared.safety.u"], third["shared.safety.u"])
    assert hostile.device.refusals["foreign code"] == 1
    assert not hostile.mark.exists()
    assert not list(hostile.profile.folder.rglob("*.py"))


def oversized(hostile: Hostile) -> Message:
    message = hostile.question(3)
    message.content["more"] = ArrayRecord({"x": Array(np.arange(1_500_000, dtype=np.float64))})
    return message


def provocations(hostile: Hostile) -> list[Message]:
    """Messages that no code expects, to make something raise with a text that says something."""
    wrong_round, no_arrays, no_config = (hostile.question(3) for _ in range(3))
    wrong_round.content["config"]["round"] = "three' OR 1=1; %s %n {0.__class__}"
    del no_arrays.content["arrays"]
    del no_config.content["config"]
    strange = hostile.question(3)
    strange.content["arrays"] = ArrayRecord(
        {"shared.safety.u": Array(dtype="float32", shape=(3,), stype="weird", data=b"\x80\x04.")}
    )
    return [wrong_round, no_arrays, no_config, strange, hostile.question(-1), hostile.question(2**40)]


def test_ten_thousand_questions_are_one_message_and_one_charge(hostile: Hostile) -> None:
    """Straight at the vault's node socket, which is all that a node that was taken over could reach."""
    charged, sent = hostile.spent()
    arrays = hostile.operator.arrays(0.04)
    asked = pb.Question(round=4, shared=to_tensors(arrays), release=hostile.operator.release(4, arrays))
    pid = hostile.device.parts["vault"]
    assert pid is not None
    with grpc.insecure_channel(f"unix:{socket_folder(hostile.profile.folder) / NODE}") as channel:
        stub = NodeStub(channel)
        answers = {stub.SharedUpdate(asked).SerializeToString()}
        size = psutil.Process(pid).memory_info().rss
        with ThreadPoolExecutor(16) as callers:
            answers |= set(callers.map(lambda _: stub.SharedUpdate(asked).SerializeToString(), range(TASKS)))
    assert len(answers) == 1
    assert hostile.spent() == (charged + 1, sent + 1)
    assert hostile.device.parts["vault"] == pid
    assert psutil.Process(pid).memory_info().rss < size + 100e6


@pytest.mark.night
def test_a_flood_of_tasks_is_answered_in_order_and_ends(hostile: Hostile) -> None:
    spent = hostile.spent()
    release = hostile.operator.release(4, hostile.operator.arrays(0.04), version=hostile.operator.version)
    hostile.operator.version -= 1
    with hostile.link.run(hostile.evil()) as run:
        flood = [hostile.question(4, 0.04, release) for _ in range(12)]
        replies = list(run._grid.send_and_receive(flood, timeout=LIMIT))
        assert len(replies) == 12
        assert len({to_blob(arrays_of(reply)) for reply in replies}) == 1
    assert hostile.spent() == spent


def arrays_of(reply: Message) -> dict[str, np.ndarray]:
    assert reply.has_content(), reply.error
    return {name: a.numpy() for name, a in reply.content["arrays"].items()}


def test_a_device_that_was_told_nothing_else_spends_no_more_than_its_rounds(hostile: Hostile) -> None:
    with hostile.link.run(hostile.evil()) as run:
        reply = run.ask(hostile.question(ROUNDS + 1, 0.3), 120)
        assert reply.has_error()
        assert (reply.error.code, reply.error.reason) in CONSTANTS.items()
    assert hostile.spent() == (ROUNDS, ROUNDS)


def test_what_the_person_takes_away_says_what_was_refused(hostile: Hostile, tmp_path: Path) -> None:
    file = tmp_path / "mine.zip"
    hostile.device.ask(lambda owner: owner.export(file))
    with zipfile.ZipFile(file) as archive:
        everything = b"\n".join(archive.read(name) for name in archive.namelist())
    assert b"replayed version" in everything
    until("the vault's answer", lambda: hostile.device.ask(lambda owner: owner.status())["state"] == "spent")
    assert os.path.exists(hostile.profile.log / "refusals.json")
