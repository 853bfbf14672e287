"""The vault's node side: what is answered, what is refused and counted, and that nothing else comes out."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import toy_profile
import toy_vault
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from toy_patience import LIMIT
from toy_vault import Arrays, Vault, bytes_of, running
from toy_world import HashEncoder

from commonground.client import keys, vault, vault_device
from commonground.client import vault_pb2 as pb
from commonground.client.learner import Insecure, Learner, Understood
from commonground.client.rounds import Rounds
from commonground.client.sockets import NODE, OWNER, TOKEN, socket_folder
from commonground.client.store import NAME as STORE
from commonground.client.store import Store
from commonground.client.vault import VaultServer, is_loopback
from commonground.client.vault_pb2_grpc import NodeStub
from commonground.client.wire import to_tensors
from commonground.errors import CommonGroundError, EgressError, InputError, Reason
from commonground.study.offer import Offer
from commonground.training import features

SECRET = "purple dragons in the bath"


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "Encoder", HashEncoder)


@pytest.fixture
def offer(encoder: None) -> Offer:
    return toy_vault.offer_of(toy_vault.study_config())


@pytest.fixture
def box(tmp_path: Path, offer: Offer) -> Iterator[Vault]:
    """A vault whose person has taught it and accepted the offer."""
    with running(tmp_path / "p", offer) as found:
        found.teach()
        found.consent()
        yield found


def raw(box: Vault) -> NodeStub:
    return NodeStub(vault_device._channel(str(socket_folder(box.profile.folder) / NODE)))


def question(round: int, arrays: Arrays, release: str, **more: Any) -> pb.Question:
    return pb.Question(round=round, shared=to_tensors(arrays), release=release, **more)


def refused(box: Vault) -> dict[str, int]:
    found: dict[str, int] = box.owner.status()["refusals"]
    return found


def test_asked_again_for_a_release_the_same_bytes_come_and_nothing_is_charged(box: Vault) -> None:
    arrays = box.operator.arrays(0.1)
    release = box.operator.release(1, arrays)
    first = bytes_of(box.shared(1, arrays, release))
    assert [bytes_of(box.shared(1, arrays, release)) for _ in range(3)] == [first] * 3
    assert box.owner.ledger()["messages"] == 1
    assert [row["round"] for row in box.owner.receipts()] == [1]
    second = bytes_of(box.shared(2))
    assert second != first
    assert box.owner.ledger()["messages"] == 2
    assert refused(box) == {}


def test_what_leaves_is_noised_by_the_operating_system(box: Vault, offer: Offer) -> None:
    """The deviation of what is sent, over rounds of the same update, is the claim's."""
    most = box.server.rounds.understood().terms.most
    sent = [box.shared(round)["shared.safety.u"] for round in range(1, most + 1)]
    std = box.server.rounds.understood().noise_std
    found = np.std(np.diff(np.stack(sent), axis=0)) / np.sqrt(2)
    assert std > 0
    assert found == pytest.approx(std, rel=0.5)
    assert not np.array_equal(sent[0], sent[1])


def other_key(box: Vault, arrays: Arrays) -> str:
    return box.operator.release(1, arrays, key=Ed25519PrivateKey.generate())


def edited(box: Vault, arrays: Arrays) -> str:
    return box.operator.release(1, arrays).replace('"round": 1', '"round": 2')


def other_offer(box: Vault, arrays: Arrays) -> str:
    return box.operator.release(1, arrays, offer="0" * 64)


def old(box: Vault, arrays: Arrays) -> str:
    box.shared(1)
    return box.operator.release(1, arrays, version=0)


def earlier(box: Vault, arrays: Arrays) -> str:
    box.operator.version = 5
    box.shared(2)
    return box.operator.release(1, arrays)


def nothing(box: Vault, arrays: Arrays) -> str:
    return ""


def swapped(box: Vault, arrays: Arrays) -> str:
    return box.operator.release(1, {name: value + 1 for name, value in arrays.items()})


