"""A disk that fails at every call in turn, and texts that must never lie on it in clear."""

import contextlib
import errno
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toy_disk import failing
from toy_store import KEY, SCOPE, bytes_of, live, local_terms, open_store, state

from commonground.client.database import Database
from commonground.client.device_ledger import DeviceLedger
from commonground.client.schema import MIGRATIONS
from commonground.client.takeout import export
from commonground.errors import StorageError

TERMS = local_terms(9)
MANY = 1000


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Path]:
    """Fresh copies of a store with one round in it, one after another."""
    first = tmp_path / "first"
    first.mkdir()
    with open_store(first) as store:
        live(store, TERMS, 1)

    def each() -> Iterator[Path]:
        for number in range(MANY):
            copy = tmp_path / f"copy-{number}"
            shutil.copytree(first, copy)
            yield copy
            shutil.rmtree(copy)

    return each()


def visit(folder: Path) -> tuple[str, bytes, StorageError | None]:
    """Open, say something, live a round, close; how far that came, what was sent, and the error."""
    done, sent, store = "nothing", b"", None
    try:
        store = open_store(folder)
        store.feedback.add("prompt 2", "yes", "no", "taste")
        done = "feedback"
        sent = live(store, TERMS, 2)
        done = "round"
        store.close()
        done = "closed"
    except StorageError as error:
        if store is not None:
            store.database.connection.close()  # as the process would by ending
        return done, sent, error
    return done, sent, None


@pytest.mark.parametrize(
    ("way", "number"),
    [("fails once", errno.ENOSPC), ("fails once", errno.EIO), ("fails from then on", errno.ENOSPC)],
)
def test_every_failing_call_is_one_line_and_loses_nothing(
    copies: Iterator[Path], way: str, number: int
) -> None:
    """The n-th writing call fails, for every n until none fires: old or new, never between, never damaged."""
    told = []
    for at, folder in enumerate(copies, start=1):
        with failing(at, way, number) as disk:  # type: ignore[arg-type]
            done, sent, error = visit(folder)
        told += [error] if error is not None else []
        with open_store(folder) as store:
            store.check()
            ledger = DeviceLedger(store)
            ledger.refuse_if_unaccounted()
            first = store.adapters.state(1)
            assert first is not None
            assert first["adapter/layer.A"].tobytes() == state(1)["adapter/layer.A"].tobytes()
            assert store.feedback.counts()["safety"] == 1
            assert store.feedback.counts()["taste"] >= (done != "nothing")
            kept = store.outbox.find(SCOPE, "release-2")
            charged = [e["status"] for e in ledger.entries() if e["key"] == "release-2"]
            assert (kept is not None) == (charged == ["committed"])
            if done in ("round", "closed"):
                assert kept is not None
                assert bytes_of(kept.message) == sent
                assert store.adapters.state(2) is not None
        if not disk.fired:
            break
    assert not disk.fired
    assert disk.calls > 20  # of the whole visit, none of which failed
    assert len(told) > 15
    assert not any("\n" in error.message or not error.hint for error in told)


def test_every_failing_call_while_a_store_is_made(tmp_path: Path) -> None:
    for at in range(1, MANY):
        folder = tmp_path / str(at)
        folder.mkdir()
        with failing(at, "fails once") as disk, contextlib.suppress(StorageError):
            Database(folder / "store.db", KEY, MIGRATIONS).close()
        with open_store(folder) as store:  # half a store is gone on with
            store.check()
            store.feedback.add("p", "a", "b", "taste")
        shutil.rmtree(folder)
        if not disk.fired:
            break
    assert not disk.fired
    assert disk.calls > 20


def test_no_text_lies_in_clear_in_any_file(tmp_path: Path) -> None:
    """200 texts through everything a person does with them; then every byte of the folder is searched."""
    texts = [f"sentinel {secrets.token_hex(12)} of a private life" for _ in range(200)]
    numbers = np.random.default_rng(3).standard_normal(64).astype(np.float32)
    seen: set[str] = set()
    with open_store(tmp_path) as store:
        ledger_round = 0
        for k in range(0, 200, 4):
            prompt, chosen, rejected, why = texts[k : k + 4]
            if k % 3:
                store.feedback.add(prompt, chosen, rejected, "taste", why)
            else:
                store.feedback.undecided(prompt, chosen, rejected, "both bad", why)
            if k % 5 == 0:
                store.feedback.undo()
            if k % 50 == 0:
                ledger_round += 1
                live(store, TERMS, ledger_round)
                store.adapters.save(
                    {"adapter/x": numbers}, offer="o", round=ledger_round, shared_version=1, note=why
                )
                store.put(why, prompt)
            with pytest.raises(ZeroDivisionError), store.transaction():
                store.feedback.add(prompt + "!", chosen, rejected, "safety")
                raise ZeroDivisionError
            if k % 40 == 0:
                seen |= scan(tmp_path, texts, numbers)
        assert {file.name for file in tmp_path.iterdir()} == {"store.db", "store.db-wal", "store.db-shm"}
        away = tmp_path.parent / f"{tmp_path.name}.zip"
        export(store, away)
    seen |= scan(tmp_path, texts, numbers)
    assert seen == set()
    # the search finds them where they are: in a plain file of the same folder
    (tmp_path / "plain").write_text(f"x{texts[7].upper().lower()}x")
    (tmp_path / "numbers").write_bytes(b"x" + numbers[:4].tobytes())
    assert scan(tmp_path, texts, numbers) == {f"plain: {texts[7]}", "numbers: numbers"}


def scan(folder: Path, texts: list[str], numbers: np.ndarray) -> set[str]:
    """Which texts and numbers stand in which files, in the encodings that programs use."""
    found = set()
    for file in folder.iterdir():
        content = file.read_bytes()
        for text in texts:
            if any(text.encode(code) in content for code in ("utf-8", "utf-16-le", "utf-16-be")):
                found.add(f"{file.name}: {text}")
        if any(numbers[:4].astype(kind).tobytes() in content for kind in ("<f4", ">f4", "<f8", ">f8")):
            found.add(f"{file.name}: numbers")
    return found
