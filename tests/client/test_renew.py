"""A device that joins once more: what it kept stays, what it spent counts on, any crash is mended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from toy_front_door import FrontDoor, front_door
from toy_profile import KEY, invite
from toy_vault import Operator, offer_of, study_config

from commonground.client import keys, learner, renew
from commonground.client.contact import UnreachableError
from commonground.client.device_ledger import DeviceLedger, Upload, scope_of
from commonground.client.join import Choices, join
from commonground.client.profile import Profile, read_profile
from commonground.client.promise import full_epsilon
from commonground.client.store import NAME, Store
from commonground.client.supervisor import only_device
from commonground.errors import CommonGroundError, InputError, TrustError
from commonground.study.offer import Offer
from commonground.study.release import Release
from commonground.study.signing import public_hex

WORDS = "four words of mine"
OTHER = Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    with front_door(tmp_path_factory.mktemp("door")) as found:
        yield found


@pytest.fixture(scope="module")
def offers() -> tuple[Offer, Offer]:
    """A study, and another with other settings."""
    return offer_of(study_config()), offer_of(study_config(rounds=8), study="others")


class Kit:
    """A profile with a little of everything, and an invitation to another study."""

    def __init__(self, folder: Path, door: FrontDoor, offers: tuple[Offer, Offer]) -> None:
        self.door, self.old, self.new = door, *offers
        self.file, self.target = folder / "study.invite", folder / "home" / "profile"
        self.accepts, self.shown, self.cap = True, list[str](), 0.0
        self.invite(self.old, KEY)
        self.join()
        self.before = read_profile(self.target)
        with self.store() as store:
            store.feedback.add("what is love", "a bath", "a contract", "taste")
            scope, release = scope_of(self.old.study, public_hex(KEY)), Release(self.old.digest, 1, 1, "t")
            terms = learner.understand(self.old).terms
            DeviceLedger(store).reserve(Upload(scope, release), terms, 50.0)
        self.invite(self.new, OTHER, token="u" * 32)

    def invite(self, offer: Offer, key: Ed25519PrivateKey, **changes: Any) -> None:
        address = changes.pop("address", self.door.address)
        self.file.write_text(invite(offer, self.door.ca, address, key, **changes))

    def join(self, **choices: Any) -> Profile | None:
        def decide(text: list[str], cap: float) -> bool:
            self.shown, self.cap = text, cap
            return self.accepts

        chosen = Choices(**{"passphrase": WORDS, "keyring": False, **choices})
        return join(self.file, self.target, chosen, decide, lambda _: None)

    def store(self) -> Store:
        return Store(self.target / NAME, keys.open_key(self.target, WORDS))

    def plain(self) -> dict[str, bytes]:
        """The profile's files but the store's, which are written whenever it is opened."""
        files = (file for file in self.target.iterdir() if file.is_file())
        return {f.name: f.read_bytes() for f in files if not f.name.startswith(("store.db", "lock"))}

    def accepted(self) -> str:
        with self.store() as store:
            found = store.consent.current()
            assert found is not None
            return found.offer


@pytest.fixture
def kit(tmp_path: Path, door: FrontDoor, offers: tuple[Offer, Offer], monkeypatch: pytest.MonkeyPatch) -> Kit:
    monkeypatch.setitem(keys.SCRYPT, "n", 2**10)
    fresh = FrontDoor(door.ca)
    door.answer, door.requests, door.keys = fresh.answer, [], {}
    return Kit(tmp_path, door, offers)


def test_what_was_kept_stays_and_what_was_spent_counts_on(kit: Kit) -> None:
    spent = kit.before.key.read_bytes()
    made = kit.join()
    assert made == read_profile(kit.target)
    assert made is not None
    assert (made.study, made.signer, made.offer) == ("others", public_hex(OTHER), kit.new.digest)
    assert made.terms() == kit.new
    assert made.key.read_bytes() != spent  # the new study learns nothing that the old one knew
    assert kit.accepted() == kit.new.digest
    with kit.store() as store:
        assert [c.prompt for c in store.feedback.comparisons()] == ["what is love"]
        entries = DeviceLedger(store).entries()
        assert [(e["scope"].split()[0], e["status"]) for e in entries] == [("toys", "reserved")]
    assert kit.cap > full_epsilon(learner.understand(kit.new))
    text = "\n".join(kit.shown)
    assert "has joined study toys" in text
    assert "joins others, signed by ANOTHER KEY" in text
    assert "What you have spent counts on" in text
    assert sorted(file.name for file in kit.target.parent.iterdir()) == ["profile"]
    assert Operator(kit.new).manifest == learner.understand(made.terms(), made.parts()).manifest


def test_a_no_changes_nothing(kit: Kit) -> None:
    before, kit.accepts = kit.plain(), False
    kit.door.requests.clear()
    assert kit.join() is None
    assert (kit.plain(), kit.accepted()) == (before, kit.old.digest)
    assert kit.door.requests == [("HEAD", "/parts")]


def test_a_server_that_refuses_or_is_away_changes_nothing(kit: Kit) -> None:
    before = kit.plain()
    kit.door.answer = lambda door, request: (403, {})
    with pytest.raises(TrustError, match="used already"):
        kit.join()
    kit.invite(kit.new, OTHER, address="127.0.0.1:9")
    with pytest.raises(UnreachableError):
        kit.join()
    assert (kit.plain(), kit.accepted()) == (before, kit.old.digest)
    assert [file.name for file in kit.target.parent.iterdir()] == ["profile"]


def test_a_lost_answer_is_asked_for_again_with_the_same_key(kit: Kit) -> None:
    before, kit.door.answer = kit.plain(), None
    with pytest.raises(UnreachableError):
        kit.join()
    assert (kit.plain(), kit.accepted()) == (before, kit.old.digest)
    kit.door.answer = FrontDoor("").answer
    assert kit.join() is not None
    assert len(kit.door.keys) == 2  # one for each token


@pytest.mark.parametrize("step", range(1, 6))
def test_a_crash_while_files_are_moved_is_mended_by_the_same_command(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    moved, move = [], os.replace

    def dying(source: Any, target: Any) -> None:
        if Path(source).parent.name == renew.READY:
            moved.append(source)
            if len(moved) == step:
                raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        if step == 5:  # this offer has no public parts: four files are moved
            assert kit.join() is not None
            return
        with pytest.raises(KeyboardInterrupt):
            kit.join()
    assert (kit.target / renew.READY).is_dir()
    with pytest.raises(InputError, match="has joined already"):  # with this very invitation, now
        kit.join()
    made = read_profile(kit.target)
    assert (made.offer, made.terms(), kit.accepted()) == (kit.new.digest, kit.new, kit.new.digest)
    assert not (kit.target / renew.READY).exists()


def test_what_stands_against_it_is_one_line(kit: Kit) -> None:
    before = kit.plain()
    with only_device(kit.before), pytest.raises(InputError, match="a device already runs"):
        kit.join()
    with pytest.raises(CommonGroundError, match="passphrase") as wrong:
        kit.join(passphrase="not what was chosen")
    assert "\n" not in wrong.value.message
    kit.file.write_bytes(kit.before.invitation.read_bytes())
    with pytest.raises(InputError, match="has joined already"):
        kit.join()
    assert (kit.plain(), kit.accepted()) == (before, kit.old.digest)
