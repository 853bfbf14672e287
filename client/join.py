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
from typing import TYPE_CHECKING

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commonground import __version__
from commonground.client.contact import LATER, UnreachableError, ask, fetch, look, open_client
from commonground.client.profile import FILE, Profile, profiles_home
from commonground.errors import CommonGroundError, InputError, StorageError, TrustError
from commonground.files import sync_folder, write_atomically
from commonground.mishaps import storage_errors
from commonground.study.enrolment import PATH, enrolment_request
from commonground.study.invitation import Invitation, read_invitation
from commonground.study.offer import Offer
from commonground.study.public_parts import FILE as PARTS_FILE
from commonground.study.public_parts import LARGEST as LARGEST_PARTS
from commonground.study.public_parts import NAME as PARTS
from commonground.study.public_parts import PATH as PARTS_PATH
from commonground.study.public_parts import read_parts
from commonground.study.signing import fingerprint

if TYPE_CHECKING:
    from commonground.client.learner import Understood

LARGEST = 4 << 20  # bytes of an invitation
ROOM = 256 << 20  # bytes that a store grows into: comparisons, adapters, messages
NEW_ONE = "ask the operator for a new invitation"
ANSWERS = {
    403: ("the server refuses the invitation: it was used already, was revoked, or has expired", NEW_ONE),
    413: ("the server refuses the enrolment: it is too large", NEW_ONE),
    429: ("the server has had too many enrolments in a short time", "try again in a few minutes"),
    502: ("the study's server is not up yet", "try again in a minute"),
    503: ("the study's server is not up yet", "try again in a minute"),
    504: ("the study's server is not up yet", "try again in a minute"),
}


@dataclass(frozen=True)
class Choices:
    """How the person wants it.

    Attributes:
        signer: the fingerprint or the key that the operator told them, or None.
        epsilon_cap: the most they spend; None is what the offer needs for all its messages.
        passphrase: to keep the store's key behind; None where a keyring keeps it.
        keyring: keep the key in the operating system's keyring.
    """

    signer: str | None = None
    epsilon_cap: float | None = None
    passphrase: str | None = None
    keyring: bool = True


def join(
    file: Path,
    folder: Path | None,
    choices: Choices,
    decide: Callable[[list[str], float], bool],
    say: Callable[[str], None],
) -> Profile | None:
    """Join a study.

    Args:
        file: the invitation.
        folder: the new profile; None takes one named after the study where this user's profiles lie.
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
    text, invitation = _read(file)
    check_signer(invitation.signer, choices.signer)
    say(f"signed by {fingerprint(invitation.signer)}: compare it with what the operator tells you")
    target = (folder or profiles_home() / invitation.study).absolute()
    _check_place(target)
    _check_software(invitation.terms)
    with open_client(invitation.ca) as client:
        look(client, invitation.address)
        parts = _take_parts(client, invitation, say)
        meant = _understand(invitation, parts, say)
        from commonground.client.promise import full_epsilon, promise

        cap = full_epsilon(meant) if choices.epsilon_cap is None else choices.epsilon_cap
        if not decide(promise(meant, invitation.signer), cap):
            return None
        draft = Draft(target, text, invitation, choices, parts)
        with storage_errors(target.parent), draft.kept_if_unknown():
            key = draft.make(cap)
            draft.asked = True
            reply = ask(client, "POST", f"https://{invitation.address}{PATH}", _request(invitation, key))
            profile = _enrolled(reply, invitation, draft.folder)
            profile.save()
            os.rename(draft.folder, target)
            sync_folder(target.parent)
    return replace(profile, folder=target)


def check_signer(signer: str, told: str | None) -> None:
    """Compare the invitation's signer with what the operator told the person; raises `TrustError`."""
    if told is None:
        return
    plain = "".join(told.split()).lower()
    if plain not in (signer, fingerprint(signer).replace(" ", "")):
        raise TrustError(
            f"the invitation is signed by {fingerprint(signer)}; you were told {told}",
            hint="do not join with it: ask the operator, over another channel",
        )


def _read(file: Path) -> tuple[bytes, Invitation]:
    try:
        with file.open("rb") as opened:
            text = opened.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"invitation {file} cannot be read: {error.strerror or error}") from error
    if len(text) > LARGEST:
        raise InputError(f"invitation {file} has more than {LARGEST >> 20} MB; it is none")
    return text, read_invitation(text)


