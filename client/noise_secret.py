"""The secret that makes the noise of a device's messages: on this machine, and never in the profile.

Noise is a function of this secret, of the release that is answered and of the clipped update
(`commonground.client.noise`). So a profile that was put back from a copy answers a release that it has
answered before with the very same bytes, and spends nothing twice; were the noise fresh, each copy would be
one more look at the same update.

It lies in the operating system's keyring where the store's key does, else in a file of its own below the
user's state folder (Linux: `~/.local/state/commonground/noise/`), mode 0600, under a name that says nothing:
`Store.identity`. A copy of the folder on another machine finds no secret and refuses to answer: nobody can
say what the first machine has answered since.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import platformdirs

from commonground.client.system_keyring import SERVICE, forget, keep, recall
from commonground.errors import InputError, Reason, StorageError
from commonground.files import write_atomically

BYTES = 32
MISSING = (
    "this machine has no secret to make this profile's noise with, as after the folder was copied from "
    "another one; a message made without it could be a second look at what that one has sent"
)


def secrets_folder() -> Path:
    """Where secrets lie that no keyring keeps."""
    return Path(platformdirs.user_state_dir("commonground")) / "noise"


def make_secret(identity: str, *, keyring: bool) -> bytes:
    """Make the secret of a store, or find the one that it has.

    Args:
        identity: of the store, see `Store.identity`.
        keyring: whether the operating system's keyring keeps it, as it keeps the store's key.

    Raises:
        InputError: the keyring cannot keep it.
        StorageError: the file cannot be written.
    """
    found = _found(identity)
    if found is not None:
        return found
    secret = secrets.token_bytes(BYTES)
    if keyring:
        keep(secret, _entry(identity))
        return secret
    path = _path(identity)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, f"{secret.hex()}\n".encode(), private=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
    return secret


def read_secret(identity: str) -> bytes:
    """The secret of a store; raises `InputError` where this machine has none."""
    found = _found(identity)
    if found is None:
        raise InputError(
            MISSING,
            hint="go on with the profile on the machine that it was made on; or leave, and join with a new "
            "invitation",
            reason=Reason.NO_SECRET,
        )
    return found


def forget_secret(identity: str) -> None:
    """Remove the secret from file and keyring; doing it again is no error.

    Raises:
        InputError: the keyring is locked or refuses.
        StorageError: the file cannot be removed.
    """
    path = _path(identity)
    try:
        if path.exists():
            path.write_bytes(os.urandom(path.stat().st_size))
            path.unlink(missing_ok=True)
            return
    except OSError as error:
        raise StorageError(
            f"{path} cannot be removed: {error.strerror or error}", hint="remove it by hand"
        ) from error
    if _found(identity) is not None:
        forget({"service": SERVICE, "name": _entry(identity)})


def _found(identity: str) -> bytes | None:
    try:
        found = bytes.fromhex(_path(identity).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        found = b""
    if len(found) == BYTES:
        return found
    try:
        return recall({"service": SERVICE, "name": _entry(identity)}, way_back=True)
    except InputError:
        return None


def _entry(identity: str) -> str:
    return f"noise {identity}"


def _path(identity: str) -> Path:
    return secrets_folder() / f"{identity}.key"
