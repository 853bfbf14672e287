"""How the store's key is kept: by the operating system's keyring, behind a passphrase, or both.

The key is 32 random bytes. `store.json` beside the store says how to get it and holds nothing that opens it
by itself: the name of a keyring entry, or the key under AES-256-GCM with a key that scrypt makes of the
passphrase (RFC 7914). So a wrong passphrase is told at once, and changing it rewrites a few bytes and no page
of the store. A short check value, HMAC-SHA256 under the key, tells a keyring that gives another key from a
damaged store.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from commonground.client.database import KEY_BYTES, identity_of
from commonground.client.system_keyring import SERVICE, forget, keep, recall
from commonground.errors import InputError, StorageError

NAME = "store.json"
SCRYPT = {"n": 2**17, "r": 8, "p": 1}  # 128 MiB and about half a second for each guess
MOST_SCRYPT = {"n": 2**20, "r": 8, "p": 4}  # 1 GiB: a file that somebody edited must not fill the memory
LEAST_PASSPHRASE = 8
_BACKUP = "restore store.json and store.db from one backup of the profile folder"


def make_key(folder: Path, passphrase: str | None = None, *, keyring: bool = True) -> bytes:
    """Make the key of a new store and say in `store.json` how it is kept.

    Args:
        folder: the profile.
        passphrase: keep it behind this one; beside a keyring, this is how to get back in when that is lost.
        keyring: keep it in the operating system's keyring.

    Returns:
        32 bytes.

    Raises:
        InputError: there is a key or a store already, the passphrase is too short, neither way was asked
            for, or the keyring cannot keep it.
        StorageError: `store.json` cannot be written.
    """
    path = folder / NAME
    if path.exists() or (folder / "store.db").exists():
        raise InputError(
            f"{folder} has a store already", hint="use another profile folder, or erase this one"
        )
    if passphrase is None and not keyring:
        raise InputError(
            "no way to keep the store's key was chosen; accepted: the keyring, a passphrase, both"
        )
    key = os.urandom(KEY_BYTES)
    values: dict[str, Any] = {"schema": 1, "check": identity_of(key)}
    if passphrase is not None:
        values["passphrase"] = _wrap(key, passphrase)
    if keyring:
        values["keyring"] = keep(key)
    try:
        _write(path, values)
    except BaseException:
        if keyring:
            forget(values["keyring"])
        raise
    return key


def open_key(folder: Path, passphrase: str | None = None) -> bytes:
    """The key of a store.

    Args:
        folder: the profile.
        passphrase: used where it is given; without it the keyring is asked.

    Raises:
        InputError: the passphrase is wrong or needed, or the keyring is locked, lost or another; the hint
            says what to do.
        StorageError: `store.json` is missing or damaged.
    """
    values = _read(folder / NAME)
    if passphrase is not None and "passphrase" in values:
        return _same(_unwrap(values["passphrase"], passphrase), values, "the passphrase")
    if "keyring" not in values:
        raise InputError(
            f"the store in {folder} is kept behind a passphrase, and none was given",
            hint="give the passphrase that was chosen when this device joined",
        )
    if passphrase is not None:
        raise InputError(
            f"the store in {folder} has no passphrase; its key is in the keyring", hint="leave it out"
        )
    way_back = "passphrase" in values
    return _same(recall(values["keyring"], way_back), values, "the keyring")


def ways(folder: Path) -> tuple[str, ...]:
    """How the key is kept: `keyring`, `passphrase` or both; raises `StorageError` like `open_key`."""
    values = _read(folder / NAME)
    return tuple(way for way in ("keyring", "passphrase") if way in values)


def set_passphrase(folder: Path, key: bytes, passphrase: str) -> None:
    """Set or change the passphrase; the store itself is not touched.

    Args:
        folder: the profile.
        key: from `open_key`, so that only who can open the store can do this.
        passphrase: the new one.

    Raises:
        InputError: it is too short, or the key is another store's.
        StorageError: `store.json` cannot be written; the old passphrase still holds then.
    """
    values = _read(folder / NAME)
    _same(key, values, "the caller")
    _write(folder / NAME, values | {"passphrase": _wrap(key, passphrase)})


def door_key(key: bytes) -> bytes:
    """What opens the vault's door to its owner: derived from the store's key, 32 bytes."""
    return hmac.new(key, b"commonground owner's door", hashlib.sha256).digest()


def lock_token(door: bytes, token: str) -> bytes:
    """The token of the owner's socket as it may lie on a disk: only who can open the store reads it."""
    nonce = os.urandom(12)
    return nonce + AESGCM(door).encrypt(nonce, token.encode(), b"owner")


def unlock_token(door: bytes, data: bytes) -> str:
    """The token that `lock_token` locked; raises `InputError` where it is another store's."""
    try:
        return AESGCM(door).decrypt(data[:12], data[12:], b"owner").decode()
    except (InvalidTag, ValueError) as error:
        raise InputError(
            "the running vault's door does not open with this store's key",
            hint="start the device again: commonground device down, then up",
        ) from error


def lock_link(token: str, link: bytes) -> bytes:
    """The page's link as it may lie on a disk: whoever has it is the owner, as with the token itself."""
    return lock_token(hashlib.sha256(token.encode()).digest(), link.decode())


def unlock_link(token: str, data: bytes) -> str:
    """The link that `lock_link` locked; raises `InputError` where it is another's."""
    return unlock_token(hashlib.sha256(token.encode()).digest(), data).strip()


