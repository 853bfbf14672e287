"""One release, one update, one noise: however often a profile is put back, and on no other machine.

Class of fault: noise that is fresh at every asking, so that a copy of a profile is one more look.
"""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_vault
from toy_vault import bytes_of, running
from toy_world import HashEncoder

from commonground.client import noise_secret
from commonground.client.database import identity_of
from commonground.client.keys import make_key
from commonground.client.noise import message_normals
from commonground.client.noise_secret import forget_secret, make_secret, read_secret, secrets_folder
from commonground.client.store import Store
from commonground.client.takeout import erase, export
from commonground.errors import CommonGroundError, InputError, Reason
from commonground.manifest import Manifest, TensorSpec
from commonground.study.offer import Offer
from commonground.training import features

MANIFEST = Manifest((TensorSpec("u", (3, 4)), TensorSpec("b", ())), 1.0, noise_on_device=True, grid=2.0**-9)
UPDATE = {"u": np.full((3, 4), 0.125, np.float32), "b": np.asarray(0.25, np.float32)}


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "Encoder", HashEncoder)


@pytest.fixture
def offer(encoder: None) -> Offer:
    return toy_vault.offer_of(toy_vault.study_config(privacy__trust="local"))


def test_five_copies_of_a_profile_answer_one_release_with_the_same_bytes(
    offer: Offer, tmp_path: Path
) -> None:
    first = tmp_path / "0"
    with running(first, offer) as box:
        box.consent()
        box.teach()
    for k in range(1, 5):
        shutil.copytree(first, tmp_path / str(k), ignore=shutil.ignore_patterns("run"))
    operator = toy_vault.Operator(offer)
    arrays = [operator.arrays(0.01 * round) for round in (1, 2)]
    releases = [operator.release(round + 1, arrays[round]) for round in (0, 1)]
    found: list[list[bytes]] = []
    for k in range(5):
        with running(tmp_path / str(k), offer) as box:
            found.append([bytes_of(box.shared(r + 1, arrays[r], releases[r])) for r in (0, 1)])
            spent = len(box.server.rounds.ledger.entries())
            assert spent == 2  # each copy has its own account, and all of them sent the same
    assert len({one for one, _ in found}) == len({two for _, two in found}) == 1
    assert found[0][0] != found[0][1]


def test_a_copy_on_another_machine_answers_nothing_and_says_why(
    offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path / "0", offer) as box:
        box.consent()
        box.teach()
        forget_secret(box.store.identity)
        with pytest.raises(CommonGroundError):
            box.shared(1)
        assert [(one["reason"], one["count"]) for one in box.store.refusals.all()] == [
            (Reason.NO_SECRET.value, 1)
        ]
        assert box.server.rounds.ledger.entries() == []  # nothing is charged for what is not made
    assert "no secret to make this profile's noise" in caplog.text


def test_a_device_without_noise_of_its_own_needs_no_secret(encoder: None, tmp_path: Path) -> None:
    central = {"privacy__trust": "central", "privacy__shared__mechanism": "banded"}
    with running(tmp_path / "0", toy_vault.offer_of(toy_vault.study_config(**central))) as box:
        box.consent()
        forget_secret(box.store.identity)
        assert box.shared(1)


@pytest.mark.parametrize(
    "change",
    [
        {"secret": bytes(32)},
        {"about": "another release"},
        {"clipped": UPDATE | {"b": np.asarray(0.25 + 2.0**-9, np.float32)}},
        {"manifest": Manifest(MANIFEST.tensors, 2.0, noise_on_device=True, grid=2.0**-9)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_anything_that_differs_has_noise_of_its_own(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "manifest": MANIFEST, "secret": b"s" * 32, "about": "a release", "clipped": UPDATE,
    }  # fmt: skip
    one, again, other = (message_normals(**(given | c)) for c in ({}, {}, change))
    assert {name: value.shape for name, value in one.items()} == {"u": (3, 4), "b": ()}
    for name, value in one.items():
        assert value.dtype == np.float64
        assert np.array_equal(value, again[name])
        assert not np.any(value == other[name])


def test_noise_of_many_releases_is_standard_normal_and_independent() -> None:
    draws = np.stack([message_normals(MANIFEST, b"s" * 32, f"{k}", UPDATE)["u"].ravel() for k in range(4000)])
    assert abs(draws.mean()) < 5 / np.sqrt(draws.size)
    assert abs(draws.var() - 1) < 5 * np.sqrt(2 / draws.size)
    off = np.corrcoef(draws.T)[~np.eye(12, dtype=bool)]
    assert np.abs(off).max() < 5 / np.sqrt(len(draws))


def test_the_secret_lies_beside_the_profile_readable_by_its_owner_alone(tmp_path: Path) -> None:
    identity = identity_of(bytes(32))
    secret = make_secret(identity, keyring=False)
    path = secrets_folder() / f"{identity}.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert make_secret(identity, keyring=False) == read_secret(identity) == secret
    assert make_secret(identity_of(b"k" * 32), keyring=False) != secret
    for _ in range(2):
        forget_secret(identity)
    with pytest.raises(InputError, match="no secret"):
        read_secret(identity)


def test_a_keyring_keeps_it_where_it_keeps_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}

    def recall(where: dict[str, str], way_back: bool) -> bytes:
        if where["name"] not in kept:
            raise InputError("not there")
        return kept[where["name"]]

    monkeypatch.setattr(noise_secret, "keep", lambda key, name: kept.__setitem__(name, key))
    monkeypatch.setattr(noise_secret, "recall", recall)
    monkeypatch.setattr(noise_secret, "forget", lambda where: kept.pop(where["name"]))
    secret = make_secret("id", keyring=True)
    assert list(kept.values()) == [secret]
    assert not (secrets_folder() / "id.key").exists()
    assert read_secret("id") == secret
    forget_secret("id")
    assert not kept


def test_no_export_holds_it_and_erasing_removes_it(tmp_path: Path) -> None:
    key = make_key(tmp_path, "correct horse battery", keyring=False)
    secret = make_secret(identity_of(key), keyring=False)
    with Store(tmp_path / "store.db", key) as store:
        assert store.identity == identity_of(key)
        export(store, tmp_path / "mine.zip")
    with zipfile.ZipFile(tmp_path / "mine.zip") as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert secret not in content
            assert secret.hex().encode() not in content
    for file in tmp_path.iterdir():
        assert secret not in file.read_bytes()
        assert secret.hex().encode() not in file.read_bytes()
    erase(tmp_path)
    with pytest.raises(InputError, match="no secret"):
        read_secret(identity_of(key))