def _check_place(target: Path) -> None:
    if (target / FILE).exists():
        raise InputError(
            f"this device has joined already: the profile {target} is there",
            hint="start it: commonground device up; or choose another folder with --profile",
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


def _check_software(offer: Offer) -> None:
    if offer.software != __version__:  # before anything heavy is loaded
        raise TrustError(
            f"study {offer.study} runs commonground {offer.software}; installed is {__version__}",
            hint=f"install it: pip install commonground=={offer.software}, or ask the operator",
        )


def _take_parts(client: httpx.Client, invitation: Invitation, say: Callable[[str], None]) -> bytes | None:
    """The public parts that the offer names, held to its digest; None where it names none."""
    digest = invitation.terms.base.get(PARTS)
    if digest is None:
        return None
    found = fetch(
        client, f"https://{invitation.address}{PARTS_PATH}", LARGEST_PARTS, "the study's public parts"
    )
    read_parts(found, digest)
    say(f"took the public parts of the study's model: {len(found) / 1000:,.0f} kB")
    return found


def _understand(invitation: Invitation, parts: bytes | None, say: Callable[[str], None]) -> Understood:
    offer = invitation.terms
    if not offer.is_open():
        say(f"the study takes messages from {offer.opens} to {offer.closes}, and none now")
    say("looking at the base model and deriving what may leave this device")
    from commonground.client.learner import understand
    from commonground.client.runtime import check_flower

    check_flower()
    return understand(offer, parts, invitation.charter)


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
        from commonground.client.keys import make_key, open_key
        from commonground.client.store import NAME, Store

        found = self._earlier()
        self.again = found is not None
        if found is None:
            self.forget()
            self.folder.mkdir(mode=0o700)
            found = ec.generate_private_key(ec.SECP384R1())
            write_atomically(self.folder / "node.key", _openssh(found), private=True)
            write_atomically(self.folder / "ca.crt", self._invitation.ca.encode())
            raw = make_key(self.folder, self._choices.passphrase, keyring=self._choices.keyring)
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
        except _RefusedError:
            self.forget()
            raise
        except BaseException as error:
            never = isinstance(error, _LaterError) or (isinstance(error, UnreachableError) and not error.sent)
            if not self.again and (never or not self.asked):
                self.forget()
            raise

    def forget(self) -> None:
        """Leave nothing; a key in the keyring goes first."""
        from commonground.client.keys import destroy_key

        if self.folder.exists():
            with suppress(CommonGroundError):
                destroy_key(self.folder)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _earlier(self) -> ec.EllipticCurvePrivateKey | None:
        try:
            if (self.folder / "invitation").read_bytes() != self._text:
                return None
            found = serialization.load_ssh_private_key((self.folder / "node.key").read_bytes(), None)
        except (OSError, ValueError, TypeError):
            return None
        return found if isinstance(found, ec.EllipticCurvePrivateKey) else None


class _RefusedError(TrustError):
    """The server does not enrol this key."""


class _LaterError(TrustError):
    """The server cannot enrol anybody now."""


def _openssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    return key.private_bytes(*form)


def _request(invitation: Invitation, key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    return enrolment_request(invitation.token, key)


def _enrolled(reply: httpx.Response, invitation: Invitation, draft: Path) -> Profile:
    if reply.status_code != 200:
        words, hint = ANSWERS.get(
            reply.status_code, (f"the server refuses with code {reply.status_code}", "ask the operator")
        )
        raise (_LaterError if reply.status_code in LATER else _RefusedError)(words, hint=hint)
    try:
        found = reply.json()
        slot, name, node = int(found["slot"]), str(found["name"]), str(found.get("node_id") or "")
        if not (name.isprintable() and node.isprintable()):  # they are shown in a terminal
            raise ValueError("not to be printed")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise TrustError(
            "the server's answer to the enrolment cannot be read",
            hint="try the same command once more; then ask the operator",
        ) from error
    terms = invitation.terms
    return Profile(
        draft,
        study=invitation.study,
        name=name[:200],
        address=invitation.address,
        signer=invitation.signer,
        offer=terms.digest,
        software=terms.software,
        slot=slot,
        node=node,
    )
