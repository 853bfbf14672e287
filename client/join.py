"""`device join`: from an invitation to a profile, wholly or not at all.

What needs nobody is found out first: whether the invitation holds, whether this software is the study's. Then
the public parts of the study's model are fetched, the same file for everybody, and held to the offer; with
them the device derives the very manifest that the operator signed, or stops. Then the person reads what it
means and decides. The token is used last. A draft beside the profile is renamed at the end; it stays only
where nobody can say whether the server took the token, so that the same command can be repeated with the same
key.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from commonground.client.contact import UnreachableError, look, open_client
from commonground.client.invited import (
    LaterError,
    RefusedError,
    check_signer,
    check_software,
    derive,
    enrol,
    new_node_key,
    node_key,
    read_file,
    take_models,
    take_parts,
)
from commonground.client.profile import FILE, Profile, profiles_home
from commonground.client.renew import renew
from commonground.errors import CommonGroundError, InputError, StorageError
from commonground.files import sync_folder, write_atomically
from commonground.mishaps import storage_errors
from commonground.own_folders import make_draft, marked, remove_draft, unmark
from commonground.study.invitation import Invitation
from commonground.study.public_parts import FILE as PARTS_FILE
from commonground.study.signing import fingerprint

ROOM = 256 << 20  # bytes that a store grows into: comparisons, adapters, messages


@dataclass(frozen=True)
class Choices:
    """How the person wants it.

    Attributes:
        signer: the fingerprint or the key that the operator told them, or None.
        epsilon_cap: the most they spend; None is what the offer needs for all its messages.
        passphrase: to keep the store's key behind; None where a keyring keeps it.
        keyring: keep the key in the operating system's keyring.
        download: is shown what the study needs from the hub, before it is fetched; None fetches nothing.
    """

    signer: str | None = None
    epsilon_cap: float | None = None
    passphrase: str | None = None
    keyring: bool = True
    download: Callable[[list[str]], bool] | None = None


def join(
    file: Path,
    folder: Path | None,
    choices: Choices,
    decide: Callable[[list[str], float], bool],
    say: Callable[[str], None],
) -> Profile | None:
    """Join a study; where `folder` is a profile already, see `renew`.

    Args:
        file: the invitation.
        folder: the profile; None takes one named after the study where this user's profiles lie.
        choices: how.
        decide: is shown the consent text and the epsilon cap; whether the person accepts.
        say: is told what goes on.

    Returns:
        The profile; None where the person did not accept.

    Raises:
        TrustError: the invitation, its signer, the software, the charter, the manifest or the server's
            certificate is not what it should be, or the server refuses.
        InputError: the profile exists, the clock is off, or the key cannot be kept as asked.
        ModelError: the base model is missing or another.
        StorageError: the disk refuses, or has too little room.
        UnreachableError: the server does not answer.
    """
    text, invitation = read_file(file)
    check_signer(invitation.signer, choices.signer)
    say(f"signed by {fingerprint(invitation.signer)}: compare it with what the operator tells you")
    target = (folder or profiles_home() / invitation.study).absolute()
    if folder is not None and (target / FILE).exists():
        return renew(target, text, invitation, choices, decide, say)
    _check_place(target)
    check_software(invitation.terms)
    with open_client(invitation.ca) as client:
        look(client, invitation.address)
        parts = take_parts(client, invitation, say)
        take_models(invitation, choices.download)
        meant = derive(invitation, parts, say)
        from commonground.client.promise import full_epsilon, promise

        cap = full_epsilon(meant) if choices.epsilon_cap is None else choices.epsilon_cap
        if not decide(promise(meant, invitation.signer), cap):
            return None
        draft = Draft(target, text, invitation, choices, parts)
        with storage_errors(target.parent), draft.kept_if_unknown():
            key = draft.make(cap)
            draft.asked = True
            profile = enrol(client, invitation, key, draft.folder)
            profile.save()
            os.rename(draft.folder, target)
            unmark(target)
            sync_folder(target.parent)
    return replace(profile, folder=target)


def _check_place(target: Path) -> None:
    if (target / FILE).exists():
        raise InputError(
            f"this device has joined already: the profile {target} is there",
            hint="start it: commonground device up; to join anew with what it keeps, name it with --profile",
        )
    with storage_errors(target):
        if target.exists() and any(target.iterdir()):
            raise InputError(f"{target} is no profile and not empty", hint="choose another with --profile")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
    if free < ROOM:
        raise StorageError(
            f"{target.parent} has {free >> 20} MB free; at least {ROOM >> 20} MB are needed",
            hint="free some space or choose another folder with --profile",
        )


class Draft:
    """A profile that is not yet one: all of it but the enrolment.

    Args:
        target: the profile to be.
        text: the invitation as it came.
        invitation: the same, read.
        choices: how the person wants it.
        parts: the public parts of the study's model, or None.

    Attributes:
        again: an earlier try is gone on with, whose key the server may know.
        asked: the server has been asked with this key, or was about to be.
    """

    def __init__(
        self, target: Path, text: bytes, invitation: Invitation, choices: Choices, parts: bytes | None
    ) -> None:
        self.folder = target.with_name(f".{target.name}.join")
        self._text, self._invitation, self._choices, self._parts = text, invitation, choices, parts
        self.again = self.asked = False

    def make(self, cap: float) -> ec.EllipticCurvePrivateKey:
        """Node key, store and consent; what an earlier try with this invitation left is gone on with."""
        from commonground.client.database import identity_of
        from commonground.client.keys import make_key, open_key
        from commonground.client.noise_secret import make_secret
        from commonground.client.store import NAME, Store

        found = self._earlier()
        self.again = found is not None
        if found is None:
            self.forget()
            make_draft(self.folder).close()
            found = new_node_key(self.folder / "node.key")
            write_atomically(self.folder / "ca.crt", self._invitation.ca.encode())
            raw = make_key(self.folder, self._choices.passphrase, keyring=self._choices.keyring)
            make_secret(identity_of(raw), keyring=self._choices.keyring)
        else:
            raw = open_key(self.folder, self._choices.passphrase)
        offer, signer = self._invitation.offer, self._invitation.signer
        with Store(self.folder / NAME, raw) as store:
            store.consent.accept(self._invitation.terms.digest, offer.to_text(), signer, cap)
        if self._parts is not None:
            write_atomically(self.folder / PARTS_FILE, self._parts)
        write_atomically(self.folder / "invitation", self._text, private=True)  # last: the rest is there
        return found

    @contextmanager
    def kept_if_unknown(self) -> Iterator[None]:
        """Leave nothing behind a failure, unless the server may have taken the token for this node key."""
        try:
            yield
        except RefusedError:
            with suppress(StorageError):
                self.forget()
            raise
        except BaseException as error:
            never = isinstance(error, LaterError) or (isinstance(error, UnreachableError) and not error.sent)
            if not self.again and (never or not self.asked):
                with suppress(StorageError):
                    self.forget()
            raise

    def forget(self) -> None:
        """Leave nothing; a key in the keyring goes first."""
        from commonground.client.keys import destroy_key, identity_at
        from commonground.client.noise_secret import forget_secret

        if marked(self.folder):
            with suppress(CommonGroundError):
                if (identity := identity_at(self.folder)) is not None:
                    forget_secret(identity)
                destroy_key(self.folder)
        remove_draft(self.folder)

    def _earlier(self) -> ec.EllipticCurvePrivateKey | None:
        try:
            if (self.folder / "invitation").read_bytes() != self._text:
                return None
        except OSError:
            return None
        return node_key(self.folder / "node.key")