def more(box: Vault, arrays: Arrays) -> str:
    text = box.operator.release(1, arrays)
    arrays["private.v"] = np.zeros(8, np.float32)
    return text


def flat(box: Vault, arrays: Arrays) -> str:
    text = box.operator.release(1, arrays)
    arrays["shared.safety.u"] = arrays["shared.safety.u"][:-1]
    return text


def nan(box: Vault, arrays: Arrays) -> str:
    arrays["shared.safety.u"][0] = np.nan
    return box.operator.release(1, arrays)


def later(box: Vault, arrays: Arrays) -> str:
    return box.operator.release(2, arrays)


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        (other_key, "unknown signer"),
        (edited, "edited release"),
        (other_offer, "another offer"),
        (old, "replayed version"),
        (earlier, "replayed version"),
        (nothing, Reason.UNREADABLE.value),
        (swapped, "other tensors than were signed"),
        (more, "other tensors than the manifest's"),
        (flat, "other shapes than the manifest's"),
        (nan, "a non-finite adapter"),
        (later, Reason.OTHER_ROUND.value),
    ],
)
def test_a_server_that_tries_something_is_refused_with_a_constant(
    box: Vault, trick: Any, reason: str
) -> None:
    arrays = box.operator.arrays(0.5)
    release = trick(box, arrays)
    before, sent = box.owner.ledger()["messages"], len(box.owner.receipts())
    with pytest.raises(grpc.RpcError) as caught:
        raw(box).SharedUpdate(question(1, arrays, release))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.PERMISSION_DENIED, "refused")
    assert raw(box).PrivateUpdate(question(1, arrays, release)) == pb.Nothing()
    assert refused(box) == {reason: 2}
    assert (box.owner.ledger()["messages"], len(box.owner.receipts())) == (before, sent)
    assert box.store.adapters.current() is None
    box.operator.version = 9
    assert box.shared(3)  # the study goes on


# Words that a device's own refusals use, or used: no tensor called so may change what is counted.
NAMES = (
    *("is signed by", "has version 3", "opens round", "belongs to offer", "answered before", "round 1 "),
    *(
        "the manifest says",
        "non-finite",
        "digest differs",
        "changed after it was signed",
        "the budget is spent",
    ),
    *(reason.value for reason in Reason),
    *(reason.name for reason in Reason),
)


@pytest.mark.parametrize("reply", ["shared", "private"])
def test_a_servers_names_do_not_choose_what_is_counted(box: Vault, reply: str) -> None:
    """The kind: what is told apart by the words of an error, into which another party writes some."""
    arrays = box.operator.arrays()
    release = box.operator.release(1, arrays)
    for name in NAMES:
        asked = question(1, arrays | {name: np.zeros(1, np.float32)}, release)
        if reply == "private":
            assert raw(box).PrivateUpdate(asked) == pb.Nothing()
            continue
        with pytest.raises(grpc.RpcError) as caught:
            raw(box).SharedUpdate(asked)
        assert caught.value.details() == "refused"
    assert refused(box) == {Reason.OTHER_TENSORS.value: len(NAMES)}


def test_another_clip_is_refused(box: Vault) -> None:
    arrays = box.operator.arrays()
    release = box.operator.release(1, arrays)
    for clip in (1e9, 1e-9, float("nan")):
        with pytest.raises(EgressError, match="refused"):
            box.device.shared_update(1, arrays, clip=clip, release=release)
    assert refused(box) == {Reason.OTHER_CLIP.value: 3}
    assert box.owner.ledger()["messages"] == 0


