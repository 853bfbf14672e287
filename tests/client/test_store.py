import contextlib
import math
import os
import sqlite3
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_store import KEY, MANIFEST, OFFER, SCOPE, live, local_terms, noisy, open_store, state

from commonground.client import database
from commonground.client.arrays import from_blob, to_blob
from commonground.client.database import Database
from commonground.client.schema import MIGRATIONS
from commonground.client.store import Store
from commonground.errors import CommonGroundError, DataError, InputError, StorageError
from commonground.study.release import Release
from commonground.training.private_phase import PrivateState


def test_comparisons_come_back_as_they_were_said(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert store.feedback.add("Hi?", "good\0day", "go away", "taste", "it is kind") == 1
        assert store.feedback.undecided("Hi?", "a", "b", "tie") == 2
        assert store.feedback.undecided("Hi?", "a", "b", "both bad", "rude") == 3
        assert store.feedback.add("", "x", "y", "safety") == 4
    with open_store(tmp_path) as store:
        found = store.feedback.comparisons()
        assert [(c.prompt, c.chosen, c.rejected, c.tag) for c in found] == [
            ("Hi?", "good\0day", "go away", "taste"),
            ("", "x", "y", "safety"),
        ]
        assert store.feedback.counts() == {"safety": 1, "taste": 1, "tie": 1, "both bad": 1}
        assert [v.id for v in store.feedback.page(limit=2)] == [4, 3]
        assert [v.id for v in store.feedback.page(offset=2)] == [2, 1]
        assert [(v.verdict, v.why) for v in store.feedback.all()][2] == ("both bad", "rude")


def test_undo_takes_the_newest_and_never_gives_its_number_again(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert store.feedback.undo() is None
        store.feedback.add("p", "a", "b", "taste")
        second = store.feedback.add("p", "c", "d", "taste")
        undone = store.feedback.undo()
        assert undone is not None
        assert (undone.id, undone.first) == (second, "c")
        assert store.feedback.newest() == 1
        assert store.feedback.add("p", "e", "f", "taste") == 3


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=4, max_size=4))
def test_any_text_comes_back_or_is_refused_whole(texts: list[str]) -> None:
    prompt, chosen, rejected, why = texts
    with tempfile.TemporaryDirectory() as folder:
        with open_store(Path(folder)) as store, contextlib.suppress(InputError):
            store.feedback.add(prompt, chosen, rejected, "taste", why)
        with open_store(Path(folder)) as store:
            found = [(v.prompt, v.first, v.second, v.why) for v in store.feedback.all()]
    fits = chosen.strip() and rejected.strip() and chosen != rejected
    whole = not any("\ud800" <= letter <= "\udfff" for text in texts for letter in text)
    assert found == ([(prompt, chosen, rejected, why)] if fits and whole else [])


def test_what_cannot_be_a_comparison_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for prompt, chosen, rejected, tag, why, kind, words in (
            ("p", "a", "a", "taste", "", DataError, "must differ"),
            ("p", " ", "b", "taste", "", DataError, "empty"),
            ("p", "a", "b", "weather", "", DataError, "safety, taste"),
            ("p" * 20_001, "a", "b", "taste", "", DataError, "20,001"),
            ("p", "a", "b", "taste", "w" * 20_001, InputError, "20,001"),
            ("p", "a\ud800", "b", "taste", "", InputError, "half of a character"),
        ):
            with pytest.raises(kind, match=words):
                store.feedback.add(prompt, chosen, rejected, tag, why)
        with pytest.raises(InputError, match="tie, both bad"):
            store.feedback.undecided("p", "a", "b", "first")
        assert store.feedback.all() == []


