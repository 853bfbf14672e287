"""The operating system's keyring, with every way it fails said in one line.

A keyring that keeps secrets in clear is refused, and what was put in is read back: some keyrings take a
secret and drop it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import keyring
from keyring.backends import chainer
from keyring.errors import KeyringLocked, NoKeyringError, PasswordDeleteError

from commonground.client.database import KEY_BYTES
from commonground.errors import InputError

SERVICE = "commonground"
_PASSPHRASE = "unlock or install a keyring, or choose a passphrase instead"
_BACK = "open the store with its passphrase"
_NO_BACK = (
    "log in to the desktop session that the store was made in, or restore the keyring's entry "
    "'commonground'; without it the store cannot be opened by anybody"
)


def keep(key: bytes, name: str = "") -> dict[str, str]:
    """Put a key into the keyring.

    Args:
        key: 32 bytes.
        name: of the entry; '' makes one up.

    Returns:
        Where it is: service, name, and the keyring's own name.

    Raises:
        InputError: there is no keyring, it is locked, it keeps secrets in clear, or it did not keep this one.
    """
    name = name or f"store {secrets.token_hex(8)}"
    where = {"service": SERVICE, "name": name, "backend": _backend()}
    if any(word in where["backend"] for word in ("keyrings.alt", "backends.null", "backends.fail")):
        raise InputError(f"the keyring {where['backend']} keeps no secrets safe here", hint=_PASSPHRASE)
    try:
        keyring.set_password(where["service"], where["name"], key.hex())
        kept = keyring.get_password(where["service"], where["name"])
    except Exception as error:  # backends raise what their desktop's library raises
        raise InputError(
            f"the keyring cannot keep the store's key: {_reason(error)}", hint=_PASSPHRASE
        ) from error
    if kept != key.hex():
        raise InputError(f"the keyring {where['backend']} did not keep the store's key", hint=_PASSPHRASE)
    return where


def recall(where: Mapping[str, Any], way_back: bool) -> bytes:
    """The key that `keep` put there.

    Args:
        where: what `keep` returned.
        way_back: whether a passphrase opens the store too.

    Raises:
        InputError: the keyring is locked, lost, changed, or has not got it.
    """
    hint = _BACK if way_back else _NO_BACK
    try:
        found = keyring.get_password(str(where.get("service")), str(where.get("name")))
    except KeyringLocked as error:
        raise InputError("the keyring is locked", hint=f"unlock it and try again, or {hint}") from error
    except Exception as error:
        raise InputError(f"the keyring cannot be asked for the key: {_reason(error)}", hint=hint) from error
    if found is None:
        before, now = where.get("backend"), _backend()
        changed = f"; it was made with {before}, and the keyring is now {now}" if before != now else ""
        raise InputError(f"the keyring has no key for this store{changed}", hint=hint)
    try:
        key = bytes.fromhex(found)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InputError("what the keyring keeps for this store is no key", hint=hint)
    return key


def forget(where: Mapping[str, Any]) -> None:
    """Delete the key from the keyring; it not being there is no error.

    Raises:
        InputError: the keyring is locked or refuses, so the key would live on.
    """
    service, name = str(where.get("service")), str(where.get("name"))
    try:
        if keyring.get_password(service, name) is not None:
            keyring.delete_password(service, name)
    except PasswordDeleteError as error:
        raise InputError(f"the keyring does not delete the key: {error}", hint="delete it by hand") from error
    except Exception as error:
        raise InputError(
            f"the keyring cannot be asked to delete the key: {_reason(error)}",
            hint="unlock the keyring and try again, so that the key does not live on in it",
        ) from error


def _backend() -> str:
    """Name of the keyring in use, with those behind a chain."""
    found = keyring.get_keyring()
    parts = found.backends if isinstance(found, chainer.ChainerBackend) else [found]
    return ", ".join(f"{type(part).__module__}.{type(part).__qualname__}" for part in parts)


def _reason(error: Exception) -> str:
    if isinstance(error, NoKeyringError):
        return "there is none on this machine"
    if isinstance(error, KeyringLocked):
        return "it is locked"
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