def test_nothing_leaves_before_consent_while_paused_or_outside_of_the_time(
    tmp_path: Path, offer: Offer
) -> None:
    with running(tmp_path / "p", offer) as box:
        box.teach()
        for call in (lambda: box.device.manifest, lambda: box.shared(1)):
            with pytest.raises(EgressError, match="refused"):
                call()
        assert box.owner.status()["state"] == "consent"
        box.consent()
        assert box.owner.pause()["state"] == "paused"
        with pytest.raises(EgressError, match="refused"):
            box.shared(1)
        assert box.owner.resume()["state"] == "ready"
        assert box.shared(1)
        assert refused(box) == {Reason.NO_CONSENT.value: 2, Reason.PAUSED.value: 1}
    past = datetime.now(UTC) - timedelta(days=2)
    closed = toy_vault.offer_of(
        offer.settings, opens=past.isoformat(), closes=(past + timedelta(days=1)).isoformat()
    )
    with running(tmp_path / "q", closed) as box:
        box.consent()
        assert box.owner.status()["state"] == "closed"
        with pytest.raises(EgressError, match="refused"):
            box.shared(1)
        assert refused(box) == {Reason.CLOSED.value: 1}


def test_who_pauses_while_it_trains_sends_nothing(box: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Learner.answer

    def interrupted(self: Learner, *given: Any) -> Any:
        assert box.owner.pause()["words"].startswith("Paused: nothing leaves")
        return whole(self, *given)

    arrays = box.operator.arrays()
    release = box.operator.release(1, arrays)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "answer", interrupted)
        with pytest.raises(EgressError, match="refused"):
            box.shared(1, arrays, release)
    assert refused(box) == {Reason.PAUSED.value: 1}
    assert box.owner.ledger()["messages"] == 1  # it was made under its charge, and is not made again
    box.owner.resume()
    box.shared(1, arrays, release)
    assert [row["round"] for row in box.owner.receipts()] == [1]