def identity_at(folder: Path) -> str | None:
    """`identity_of` the key of a profile's store, without opening it; None where nothing says it any more."""
    try:
        found = str(_read(folder / NAME).get("check", ""))
    except StorageError:
        return None
    return found if re.fullmatch("[0-9a-f]{32}", found) else None


def change_passphrase(folder: Path, old: str | None, new: str) -> None:
    """Change the passphrase for who knows the old one; where there is none yet, set one beside the keyring.

    The file is replaced as a whole: whatever happens, one of the two opens the store.

    Args:
        folder: the profile.
        old: the passphrase that holds now; None where there is none.
        new: the one from now on.

    Raises:
        InputError: the old one is wrong or missing, the new one too short, or the keyring refuses.
        StorageError: `store.json` cannot be written; the old passphrase still holds.
    """
    if "passphrase" in ways(folder) and old is None:
        raise InputError(
            f"the store in {folder} is behind a passphrase, and the old one was not given",
            hint="give the old passphrase, then the new one",
        )
    with (folder / NAME).open("rb") as held:  # of two changes at once, the second finds the first one's
        fcntl.flock(held, fcntl.LOCK_EX)
        set_passphrase(folder, open_key(folder, old), new)


def destroy_key(folder: Path) -> str:
    """Destroy every way to the key; nothing opens the store any more. Doing it again is no error.

    The keyring entry goes first: were it last, a crash could leave it behind with nothing that names it. The
    file is overwritten before it is removed. A solid-state disk may keep the old block until it is worn out
    or trimmed: of a passphrase-wrapped key that leaves only what scrypt protects.

    Returns:
        What is left to do by hand, or nothing.

    Raises:
        InputError: the keyring is locked or refuses, so the key would live on; nothing was removed.
        StorageError: `store.json` cannot be removed.
    """
    path = folder / NAME
    path.with_suffix(".new").unlink(missing_ok=True)  # of a write that a crash cut short
    if not path.exists():
        return ""
    left = ""
    try:
        values = _read(path)
    except StorageError:
        values = {}  # it leads to no key any more; but a keyring may hold one, under a name that is lost
        left = f"{NAME} was damaged: if the key was in a keyring, delete its entry '{SERVICE}' by hand."
    if "keyring" in values:
        forget(values["keyring"])
    try:
        with path.open("r+b") as file:
            file.write(os.urandom(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        _sync(folder)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be removed: {error.strerror or error}",
            hint="remove it by hand: it leads to the key",
        ) from error
    return left


def _wrap(key: bytes, passphrase: str) -> dict[str, Any]:
    if len(passphrase) < LEAST_PASSPHRASE:
        raise InputError(
            f"the passphrase has {len(passphrase)} characters; at least {LEAST_PASSPHRASE} are needed",
            hint="four or five words that have nothing to do with each other are easy to keep in mind",
        )
    salt, nonce = os.urandom(16), os.urandom(12)
    wrapped = AESGCM(_stretch(passphrase, salt, SCRYPT)).encrypt(nonce, key, identity_of(key).encode())
    return {
        **SCRYPT,
        "salt": salt.hex(),
        "nonce": nonce.hex(),
        "wrapped": wrapped.hex(),
        "check": identity_of(key),
    }


def _unwrap(values: Mapping[str, Any], passphrase: str) -> bytes:
    try:
        numbers = {name: int(values[name]) for name in SCRYPT}
        salt, nonce, wrapped = (bytes.fromhex(values[name]) for name in ("salt", "nonce", "wrapped"))
        check = str(values["check"]).encode()
        if any(not 1 <= numbers[name] <= most for name, most in MOST_SCRYPT.items()):
            raise ValueError("scrypt's numbers are out of range")
        stretched = _stretch(passphrase, salt, numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{NAME} is damaged: {error}", hint=_BACKUP) from error
    try:
        return AESGCM(stretched).decrypt(nonce, wrapped, check)
    except (InvalidTag, ValueError) as error:
        raise InputError(
            "the passphrase is not this store's", hint="nothing was changed; try again"
        ) from error


def _stretch(passphrase: str, salt: bytes, numbers: Mapping[str, int]) -> bytes:
    kdf = Scrypt(salt=salt, length=KEY_BYTES, n=numbers["n"], r=numbers["r"], p=numbers["p"])
    return kdf.derive(unicodedata.normalize("NFC", passphrase).encode())  # keyboards differ in accents


def _same(key: bytes, values: Mapping[str, Any], who: str) -> bytes:
    if not hmac.compare_digest(identity_of(key), str(values.get("check", ""))):
        raise InputError(
            f"{who} gives the key of another store", hint=f"use the passphrase if you set one, or {_BACKUP}"
        )
    return key


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(f"{path} is missing, and with it the way to the key", hint=_BACKUP) from error
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}", hint=_BACKUP) from error
    known = isinstance(values, dict) and values.get("schema") == 1
    if not known or not all(isinstance(values.get(way, {}), dict) for way in ("keyring", "passphrase")):
        raise StorageError(f"{path} is damaged, or a newer version of commonground wrote it", hint=_BACKUP)
    return dict(values)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """The whole file or the old one, on the disk when this returns."""
    new = path.with_suffix(".new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(values, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        _sync(path.parent)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="nothing was changed; make room, try again",
        ) from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
