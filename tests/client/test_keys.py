import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

from commonground.client import keys
from commonground.client.keys import change_passphrase, destroy_key, make_key, open_key, set_passphrase, ways
from commonground.client.store import Store
from commonground.client.takeout import erase
from commonground.errors import InputError, StorageError

WORDS = "correct horse battery"


class Toy(KeyringBackend):
    """A keyring in memory that can be locked, drop what it is given, or refuse to delete."""

    priority = -1.0  # never chosen by itself

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = self.forgetful = self.stubborn = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked("locked\nand a long story")
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.locked:
            raise KeyringLocked("locked")
        if not self.forgetful:
            self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.stubborn:
            raise PasswordDeleteError("not today")
        del self.kept[service, username]


class Other(Toy):
    """The keyring of another desktop."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "SCRYPT", {"n": 2**10, "r": 8, "p": 1})


@pytest.fixture
def ring() -> Iterator[Toy]:
    before = keyring.get_keyring()
    toy = Toy()
    keyring.set_keyring(toy)
    yield toy
    keyring.set_keyring(before)


def test_a_passphrase_opens_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    key = make_key(tmp_path, WORDS, keyring=False)
    assert len(key) == 32
    assert open_key(tmp_path, WORDS) == key
    assert ways(tmp_path) == ("passphrase",)
    with pytest.raises(InputError, match="not this store's"):
        open_key(tmp_path, WORDS + "!")
    with pytest.raises(InputError, match="behind a passphrase, and none was given"):
        open_key(tmp_path)
    text = (tmp_path / "store.json").read_text()
    assert key.hex() not in text
    assert WORDS not in text
    assert (tmp_path / "store.json").stat().st_mode & 0o777 == 0o600


def test_the_passphrase_is_slow_to_guess() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "from commonground.client.keys import SCRYPT; print(SCRYPT)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    numbers = eval(found.stdout)
    assert 128 * numbers["n"] * numbers["r"] >= 2**25  # bytes of memory for one guess: 32 MiB or more


def test_two_stores_never_share_a_key_or_a_salt(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    assert len({make_key(folder, WORDS, keyring=False) for folder in folders}) == 2
    values = [json.loads((folder / "store.json").read_text())["passphrase"] for folder in folders]
    assert values[0]["salt"] != values[1]["salt"]


def test_accents_typed_in_two_ways_are_one_passphrase(tmp_path: Path) -> None:
    key = make_key(tmp_path, "caf\u00e9 au lait", keyring=False)
    assert open_key(tmp_path, "cafe\u0301 au lait") == key


def test_changing_the_passphrase_leaves_the_store_alone(tmp_path: Path) -> None:
    key = make_key(tmp_path, WORDS, keyring=False)
    with Store(tmp_path / "store.db", key) as store:
        store.feedback.add("p", "a", "b", "taste")
    before = (tmp_path / "store.db").read_bytes()
    set_passphrase(tmp_path, key, "another one now")
    assert (tmp_path / "store.db").read_bytes() == before
    assert open_key(tmp_path, "another one now") == key
    with pytest.raises(InputError, match="not this store's"):
        open_key(tmp_path, WORDS)
    with pytest.raises(InputError, match="another store"):
        set_passphrase(tmp_path, bytes(32), "another one now")
    with pytest.raises(InputError, match="at least 8"):
        set_passphrase(tmp_path, key, "short")
    assert open_key(tmp_path, "another one now") == key


def test_a_keyring_keeps_the_key(tmp_path: Path, ring: Toy) -> None:
    key = make_key(tmp_path)
    assert open_key(tmp_path) == key
    assert ways(tmp_path) == ("keyring",)
    assert list(ring.kept.values()) == [key.hex()]
    assert key.hex() not in (tmp_path / "store.json").read_text()
    with pytest.raises(InputError, match="has no passphrase"):
        open_key(tmp_path, WORDS)


def test_a_lost_keyring_is_survived_with_a_passphrase(tmp_path: Path, ring: Toy) -> None:
    key = make_key(tmp_path, WORDS)
    assert ways(tmp_path) == ("keyring", "passphrase")
    assert open_key(tmp_path) == key
    ring.kept.clear()
    with pytest.raises(InputError, match="no key for this store") as caught:
        open_key(tmp_path)
    assert "passphrase" in str(caught.value.hint)
    assert open_key(tmp_path, WORDS) == key


def test_a_locked_keyring_is_told(tmp_path: Path, ring: Toy) -> None:
    key = make_key(tmp_path)
    ring.locked = True
    with pytest.raises(InputError, match="locked") as caught:
        open_key(tmp_path)
    assert "unlock" in str(caught.value.hint)
    with pytest.raises(InputError, match="locked"):
        destroy_key(tmp_path)
    ring.locked = False
    assert open_key(tmp_path) == key


def test_a_keyring_that_changed_is_told(tmp_path: Path, ring: Toy) -> None:
    make_key(tmp_path)
    keyring.set_keyring(Other())
    with pytest.raises(InputError, match=r"made with .*\.Toy, and the keyring is now .*\.Other"):
        open_key(tmp_path)
    keyring.set_keyring(ring)
    (where,) = ring.kept
    ring.kept[where] = bytes(32).hex()
    with pytest.raises(InputError, match="key of another store"):
        open_key(tmp_path)
    ring.kept[where] = "a shopping list"
    with pytest.raises(InputError, match="is no key"):
        open_key(tmp_path)


@pytest.mark.parametrize("fault", ["locked", "forgetful"])
def test_a_keyring_that_does_not_keep_is_found_before_anything_is_stored(
    tmp_path: Path, ring: Toy, fault: str
) -> None:
    setattr(ring, fault, True)
    with pytest.raises(InputError, match=r"locked|did not keep") as caught:
        make_key(tmp_path)
    assert "passphrase" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fail", "null"])
def test_without_a_real_keyring_a_passphrase_is_asked_for(tmp_path: Path, ring: Toy, name: str) -> None:
    keyring.set_keyring(keyring.core.load_keyring(f"keyring.backends.{name}.Keyring"))
    with pytest.raises(InputError, match=f"backends.{name}") as caught:
        make_key(tmp_path)
    assert "passphrase" in str(caught.value.hint)
    assert make_key(tmp_path, WORDS, keyring=False) == open_key(tmp_path, WORDS)


def test_a_second_key_for_one_store_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path, WORDS, keyring=False)
    with pytest.raises(InputError, match="has a store already"):
        make_key(tmp_path, WORDS, keyring=False)
    (tmp_path / "store.json").unlink()
    (tmp_path / "store.db").touch()
    with pytest.raises(InputError, match="has a store already"):
        make_key(tmp_path, WORDS, keyring=False)
    with pytest.raises(InputError, match="no way to keep"):
        make_key(tmp_path / "new", keyring=False)


def test_a_missing_or_damaged_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        open_key(tmp_path, WORDS)
    make_key(tmp_path, WORDS, keyring=False)
    path = tmp_path / "store.json"
    good = json.loads(path.read_text())

    def edited(**changes: object) -> str:
        return json.dumps(good | {"passphrase": good["passphrase"] | changes})

    for text in (
        "",
        "[]",
        '{"schema": 2}',
        edited(salt="zz"),
        edited(n=2**30),
        edited(n=1000),
        edited(r="x"),
    ):
        path.write_text(text)
        with pytest.raises(StorageError, match=r"store\.json") as caught:
            open_key(tmp_path, WORDS)
        assert "backup" in str(caught.value.hint)
    for changes in ({"salt": "00" * 16}, {"wrapped": "00" * 48}, {"nonce": "00" * 12}, {"check": "00" * 16}):
        path.write_text(edited(**changes))
        with pytest.raises(InputError, match="passphrase"):
            open_key(tmp_path, WORDS)


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_entry(
    tmp_path: Path, ring: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StorageError, match="No space left"):
            make_key(tmp_path)
    assert (ring.kept, list(tmp_path.iterdir())) == ({}, [])
    key = make_key(tmp_path, WORDS)
    for name in ("open", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StorageError, match="No space left"):
                set_passphrase(tmp_path, key, "another one now")
        assert [f.name for f in tmp_path.iterdir()] == ["store.json"]
        assert open_key(tmp_path, WORDS) == key


def test_erasing_leaves_nothing_that_opens(tmp_path: Path, ring: Toy) -> None:
    key = make_key(tmp_path, WORDS)
    store = Store(tmp_path / "store.db", key)
    store.feedback.add("p", "a", "b", "taste")
    for name in ("store.db-journal", "store.new"):
        (tmp_path / name).write_text("left by a crash")
    store.close()
    assert "solid-state" in erase(tmp_path)
    assert (ring.kept, list(tmp_path.iterdir())) == ({}, [])
    assert "key is destroyed" in erase(tmp_path)  # doing it again is no error


def test_erasing_stops_where_the_keyring_holds_on_and_goes_on_later(tmp_path: Path, ring: Toy) -> None:
    key = make_key(tmp_path)
    Store(tmp_path / "store.db", key).close()
    ring.stubborn = True
    with pytest.raises(InputError, match="not today"):
        erase(tmp_path)
    assert open_key(tmp_path) == key
    ring.stubborn = False
    (tmp_path / "store.json").write_text("damaged")
    assert "delete its entry 'commonground' by hand" in erase(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_key_goes_first_where_erasing_is_cut_short(
    tmp_path: Path, ring: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(tmp_path, WORDS)
    Store(tmp_path / "store.db", key).close()
    real = Path.unlink

    def cut(path: Path, missing_ok: bool = False) -> None:
        if path.name == "store.db":
            raise PermissionError(13, "Permission denied")
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", cut)
        with pytest.raises(StorageError, match="Permission denied") as caught:
            erase(tmp_path)
    assert "nobody can read it" in str(caught.value.hint)
    assert [f.name for f in tmp_path.iterdir()] == ["store.db"]
    assert ring.kept == {}
    with pytest.raises(StorageError, match="missing"):
        open_key(tmp_path, WORDS)
    erase(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_two_changes_at_once_one_holds_and_the_other_is_told(tmp_path: Path) -> None:
    make_key(tmp_path, WORDS, keyring=False)
    wanted = [f"{WORDS} number {k}" for k in range(4)]
    with ThreadPoolExecutor(len(wanted)) as pool:
        done = [pool.submit(change_passphrase, tmp_path, WORDS, new) for new in wanted]
    held = [new for new, one in zip(wanted, done, strict=True) if one.exception() is None]
    assert len(held) == 1
    assert all(isinstance(one.exception(), InputError | None) for one in done)
    open_key(tmp_path, held[0])