def test_an_answer_does_not_wait_for_what_its_person_does(
    box: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """She fits anew, or chats: both hold the workshop's model, and no round's answer asks for it."""
    box.teach()
    box.shared(1)
    begun, over = threading.Event(), threading.Event()
    whole = Learner.private

    def held(self: Learner, *given: Any) -> Any:
        begun.set()
        assert over.wait(LIMIT)
        return whole(self, *given)

    monkeypatch.setattr(Learner, "private", held)
    fitting = threading.Thread(target=box.owner.refit)
    fitting.start()
    try:
        assert begun.wait(LIMIT)
        assert box.shared(2)  # while it is held, however long that is
        assert not over.is_set()
    finally:
        over.set()
        fitting.join(LIMIT)
    assert box.owner.status()["private"]["version"] > 0


def test_no_message_answers_the_release_after_the_last_round(box: Vault, offer: Offer) -> None:
    """The claim counts on the study's rounds; the release after them is for the last private phase alone."""
    last = offer.settings.rounds
    with pytest.raises(EgressError, match="refused"):
        box.shared(last + 1)
    assert (refused(box), box.owner.ledger()["messages"]) == ({Reason.OTHER_ROUND.value: 1}, 0)


def test_the_cap_and_the_number_of_messages_end_it_here(tmp_path: Path, offer: Offer) -> None:
    with running(tmp_path / "p", offer) as box:
        box.teach()
        box.consent()
        one = box.owner.ledger()["one"]
    with running(tmp_path / "q", offer) as box:
        box.teach()
        box.consent(cap=one * 1.001)
        box.shared(1)
        with pytest.raises(EgressError):
            box.shared(2)
        assert refused(box) == {Reason.BUDGET.value: 1}
        assert box.owner.status()["state"] == "spent"
        assert box.owner.ledger()["messages"] == 1
    few = toy_vault.offer_of(toy_vault.study_config(privacy__shared__participations=1))
    with running(tmp_path / "r", few) as box:
        box.consent()
        box.shared(1)
        with pytest.raises(EgressError):
            box.shared(2)
        assert refused(box) == {Reason.TOO_OFTEN.value: 1}


def bits(
    tmp_path: Path, offer: Offer, taste: list[tuple[str, str, str]], private: dict[str, Any], name: str
) -> list[bytes]:
    """Every byte that comes out of the node's socket in two rounds, metadata and status included."""
    out: list[bytes] = []
    with running(tmp_path / name, offer, Insecure(offer.settings.seed, 0)) as box:
        for k in range(4):
            box.owner.add(f"danger {k}", f"please do not {k}", f"do it so {k}", "safety")
        for prompt, chosen, rejected in taste:
            box.owner.add(prompt, chosen, rejected, "taste")
        box.consent()
        for round in (1, 2):
            if private and (state := box.store.adapters.state()) is not None:
                state |= {"adapter/private.v": private["v"], "total/private.v": private["v"]}
                box.store.database.connection.execute("DELETE FROM adapters WHERE version > 1")
                box.store.adapters.save(state, offer=offer.digest, round=0, shared_version=0)
                version = box.store.adapters.current()
                assert version is not None
                box.store.put(f"life {version.version}", box.store.get("life 1"))
            arrays = box.operator.arrays(0.01 * round)
            asked = question(round, arrays, box.operator.release(round, arrays))
            stub = raw(box)
            for call, what in (
                (stub.Describe, pb.Nothing()),
                (stub.SharedUpdate, asked),
                (stub.PrivateUpdate, asked),
            ):
                answer, done = call.with_call(what)
                out.append(answer.SerializeToString(deterministic=True))
                out.append(repr([*done.initial_metadata(), *done.trailing_metadata(), done.code()]).encode())
    return out


def spread(seed: int) -> dict[str, Any]:
    return {"v": (10.0 ** np.random.default_rng(seed).uniform(-3, 3, (1, 8))).astype(np.float32)}


TASTES = [
    [],
    [("a", SECRET, "short")],
    [(f"q{k}", f"{SECRET} {k}", f"short {k}") for k in range(8)],
]


def test_nothing_of_taste_or_of_the_private_adapter_moves_a_bit_that_leaves(
    tmp_path: Path, offer: Offer
) -> None:
    first = bits(tmp_path, offer, TASTES[1], {}, "0")
    assert len(first) == 12
    for k, taste in enumerate(TASTES):
        assert bits(tmp_path, offer, taste, spread(k), f"other {k}") == first
    assert SECRET.encode() not in b"".join(first)


def test_a_build_that_leaks_is_found_by_the_same_comparison(
    tmp_path: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary adds steps of the grid to one number for each comparison of taste; less is rounded off."""
    whole = Rounds._answer

    def leaking(self: Rounds, meant: Understood, *given: Any) -> Any:
        found, seen = whole(self, meant, *given)
        update = {n: v.clone() for n, v in found.update.items()}
        update["shared.safety.u"][0, 0] += 4 * meant.manifest.grid * self.store.feedback.counts()["taste"]
        return type(found)(update, found.after, found.memory), seen

    monkeypatch.setattr(Rounds, "_answer", leaking)
    assert bits(tmp_path, offer, TASTES[1], {}, "a") != bits(tmp_path, offer, TASTES[2], {}, "b")


@pytest.mark.parametrize("what", [ValueError, SystemExit, MemoryError, CommonGroundError])
def test_an_error_says_nothing_outside_and_no_text_of_hers_in_the_log(
    box: Vault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise what(SECRET if what is not CommonGroundError else "a plain reason")

    monkeypatch.setattr(Learner, "answer", fail)
    monkeypatch.setattr(Learner, "private", fail)
    arrays = box.operator.arrays()
    asked = question(1, arrays, box.operator.release(1, arrays))
    with caplog.at_level(logging.DEBUG), pytest.raises(grpc.RpcError) as caught:
        raw(box).SharedUpdate(asked)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "failed")
    assert SECRET not in repr(caught.value)
    assert SECRET not in caplog.text
    assert raw(box).PrivateUpdate(asked) == pb.Nothing()
    assert refused(box) == {Reason.FAILED.value: 2}
    monkeypatch.undo()
    monkeypatch.setattr(features, "Encoder", HashEncoder)
    # Charged once, and made under that charge when it is asked for again.
    assert raw(box).SharedUpdate(asked).digest == box.owner.receipts()[0]["digest"]
    assert box.owner.ledger()["messages"] == 1


def test_a_manifest_that_cannot_be_written_down_is_a_constant_too(
    box: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = dataclasses.replace(box.device.manifest, clip=math.inf)
    monkeypatch.setattr(box.server.rounds, "describe", lambda: endless)
    with pytest.raises(grpc.RpcError) as caught:
        raw(box).Describe(pb.Nothing())
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "failed")


def test_an_oversized_message_never_arrives(box: Vault) -> None:
    arrays = {"shared.safety.u": np.zeros(4 << 20, np.float32)}
    with pytest.raises(grpc.RpcError) as caught:
        raw(box).SharedUpdate(question(1, arrays, "x"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert box.shared(1)


def test_a_private_phase_is_done_once_a_round(box: Vault) -> None:
    arrays = box.operator.arrays(0.1)
    release = box.operator.release(1, arrays)
    for _ in range(3):
        box.device.private_update(1, arrays, False, release=release)
    assert [row["reason"] for row in box.owner.adapters()] == ["round 1: 6 of 40 steps, 4 comparisons"]
    box.owner.reset()
    box.device.private_update(1, arrays, False, release=release)
    assert box.store.adapters.current() is None


def test_sockets_and_token_are_the_owners_alone(box: Vault) -> None:
    folder = socket_folder(box.profile.folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in (folder / NODE, folder / OWNER, box.profile.run / TOKEN, box.profile.folder / STORE):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_long_path_gets_a_short_folder_of_its_own(tmp_path: Path, offer: Offer) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60) / "p"
    deep.parent.mkdir(parents=True)
    with running(deep, offer) as box:
        folder = socket_folder(deep)
        assert len(os.fsencode(folder / OWNER)) <= 100
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        box.consent()
        assert box.shared(1)
    with running(deep, offer) as box:  # and keeps it
        assert socket_folder(deep) == folder
    folder.chmod(0o755)
    with pytest.raises(InputError, match="not ours alone"):
        socket_folder(deep)


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("127.0.0.1:9", True),
        ("[::1]:9", True),
        ("localhost:9", True),
        ("192.0.2.1:9", False),
        ("study.example.org:443", False),
        ("127.evil.example:1", False),
    ],
)
def test_predictable_noise_is_for_this_machine_alone(
    tmp_path: Path, offer: Offer, address: str, fits: bool
) -> None:
    assert is_loopback(address) == fits
    if not fits:
        profile = toy_profile.make_profile(tmp_path / "p", offer, address=address)
        with (
            Store(profile.folder / STORE, toy_vault.KEY) as store,
            pytest.raises(InputError, match="noise that can be predicted"),
        ):
            VaultServer(profile, store, Insecure(1, 0))


def test_one_vault_a_profile_and_one_line_for_the_second(
    tmp_path: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = toy_profile.make_profile(tmp_path / "p", offer)
    monkeypatch.setattr(vault, "open_key", lambda *_: toy_vault.KEY)
    Store(profile.folder / STORE, toy_vault.KEY).close()
    with vault.opened(profile):
        assert vault.main(["--profile", str(profile.folder)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].replace("\n", "") == f"error: another vault runs on the profile {profile.folder}"
    assert len(said) == 2
    assert said[1].startswith("hint: ")


def test_a_store_that_is_missing_is_not_made_anew(
    tmp_path: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new one would say that nothing was spent yet."""
    profile = toy_profile.make_profile(tmp_path / "p", offer)
    monkeypatch.setattr(keys, "SCRYPT", keys.SCRYPT | {"n": 2**10})
    keys.make_key(profile.folder, "four words that suffice", keyring=False)
    assert vault.main(["--profile", str(profile.folder)]) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert "store.db is missing" in said
    assert "hint: restore the profile folder from a backup" in said
    assert not (profile.folder / STORE).exists()


def test_a_folder_that_is_no_profile_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vault.main(["--profile", str(tmp_path)]) == 2
    assert "is no device profile" in capsys.readouterr().err
