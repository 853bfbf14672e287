"""Joining: wholly or not at all, after the person has read what it means."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from toy_front_door import FrontDoor, front_door
from toy_profile import KEY, invite
from toy_vault import offer_of, study_config

from commonground.client import invited
from commonground.client import join as room
from commonground.client.contact import UnreachableError
from commonground.client.join import Choices, join
from commonground.client.keys import open_key
from commonground.client.owner import OwnerClient
from commonground.client.profile import Profile, find_profile, read_profile
from commonground.client.store import Store
from commonground.errors import CommonGroundError, InputError, ModelError, StorageError, TrustError
from commonground.study.offer import Offer
from commonground.study.public_parts import parts_digest, write_parts
from commonground.study.signing import fingerprint, public_hex

WORDS = "four words that suffice"
SIGNER = public_hex(KEY)


@pytest.fixture(scope="module")
def offer() -> Offer:
    return offer_of(study_config())


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    with front_door(tmp_path_factory.mktemp("door")) as found:
        yield found


@pytest.fixture(scope="module")
def meant() -> dict[str, Any]:
    """What offers mean, once each: deriving it takes a second."""
    return {}


@pytest.fixture(autouse=True)
def understood_once(meant: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from commonground.client import learner

    derive = learner.understand

    def once(offer: Offer, parts: bytes | None, charter: str = "") -> learner.Understood:
        if offer.digest not in meant:
            meant[offer.digest] = derive(offer, parts, charter)
        return meant[offer.digest]  # type: ignore[no-any-return]

    monkeypatch.setattr(learner, "understand", once)


@pytest.fixture(autouse=True)
def as_it_was(door: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    from commonground.client import keys

    fresh = FrontDoor(door.ca)
    door.ahead, door.answer, door.requests, door.keys = fresh.ahead, fresh.answer, [], {}
    door.parts, door.said = None, None
    monkeypatch.setitem(keys.SCRYPT, "n", 2**10)  # what it costs to guess has a test of its own


class Kit:
    """An invitation and what a person does with it."""

    def __init__(self, folder: Path, offer: Offer, door: FrontDoor) -> None:
        self.offer, self.door = offer, door
        self.file, self.target = folder / "study.invite", folder / "home" / "profile"
        self.said: list[str] = []
        self.shown: list[str] = []
        self.accepts = True

    def invite(self, offer: Offer | None = None, **changes: Any) -> None:
        ca, address = changes.pop("ca", self.door.ca), changes.pop("address", self.door.address)
        self.file.write_text(invite(offer or self.offer, ca, address, **changes))

    def join(self, **choices: Any) -> Profile | None:
        def decide(text: list[str], cap: float) -> bool:
            self.shown, self.cap = text, cap
            return self.accepts

        chosen = Choices(**{"passphrase": WORDS, "keyring": False, **choices})
        return join(self.file, self.target, chosen, decide, self.said.append)

    def nothing_is_left(self) -> None:
        home = self.target.parent
        assert not home.exists() or list(home.iterdir()) == []


@pytest.fixture
def kit(tmp_path: Path, offer: Offer, door: FrontDoor) -> Kit:
    found = Kit(tmp_path, offer, door)
    found.invite()
    return found


def test_a_profile_is_made_whole(kit: Kit, door: FrontDoor) -> None:
    made = kit.join()
    assert made is not None
    assert made == read_profile(kit.target) == find_profile(kit.target)
    assert (made.slot, made.name, made.node, made.study) == (3, "Ada", "42", "toys")
    assert made.terms() == kit.offer
    assert door.requests == [("HEAD", "/parts"), ("POST", "/enrol")]
    assert list(kit.target.parent.iterdir()) == [kit.target]
    assert kit.target.stat().st_mode & 0o077 == 0
    key = load_ssh_private_key(made.key.read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    assert isinstance(key.curve, SECP384R1)
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert made.key.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert b"BEGIN CERTIFICATE" in made.certificate.read_bytes()
    secret = "".join(file.read_text(errors="replace") for file in kit.target.glob("*.json"))
    assert WORDS not in secret
    with Store(kit.target / "store.db", open_key(kit.target, WORDS)) as store:
        accepted = store.consent.current()
    assert accepted is not None
    assert (accepted.offer, accepted.signer, accepted.epsilon_cap) == (kit.offer.digest, SIGNER, kit.cap)
    assert any(fingerprint(SIGNER) in line for line in kit.said)


def test_what_the_person_reads(kit: Kit) -> None:
    kit.accepts = False
    assert kit.join() is None
    text = "\n".join(kit.shown)
    for words in (
        "To learn together what is harmful.",
        "operator@example.org",
        fingerprint(SIGNER),
        "The noise is added on this device",
        "What leaves this device: at most",
        "stay on this device",
        "in which rounds it took part",
        "What was sent before cannot be called back",
        "Privacy: ",
    ):
        assert words in text
    kit.nothing_is_left()
    assert kit.door.requests == [("HEAD", "/parts")]  # nothing was asked in the person's name


def test_central_trust_says_what_the_operator_could_read(kit: Kit) -> None:
    config = study_config(privacy__trust="central", privacy__shared__mechanism="banded")
    kit.invite(offer_of(config))
    kit.accepts = False
    kit.join()
    text = "\n".join(kit.shown)
    assert "could reconstruct parts of your safety feedback" in text
    assert "until the study sums messages in secret" in text


def test_the_cap_is_what_the_person_says(kit: Kit) -> None:
    kit.join(epsilon_cap=0.5)
    with Store(kit.target / "store.db", open_key(kit.target, WORDS)) as store:
        accepted = store.consent.current()
    assert accepted is not None
    assert accepted.epsilon_cap == 0.5


def test_the_signer_is_compared_with_what_the_operator_told(kit: Kit) -> None:
    for told in (fingerprint(SIGNER), fingerprint(SIGNER).upper(), SIGNER):
        kit.accepts = False
        kit.join(signer=told)
    with pytest.raises(TrustError, match="you were told dead beef") as caught:
        kit.join(signer="dead beef")
    assert "another channel" in str(caught.value.hint)
    kit.nothing_is_left()


def edited(kit: Kit) -> None:
    values = json.loads(kit.file.read_text())
    values["content"]["address"] = "evil.example:443"
    kit.file.write_text(json.dumps(values))


def other_signer(kit: Kit) -> None:
    kit.invite(key=Ed25519PrivateKey.generate(), signer=SIGNER)
    values = json.loads(kit.file.read_text())
    values["signer"] = SIGNER
    kit.file.write_text(json.dumps(values))


def expired(kit: Kit) -> None:
    kit.invite(expires=(datetime.now(UTC) - timedelta(minutes=1)).isoformat())


def other_manifest(kit: Kit) -> None:
    manifest = {**kit.offer.manifest, "clip": 1e9}
    kit.invite(Offer(**{**kit.offer.to_dict(), "manifest": manifest}))


BAD = [
    (edited, TrustError, "changed after it was signed", "new one"),
    (other_signer, TrustError, "changed after it was signed", "new one"),
    (expired, TrustError, "the invitation expired at", "set the clock"),
    (lambda kit: kit.file.write_text("{}"), TrustError, "is damaged", "new one"),
    (lambda kit: kit.file.write_bytes(bytes(5 << 20)), InputError, "more than 4 MB", None),
    (lambda kit: kit.file.unlink(), InputError, "cannot be read: No such file", None),
    (lambda kit: kit.invite(Offer(**{**kit.offer.to_dict(), "software": "9.9.9"})), TrustError,
     r"runs commonground 9\.9\.9; installed is", "pip install commonground==9.9.9"),
    (lambda kit: kit.invite(Offer(**{**kit.offer.to_dict(), "base": {"embedding": "0" * 64}})), ModelError,
     "has digest", "install the base model"),
    (other_manifest, TrustError, r"derives another manifest than the offer's: clip is .* 1000000000\.0 there",
     "ask the operator"),
    (lambda kit: kit.invite(ca="none"), TrustError, "certificate authority cannot be read", "new one"),
    (lambda kit: kit.invite(address="127.0.0.1:9"), UnreachableError,
     "127.0.0.1:9 does not answer: Connection refused", "look at the network"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "kind", "words", "hint"), BAD)
def test_a_bad_invitation_is_one_line_and_leaves_nothing(
    kit: Kit, spoil: Any, kind: type[CommonGroundError], words: str, hint: str | None
) -> None:
    spoil(kit)
    with pytest.raises(kind, match=words) as caught:
        kit.join()
    assert "\n" not in caught.value.message
    assert hint is None or hint in str(caught.value.hint)
    kit.nothing_is_left()
    assert ("POST", "/enrol") not in kit.door.requests


def with_parts(kit: Kit, **base: str) -> None:
    """An invitation whose offer names the public parts that the door has."""
    kit.door.parts = write_parts({})
    kit.invite(replace(kit.offer, base={"parts": parts_digest(kit.door.parts), **base}))


def test_public_parts_are_fetched_before_the_person_decides_and_kept(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from commonground.client import learner

    seen, known = list[bytes | None](), learner.understand(kit.offer, None)

    def derive(offer: Offer, parts: bytes | None, charter: str) -> learner.Understood:  # has tests of its own
        assert charter == ""  # a reward study has none
        seen.append(parts)
        return known

    monkeypatch.setattr(learner, "understand", derive)
    with_parts(kit)
    made = kit.join()
    assert made is not None
    assert kit.door.requests == [("HEAD", "/parts"), ("GET", "/parts"), ("POST", "/enrol")]
    assert seen == [kit.door.parts] == [made.parts()]


def cut(kit: Kit) -> None:
    kit.door.said = len(kit.door.parts or b"") + 100


def without(kit: Kit) -> None:
    kit.door.parts = None


def another(kit: Kit) -> None:
    kit.door.parts = write_parts({"basis": np.ones(3, np.float32)})


BAD_PARTS = [
    (cut, UnreachableError, "does not answer: .* without sending complete message body", "try again"),
    (without, TrustError, "does not give the study's public parts: code 404", "ask the operator"),
    (another, TrustError, "public parts have digest .*; the signed offer says", "ask the operator"),
    (lambda kit: None, ModelError, r"public parts lack 'basis\.", "do not fit"),
]


@pytest.mark.parametrize(("spoil", "kind", "words", "hint"), BAD_PARTS)
def test_public_parts_that_are_not_the_offer_s_are_one_line_and_leave_nothing(
    kit: Kit, spoil: Any, kind: type[CommonGroundError], words: str, hint: str
) -> None:
    with_parts(kit)
    spoil(kit)
    with pytest.raises(kind, match=words) as caught:
        kit.join()
    assert "\n" not in caught.value.message
    assert hint in str(caught.value.hint)
    kit.nothing_is_left()
    assert ("POST", "/enrol") not in kit.door.requests


def test_public_parts_larger_than_any_are_not_read_to_their_end(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invited, "LARGEST_PARTS", 100_000)
    with_parts(kit)
    kit.door.parts = bytes(3_000_000)
    with pytest.raises(TrustError, match="are larger than 100000 bytes"):
        kit.join()
    kit.nothing_is_left()


@pytest.mark.parametrize(("minutes", "side"), [(10, "behind"), (-10, "ahead of")])
def test_a_clock_that_is_off_is_told_before_anything_is_sent(kit: Kit, minutes: int, side: str) -> None:
    kit.door.ahead = timedelta(minutes=minutes)
    with pytest.raises(InputError, match=f"10 minutes {side} the server's") as caught:
        kit.join()
    assert "timedatectl" in str(caught.value.hint)
    kit.nothing_is_left()


def test_another_certificate_than_the_study_s_is_not_spoken_to(kit: Kit, tmp_path: Path) -> None:
    with front_door(tmp_path) as other:
        kit.invite(address=other.address)
        with pytest.raises(TrustError, match="does not show the certificate of this study") as caught:
            kit.join()
        assert other.requests == []
    assert "in between" in str(caught.value.hint)
    kit.nothing_is_left()


REFUSED = [
    (403, {"error": "refused"}, TrustError, "used already, was revoked, or has expired", "new invitation"),
    (429, {}, TrustError, "too many enrolments", "few minutes"),
    (503, {}, TrustError, "not up yet", "in a minute"),
    (418, {}, TrustError, "refuses with code 418", "ask the operator"),
]


@pytest.mark.parametrize(("code", "body", "kind", "words", "hint"), REFUSED)
def test_a_server_that_refuses_is_one_line_and_leaves_nothing(
    kit: Kit, code: int, body: Any, kind: type[CommonGroundError], words: str, hint: str
) -> None:
    kit.door.answer = lambda door, request: (code, body)
    with pytest.raises(kind, match=words) as caught:
        kit.join()
    assert hint in str(caught.value.hint)
    kit.nothing_is_left()


ODD = [
    {"slot": "none"},
    b"<html>",
    [],
    {"slot": 1, "name": "Ada\x1b[2Jepsilon is 0", "node_id": "1"},  # it is printed
    b'{"slot": Infinity, "name": "Ada"}',
    b"[" * 50_000,
]


@pytest.mark.parametrize("body", ODD)
def test_an_answer_that_cannot_be_read_may_have_been_a_yes(kit: Kit, body: Any) -> None:
    kit.door.answer = lambda door, request: (200, body)
    with pytest.raises(TrustError, match="cannot be read") as caught:
        kit.join()
    assert "once more" in str(caught.value.hint)
    assert (kit.target.with_name(".profile.join") / "node.key").exists()


def test_a_long_answer_is_not_read_to_its_end(kit: Kit) -> None:
    kit.door.answer = lambda door, request: (200, b" " * 3_000_000)
    with pytest.raises(TrustError, match="answers with more than 65536 bytes"):
        kit.join()
    assert (kit.target.with_name(".profile.join") / "node.key").exists()  # it may have been a yes


def test_a_lost_answer_is_asked_for_again_with_the_same_key(kit: Kit) -> None:
    kit.door.answer = None
    with pytest.raises(UnreachableError):
        kit.join()
    draft = kit.target.with_name(".profile.join")
    kept = (draft / "node.key").read_bytes()
    assert not kit.target.exists()
    kit.door.answer = FrontDoor("").answer
    with pytest.raises(InputError, match="passphrase is not this store's"):
        kit.join(passphrase="another four words here")
    made = kit.join(epsilon_cap=2.0)
    assert made is not None
    assert made.key.read_bytes() == kept
    assert list(kit.target.parent.iterdir()) == [kit.target]


def test_a_server_that_is_busy_does_not_cost_the_key_of_an_earlier_try(kit: Kit) -> None:
    kit.door.answer = None
    with pytest.raises(UnreachableError):
        kit.join()
    kit.door.answer = lambda door, request: (503, {})
    with pytest.raises(TrustError, match="not up yet"):
        kit.join()
    kit.door.answer = FrontDoor("").answer
    assert kit.join() is not None


def test_a_draft_of_another_invitation_is_thrown_away(kit: Kit) -> None:
    kit.door.answer = None
    with pytest.raises(UnreachableError):
        kit.join()
    kit.invite(token="u" * 32)
    kit.door.answer = FrontDoor("").answer
    assert kit.join() is not None
    assert len(set(kit.door.keys.values())) == 2


def test_joined_already_and_a_folder_that_is_not_empty(kit: Kit) -> None:
    assert kit.join() is not None
    with pytest.raises(InputError, match="has joined already") as caught:
        kit.join()
    assert "device up" in str(caught.value.hint)
    shutil.rmtree(kit.target)
    kit.target.mkdir()
    (kit.target / "letters.txt").touch()
    with pytest.raises(InputError, match="no profile and not empty"):
        kit.join()
    assert [file.name for file in kit.target.iterdir()] == ["letters.txt"]


def test_too_little_room_and_a_keyring_that_is_locked(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(room, "ROOM", 1 << 60)
        with pytest.raises(StorageError, match="MB free; at least") as caught:
            kit.join()
        assert caught.value.hint
    with pytest.raises(InputError, match="keyring") as refused:
        kit.join(passphrase=None, keyring=True)  # there is none on a machine of tests
    assert "passphrase" in str(refused.value.hint)
    with pytest.raises(InputError, match="at least 8 are needed"):
        kit.join(passphrase="short")
    kit.nothing_is_left()
    assert ("POST", "/enrol") not in kit.door.requests  # the token is not spent


def test_a_vault_opens_what_join_made(kit: Kit) -> None:
    import threading

    from commonground.client.vault import VaultServer, opened, serve

    made = kit.join()
    assert made is not None
    stop = threading.Event()
    with opened(made, WORDS) as store:
        server = VaultServer(made, store)
        thread = threading.Thread(target=serve, args=(server, stop))
        thread.start()
        try:
            with OwnerClient(made.folder, WORDS) as owner:
                found = owner.consent()
                assert owner.status()["consented"]
        finally:
            stop.set()
            thread.join()
    assert found["accepted"]["digest"] == kit.offer.digest
    assert found["accepted"]["epsilon_cap"] == pytest.approx(kit.cap)
    assert found["fits"] is None


def with_model(offer: Offer, **changes: Any) -> Offer:
    config = {**offer.config, "model": {**offer.config["model"], "base": "evil-org/s3cr3t"}}
    own = {"base": {**offer.base, "encoder": "a" * 64}, "downloads": {"evil-org/s3cr3t": 5_000_000}}
    return replace(offer, **{"config": config, **own, **changes})


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Everything that a connection was opened to."""
    import socket

    from huggingface_hub import constants

    seen: list[Any] = []
    connect = socket.socket.connect

    def told(self: socket.socket, address: Any) -> None:
        seen.append(address)
        connect(self, address)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", told)
    return seen