def test_adapter_versions_roll_back_and_reset_bit_for_bit(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert (store.adapters.current(), store.adapters.state()) == (None, None)
        for round in (1, 2, 3):
            assert store.adapters.save(state(round), offer=OFFER, round=round, shared_version=round) == round
        back = store.adapters.rollback(1)
        assert (back.version, back.round) == (1, 1)
    with open_store(tmp_path) as store:
        found = store.adapters.state()
        assert found is not None
        assert list(found) == list(state(1))
        for name, value in state(1).items():
            assert found[name].dtype == value.dtype
            assert found[name].tobytes() == value.tobytes()
        store.adapters.reset()
        assert (store.adapters.current(), store.adapters.state()) == (None, None)
        assert [v.version for v in store.adapters.all()] == [1, 2, 3]
        assert store.adapters.size() == sum(v.size for v in store.adapters.all()) > 0
        assert store.adapters.save(state(4), offer=OFFER, round=4, shared_version=4, note="new") == 4
        newest = store.adapters.of_round(OFFER, 4)
        assert newest is not None
        assert (newest.note, newest.version) == ("new", 4)
        assert store.adapters.of_round(OFFER, 5) is None
        with pytest.raises(InputError, match=r"no version 9.*kept: 1, 2, 3, 4"):
            store.adapters.rollback(9)
        with pytest.raises(InputError, match="no version 9"):
            store.adapters.state(9)


def test_a_real_private_state_goes_through(tmp_path: Path) -> None:
    arrays = state(7)
    with open_store(tmp_path) as store:
        store.adapters.save(
            PrivateState.from_arrays(arrays).to_arrays(), offer=OFFER, round=1, shared_version=1
        )
        found = store.adapters.state()
    assert found is not None
    again = PrivateState.from_arrays(found)
    assert again.steps.tolist() == [7]
    assert again.adapter["layer.A"].numpy().tobytes() == arrays["adapter/layer.A"].tobytes()


@settings(max_examples=40, deadline=None)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
    shape=st.lists(st.integers(0, 3), max_size=3),
    kind=st.sampled_from(["float32", ">f4", "float64", "int64", "bool", "float16"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_arrays_keep_every_bit(name: str, shape: list[int], kind: str, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2, (*shape, np.dtype(kind).itemsize), dtype=np.uint8)
    value = np.ascontiguousarray(bits).view(kind).reshape(shape)
    arrays = {name: value, name + "'": np.asfortranarray(value)}
    found = from_blob(to_blob(arrays))
    assert list(found) == list(arrays)
    for key, array in arrays.items():
        assert (found[key].shape, found[key].tobytes()) == (array.shape, array.tobytes())
        assert found[key].dtype == array.dtype


def test_objects_and_damaged_arrays_are_refused() -> None:
    with pytest.raises(InputError, match="object"):
        to_blob({"x": np.array([{}])})
    blob = to_blob({"x": np.arange(4)})
    for damaged in (b"", b"PK", blob[:-30], blob.replace(b"NUMPY", b"DUMPY")):
        with pytest.raises(StorageError, match="cannot be read"):
            from_blob(damaged)


def test_a_message_is_kept_once_and_older_ones_leave_their_receipt(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        first = store.outbox.keep(SCOPE, "release-1", OFFER, noisy(1)(), clip=0.5)
        again = store.outbox.keep(SCOPE, "release-1", OFFER, noisy(1)())
        assert again.receipt == first.receipt
        assert again.message is not None
        assert first.message is not None
        assert again.message["layer.A"].tobytes() == first.message["layer.A"].tobytes()
        assert [t[0] for t in first.tensors] == [t.name for t in MANIFEST.tensors]
        assert (first.clip, first.receipt.bytes, first.receipt.round) == (0.5, 36, 1)
        store.outbox.keep(SCOPE, "release-2", OFFER, noisy(2)())
        store.outbox.keep("another study", "release-1", OFFER, noisy(1)())
        assert [s.message_kept for s in store.outbox.receipts()] == [True, True, False]
        old = store.outbox.receipt(1)
        assert (old.message, old.receipt) == (None, first.receipt)
        assert store.outbox.find(SCOPE, "release-9") is None
        with pytest.raises(InputError, match="no receipt 9"):
            store.outbox.receipt(9)


def test_consent_memory_releases_refusals_and_settings(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert store.consent.current() is None
        assert store.consent.accept(OFFER, "paper 1", "signer", 2.0) == 1
        assert store.consent.accept(OFFER, "paper 2", "signer", math.inf) == 2
        current = store.consent.current()
        assert current is not None
        assert (current.paper, current.epsilon_cap) == ("paper 2", math.inf)
        store.consent.withdraw()
        assert store.consent.current() is None
        assert [c.paper for c in store.consent.history()] == ["paper 1", "paper 2"]
        for cap in (0.0, -1.0, math.nan):
            with pytest.raises(InputError, match="epsilon cap"):
                store.consent.accept(OFFER, "paper", "signer", cap)
        for round in (1, 2, 3):
            store.memory.save(OFFER, round, {"x": np.array([round])})
        assert store.memory.read(OFFER, 4)["x"].tolist() == [3]
        assert store.memory.read(OFFER, 3)["x"].tolist() == [2]
        assert store.memory.read(OFFER, 2) == store.memory.read("other", 9) == {}
        release = Release(OFFER, 3, 2, "tensors")
        store.releases.take(SCOPE, release)
        assert (store.releases.newest(SCOPE), store.releases.newest("other")) == (release, None)
        assert [store.refusals.count("too early") for _ in range(2)] == [1, 2]
        store.refusals.count("bad signer")
        assert [(r["reason"], r["count"]) for r in store.refusals.all()] == [
            ("too early", 2),
            ("bad signer", 1),
        ]
        with pytest.raises(InputError, match="201"):
            store.refusals.count("x" * 201)
        store.put("paused", "yes")
        assert (store.get("paused"), store.get("other", "no")) == ("yes", "no")
        assert store.size() > 0


def test_a_transaction_is_all_or_nothing_and_nests(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(ZeroDivisionError), store.transaction():
        store.feedback.add("p", "a", "b", "taste")
        with store.transaction():
            store.adapters.save(state(1), offer=OFFER, round=1, shared_version=1)
        raise ZeroDivisionError
    with open_store(tmp_path) as store:
        assert (store.feedback.all(), store.adapters.all()) == ([], [])


def test_threads_share_a_store(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, open_store(tmp_path) as other:

        def work(which: Store, name: str) -> None:
            for number in range(20):
                with which.transaction():
                    which.put(name, str(int(which.get(name, "0")) + 1))
                    which.feedback.add(name, f"a{number}", "b", "taste")

        threads = [
            threading.Thread(target=work, args=(s, f"count {k % 2}"))
            for k, s in enumerate([store, store, other, other])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # every read-then-write was under the lock: none was lost
        assert (store.get("count 0"), store.get("count 1")) == ("40", "40")
        assert store.feedback.counts()["taste"] == 80


def test_the_file_is_private_durable_and_scrubbed(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with open_store(tmp_path) as store:
            store.feedback.add("p", "a", "b", "taste")
            assert {f.stat().st_mode & 0o777 for f in tmp_path.iterdir()} == {0o600}
            names = ("journal_mode", "synchronous", "secure_delete", "foreign_keys", "temp_store")
            values = [store.database.row(f"PRAGMA {name}") for name in names]
            assert values == [("wal",), (2,), (1,), (1,), (2,)]
    finally:
        os.umask(old)
    assert [f.name for f in tmp_path.iterdir()] == ["store.db"]
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "store.db").execute("SELECT * FROM sqlite_master")


def test_another_key_is_told_and_changes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open_store(tmp_path) as store:
        store.feedback.add("p", "a", "b", "taste")
    before = (tmp_path / "store.db").read_bytes()
    with pytest.raises(InputError, match="another key") as caught:
        Store(tmp_path / "store.db", bytes(32))
    assert "store.json" in str(caught.value.hint)
    with pytest.raises(InputError, match="31 bytes"):
        Store(tmp_path / "store.db", KEY[:-1])
    assert (tmp_path / "store.db").read_bytes() == before
    assert capfd.readouterr() == ("", "")


def test_every_changed_page_is_found(tmp_path: Path) -> None:
    terms = local_terms()
    with open_store(tmp_path) as store:
        live(store, terms, 1)
    path = tmp_path / "store.db"
    whole = path.read_bytes()
    assert len(whole) % 4096 == 0
    for page in range(len(whole) // 4096):
        damaged = bytearray(whole)
        damaged[page * 4096 + 2000] ^= 1
        path.write_bytes(damaged)
        with pytest.raises((StorageError, InputError), match=r"damaged|malformed|first page") as caught:  # noqa: SIM117
            with open_store(tmp_path) as store:
                store.check()
        assert caught.value.hint
    path.write_bytes(whole)
    with open_store(tmp_path) as store:
        store.check()
        assert store.feedback.counts()["safety"] == 1


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.feedback.add("p", "a", "b", "taste")
        row = store.database.row("PRAGMA page_count")
        assert row is not None
        store.database.row(f"PRAGMA max_page_count = {row[0]}")
        with pytest.raises(StorageError, match="full") as caught:
            store.adapters.save({"x": np.zeros(100_000)}, offer=OFFER, round=1, shared_version=1)
        assert "free some disk space" in str(caught.value.hint)
        assert "\n" not in caught.value.message
        store.check()
        store.database.row("PRAGMA max_page_count = 100000")
        assert store.adapters.save({"x": np.zeros(100_000)}, offer=OFFER, round=1, shared_version=1) == 1
        assert store.feedback.counts()["taste"] == 1


def test_a_store_that_another_process_holds_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT", 0.05)
    with open_store(tmp_path) as store, open_store(tmp_path) as other, store.transaction():
        store.put("a", "1")
        with pytest.raises(StorageError, match="locked") as caught:
            other.put("a", "2")
        assert "commonground device down" in str(caught.value.hint)
        assert other.get("a") == ""  # reading goes on, of what was there before


@pytest.mark.parametrize("kind", ["no folder", "a folder", "read-only text"])
def test_what_is_no_store_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store.db"
    if kind == "no folder":
        path = tmp_path / "missing" / "store.db"
    elif kind == "a folder":
        path.mkdir()
    else:
        path.write_text("a shopping list, long enough to be looked at " * 200)
    with pytest.raises(CommonGroundError, match=r"store\.db") as caught:
        Store(path, KEY)
    assert caught.value.hint


def test_an_older_store_is_brought_forward_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with open_store(tmp_path) as store:
        store.feedback.add("p", "a", "b", "taste")
    step = ("ALTER TABLE comparisons ADD COLUMN mood TEXT", "CREATE TABLE moods (name TEXT)")
    broken = ("CREATE TABLE half (x)", "CREATE TABLE moods (name TEXT)")
    newer = Database(path, KEY, (*MIGRATIONS, step))
    assert newer.rows("SELECT first, mood FROM comparisons") == [("a", None)]
    assert newer.rows("SELECT version FROM schema_versions") == [(1,), (2,), (3,)]
    newer.close()
    with pytest.raises(InputError, match="has form 3; this version of commonground knows 2"):
        open_store(tmp_path)
    with pytest.raises(StorageError, match="moods already exists"):
        Database(path, KEY, (*MIGRATIONS, step, broken))
    again = Database(path, KEY, (*MIGRATIONS, step))  # the failed step left nothing behind
    assert again.rows("SELECT COUNT(*) FROM sqlite_master WHERE name = 'half'") == [(0,)]
    again.close()
