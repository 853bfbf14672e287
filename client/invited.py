"""What an invitation leads to before and after the person decides: what it means here, and enrolment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commonground import __version__
from commonground.client.contact import LATER, ask, fetch
from commonground.client.profile import Profile
from commonground.errors import InputError, ModelError, TrustError
from commonground.files import write_atomically
from commonground.hub import FLAG, Download, cached, is_hub_name
from commonground.hub import fetch as fetch_model
from commonground.study.carried import carried_models
from commonground.study.enrolment import PATH, enrolment_request
from commonground.study.invitation import Invitation, read_invitation
from commonground.study.offer import ENCODER, Offer
from commonground.study.public_parts import LARGEST as LARGEST_PARTS
from commonground.study.public_parts import NAME as PARTS
from commonground.study.public_parts import PATH as PARTS_PATH
from commonground.study.public_parts import read_parts
from commonground.study.signing import fingerprint

if TYPE_CHECKING:
    from commonground.client.learner import Understood

LARGEST = 4 << 20  # bytes of an invitation
NEW_ONE = "ask the operator for a new invitation"
ANSWERS = {
    403: ("the server refuses the invitation: it was used already, was revoked, or has expired", NEW_ONE),
    413: ("the server refuses the enrolment: it is too large", NEW_ONE),
    429: ("the server has had too many enrolments in a short time", "try again in a few minutes"),
    502: ("the study's server is not up yet", "try again in a minute"),
    503: ("the study's server is not up yet", "try again in a minute"),
    504: ("the study's server is not up yet", "try again in a minute"),
}


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


def read_file(file: Path) -> tuple[bytes, Invitation]:
    """An invitation, as it is and read; raises `InputError` or `TrustError`."""
    try:
        with file.open("rb") as opened:
            text = opened.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"invitation {file} cannot be read: {error.strerror or error}") from error
    if len(text) > LARGEST:
        raise InputError(f"invitation {file} has more than {LARGEST >> 20} MB; it is none")
    return text, read_invitation(text)


def check_software(offer: Offer) -> None:
    """Refuse an offer for another version of this software; raises `TrustError`."""
    if offer.software != __version__:  # before anything heavy is loaded
        raise TrustError(
            f"study {offer.study} runs commonground {offer.software}; installed is {__version__}",
            hint=f"install it: pip install commonground=={offer.software}, or ask the operator",
        )


def take_parts(client: httpx.Client, invitation: Invitation, say: Callable[[str], None]) -> bytes | None:
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


def take_models(invitation: Invitation, decide: Callable[[list[str]], bool] | None) -> None:
    """Fetch what the study needs and this machine does not have, once the person was asked.

    Args:
        invitation: whose.
        decide: is shown what would be fetched; None where nobody can be asked, which is a no.

    Raises:
        ModelError: she said no, or it cannot be fetched, or is larger than was said.
        TrustError: the charter that is looked at for it is damaged.
    """
    wanted = _missing(invitation)
    if not wanted:
        return
    lines = ["This study needs what is not on this device yet:", *(one.words() for one in wanted)]
    if decide is None or not decide(lines):
        raise ModelError(
            f"this study needs {wanted[0].words()}, and it was not asked to be fetched; accepted: {FLAG}",
            hint="nothing was fetched; or put the model into this machine's Hugging Face cache yourself",
        )
    for one in wanted:
        fetch_model(one.name, "the study's model", one.bytes)


def _missing(invitation: Invitation) -> list[Download]:
    """Hub names in offer and charter that are not in this machine's cache; asks nobody."""
    offer = invitation.terms
    found = {}
    if offer.settings.model.base:
        found[offer.settings.model.base] = offer.base.get("base") or offer.base.get(ENCODER, "")
    if invitation.charter:
        found |= carried_models(invitation.charter)
    return [
        Download(name, digest, offer.downloads.get(name))
        for name, digest in found.items()
        if is_hub_name(name) and cached(name) is None
    ]


def derive(invitation: Invitation, parts: bytes | None, say: Callable[[str], None]) -> Understood:
    """What the offer means here; errors as in `learner.understand`, and in `answers.try_charter`."""
    offer = invitation.terms
    if not offer.is_open():
        say(f"the study takes messages from {offer.opens} to {offer.closes}, and none now")
    say("looking at the base model and deriving what may leave this device")
    from commonground.client.learner import understand
    from commonground.client.runtime import check_flower

    check_flower()
    meant = understand(offer, parts, invitation.charter)
    if meant.charter is not None:
        from commonground.client.answers import try_charter

        try_charter(meant)
    return meant


class RefusedError(TrustError):
    """The server does not enrol this key."""


class LaterError(TrustError):
    """The server cannot enrol anybody now."""


def new_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node's key, written to `path` with mode 0600."""
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    write_atomically(path, key.private_bytes(*form), private=True)
    return key


def node_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    """The key that `new_node_key` wrote; None where there is none."""
    try:
        found = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return None
    return found if isinstance(found, ec.EllipticCurvePrivateKey) else None


def read_answer(content: bytes) -> tuple[int, str, str]:
    """Slot, name and node that a server answers an enrolment with; raises `TrustError`."""
    try:
        found = json.loads(content)
        slot, name, node = int(found["slot"]), str(found["name"]), str(found.get("node_id") or "")
        if not (name.isprintable() and node.isprintable()):  # they are shown in a terminal
            raise ValueError("not to be printed")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise TrustError(
            "the server's answer to the enrolment cannot be read",
            hint="try the same command once more; then ask the operator",
        ) from error
    return slot, name, node


def enrol(
    client: httpx.Client, invitation: Invitation, key: ec.EllipticCurvePrivateKey, folder: Path
) -> Profile:
    """Use the invitation's token for a node key: what is asked again with the same key is answered again.

    Args:
        client: of `open_client`.
        invitation: whose.
        key: the node's.
        folder: of the profile that is returned.

    Raises:
        RefusedError, LaterError: the server says no, or not now.
        TrustError: its answer cannot be read.
        UnreachableError: it does not answer.
    """
    asked = enrolment_request(invitation.token, key)
    reply = ask(client, "POST", f"https://{invitation.address}{PATH}", asked)
    if reply.status_code != 200:
        words, hint = ANSWERS.get(
            reply.status_code, (f"the server refuses with code {reply.status_code}", "ask the operator")
        )
        raise (LaterError if reply.status_code in LATER else RefusedError)(words, hint=hint)
    slot, name, node = read_answer(reply.content)
    terms = invitation.terms
    return Profile(
        folder,
        study=invitation.study,
        name=name[:200],
        address=invitation.address,
        signer=invitation.signer,
        offer=terms.digest,
        software=terms.software,
        slot=slot,
        node=node,
    )
