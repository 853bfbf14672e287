import json
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load
from toy_store import KEY, OFFER, SCOPE, live, local_terms, noisy, open_store, state

from commonground.client.device_ledger import DeviceLedger
from commonground.client.keys import make_key, open_key
from commonground.client.ledger_words import in_words
from commonground.client.store import Store
from commonground.client.takeout import erase, export
from commonground.errors import CommonGroundError, InputError, StorageError
from commonground.privacy.accounting import Charge

TERMS = local_terms()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with something of everything."""
    folder = tmp_path / "profile"
    folder.mkdir()
    found = open_store(folder)
    for version in (1, 2):
        live(found, TERMS, version)
    found.feedback.undecided("Which?", "tea\u2028", "coffee", "both bad", "both cold")
    found.feedback.add("Naïve?", "日本", '"quoted"\n', "taste")
    odd = np.arange(6.0).reshape(2, 3)
    arrays = {"adapter/x": np.asfortranarray(odd), "adapter/y": odd.astype(">f8"), "one": np.array(1.0)}
    found.adapters.save(arrays, offer=OFFER, round=3, shared_version=3)
    found.adapters.rollback(2)
    found.consent.accept(OFFER, '{"signed": "paper"}', "signer", math.inf)
    found.refusals.count("too early")
    found.put("paused", "no")
    return found


def parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def lines(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.decode().split("\n")[:-1]]


def test_everything_is_in_it_and_can_be_read(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "mine.zip"
    counts = export(store, path, statement=in_words(DeviceLedger(store), TERMS, OFFER, math.inf))
    assert counts == {
        "comparisons": 3, "undecided": 1, "adapters": 3, "receipts": 2, "charges": 2, "consents": 1,
        "bytes": path.stat().st_size,
    }  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600
    found = parts(path)
    assert sorted(found) == [
        "README.txt",
        "adapters.json",
        *(f"adapters/0000{k}.safetensors" for k in (1, 2, 3)),
        "comparisons.jsonl",
        "consent.json",
        "consent/00001.json",
        "ledger.json",
        "messages/00002.safetensors",
        "receipts.json",
        "refusals.json",
        "settings.json",
        "undecided.jsonl",
    ]
    rows = lines(found["comparisons.jsonl"])
    assert list(rows[0])[:3] == ["prompt", "chosen", "rejected"]
    assert [(r["prompt"], r["chosen"], r["rejected"], r["tag"]) for r in rows] == [
        ("prompt 1", "yes", "no", "safety"),
        ("prompt 2", "yes", "no", "taste"),
        ("Naïve?", "日本", '"quoted"\n', "taste"),
    ]
    (between,) = lines(found["undecided.jsonl"])
    assert (between["first"], between["verdict"], between["why"]) == ("tea\u2028", "both bad", "both cold")
    for version in (1, 2):
        arrays = load(found[f"adapters/0000{version}.safetensors"])
        assert {n: v.tobytes() for n, v in arrays.items()} == {
            n: v.tobytes() for n, v in state(version).items()
        }
    odd = load(found["adapters/00003.safetensors"])
    assert odd["adapter/x"].tolist() == odd["adapter/y"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert odd["one"].shape == ()
    adapters = json.loads(found["adapters.json"])
    assert adapters["in_use"] == 2
    assert [v["version"] for v in adapters["versions"]] == [1, 2, 3]
    receipts = json.loads(found["receipts.json"])
    assert [(r["id"], r["message_kept"], r["bytes"]) for r in receipts] == [(2, True, 36), (1, False, 36)]
    kept = store.outbox.receipt(2).message
    assert kept is not None
    message = load(found["messages/00002.safetensors"])
    assert {n: v.tobytes() for n, v in message.items()} == {n: v.tobytes() for n, v in kept.items()}
    ledger = json.loads(found["ledger.json"])
    assert ledger["accounted"] is True
    assert [Charge(c["sampling"], c["noise_multiplier"], c["steps"]) for c in ledger["charges"]] == [
        TERMS.charge
    ] * 2
    assert json.loads(found["consent.json"])[0]["epsilon_cap"] == "inf"
    assert found["consent/00001.json"] == b'{"signed": "paper"}'
    assert json.loads(found["refusals.json"])[0]["reason"] == "too early"
    assert json.loads(found["settings.json"]) == {"paused": "no"}


def test_the_readme_can_be_read_by_a_person(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "mine.zip"
    statement = in_words(DeviceLedger(store), TERMS, OFFER, math.inf)
    export(store, path, statement=statement)
    found = parts(path)
    text = found["README.txt"].decode()
    assert "NOT encrypted" in text
    assert "3 comparison(s)" in text
    assert "version 2" in text
    assert statement in text
    assert "{" not in text.replace(statement, "")
    for name in set(found) - {"README.txt"}:
        folder, slash, _ = name.partition("/")
        assert (folder + slash) in text, name  # every file, or its folder, is explained
    store.adapters.reset()
    export(store, tmp_path / "later.zip")
    assert "none: you have the shared policy" in parts(tmp_path / "later.zip")["README.txt"].decode()


def test_an_empty_store_can_be_taken_away(tmp_path: Path) -> None:
    with open_store(tmp_path) as empty:
        counts = export(empty, tmp_path / "mine.zip")
    assert {n for n, count in counts.items() if count} == {"bytes"}
    assert parts(tmp_path / "mine.zip")["comparisons.jsonl"] == b""


def test_a_leak_is_told_in_the_export(store: Store, tmp_path: Path) -> None:
    store.outbox.keep(SCOPE, "release-9", OFFER, noisy(9)())
    export(store, tmp_path / "mine.zip")
    assert json.loads(parts(tmp_path / "mine.zip")["ledger.json"])["accounted"] is False


def test_nothing_is_overwritten_or_left_half_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.zip"
    path.write_text("a letter")
    with pytest.raises(InputError, match="exists"):
        export(store, path)
    assert path.read_text() == "a letter"
    with pytest.raises(StorageError, match="No such file"):
        export(store, tmp_path / "missing" / "mine.zip")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StorageError, match="No space left"):
                export(store, tmp_path / "other.zip")
        assert sorted(tmp_path.iterdir()) == before
    store.feedback.add("p", "a", "b", "taste")  # and the store goes on
    export(store, tmp_path / "other.zip")


def test_nobody_who_waits_in_the_folder_gets_to_read_it(store: Store, tmp_path: Path) -> None:
    """In a folder that is everybody's, another user may have made the draft, or a link in its place."""
    (tmp_path / "letter").write_text("a letter")
    (tmp_path / ".linked.zip.new").symlink_to(tmp_path / "letter")
    export(store, tmp_path / "linked.zip")
    assert (tmp_path / "letter").read_text() == "a letter"
    with (tmp_path / ".mine.zip.new").open("w+b") as waiting:
        export(store, tmp_path / "mine.zip")
        assert waiting.read() == b""
    assert stat.S_IMODE((tmp_path / "mine.zip").stat().st_mode) == 0o600


def test_a_damaged_version_is_told(store: Store, tmp_path: Path) -> None:
    with store.database.transaction() as run:
        run("UPDATE adapters SET state = x'00' WHERE version = 2")
    with pytest.raises(StorageError, match="version 2 of the private adapter"):
        export(store, tmp_path / "mine.zip")
    assert [f.name for f in tmp_path.iterdir()] == ["profile"]


def test_after_erasing_nothing_opens(tmp_path: Path) -> None:
    folder = tmp_path / "profile"
    folder.mkdir()
    key = make_key(folder, "correct horse battery", keyring=False)
    with Store(folder / "store.db", key) as found:
        found.feedback.add("a secret", "a", "b", "taste")
        copies = {f.name: f.read_bytes() for f in folder.iterdir()}  # what a forensic disk image may hold
    assert "cannot be called back" in erase(folder)
    assert list(folder.iterdir()) == []
    with pytest.raises(StorageError, match="missing"):
        open_key(folder, "correct horse battery")
    for name, content in copies.items():
        if name != "store.json":
            (folder / name).write_bytes(content)
    for guess in (bytes(32), KEY):
        with pytest.raises(CommonGroundError, match="another key"):
            Store(folder / "store.db", guess)