@pytest.mark.parametrize("answer", [None, False])
def test_a_model_is_said_and_asked_for_before_it_is_fetched(
    kit: Kit, offer: Offer, door: FrontDoor, hosts: list[Any], answer: bool | None
) -> None:
    """Up to the question `join` speaks to one host about one path, whatever the offer names."""
    kit.invite(with_model(offer))
    asked: list[str] = []

    def download(lines: list[str]) -> bool:
        asked.extend(lines)
        return False

    with pytest.raises(ModelError, match="evil-org/s3cr3t, 5 MB, digest aaaaaaaaaaaaaaaa, from http"):
        kit.join(download=None if answer is None else download)
    assert bool(asked) == (answer is not None)
    host, port = door.address.rsplit(":", 1)
    assert {tuple(address[:2]) for address in hosts} == {(host, int(port))}
    assert {path for _, path in door.requests} == {"/parts"}
    kit.nothing_is_left()


def test_a_hub_name_without_a_digest_is_refused_where_it_is_read(
    kit: Kit, offer: Offer, door: FrontDoor
) -> None:
    values = with_model(offer).to_dict()
    values["base"].pop("encoder")
    with pytest.raises(CommonGroundError, match=r"base\.encoder has no digest of it"):
        Offer.from_dict(values)


def test_no_question_about_what_is_here(kit: Kit, door: FrontDoor, hosts: list[Any]) -> None:
    made = kit.join(download=lambda lines: pytest.fail("asked"))
    assert made is not None
    host, port = door.address.rsplit(":", 1)
    assert {tuple(address[:2]) for address in hosts} == {(host, int(port))}
