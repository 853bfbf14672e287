"""`device join` where a device is already: another offer for the same person, with what she has kept.

Comparisons, messages, receipts and the account of privacy stay as they are, so what she has spent counts on;
the private adapter is fitted anew from her comparisons where the base model or the settings are others. The
node's key is a new one: the new study learns nothing that the old one knew. What she had accepted before
counts no more, and the old study hears nothing more of this device.

All that changes is made ready in a draft beside the profile and moved into it by one rename; what a crash
after that leaves to do is done when the same command is given again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from commonground.client.contact import UnreachableError, look, open_client
from commonground.client.invited import (
    LaterError,
    RefusedError,
    check_software,
    derive,
    enrol,
    new_node_key,
    node_key,
    take_models,
    take_parts,
)
from commonground.client.profile import FILE, Profile, read_profile
from commonground.errors import InputError
from commonground.files import sync_folder, write_atomically
from commonground.mishaps import storage_errors
from commonground.own_folders import make_draft, remove_draft
from commonground.study.invitation import Invitation
from commonground.study.public_parts import FILE as PARTS_FILE
from commonground.study.signing import fingerprint

if TYPE_CHECKING:
    from commonground.client.join import Choices
    from commonground.client.learner import Understood
    from commonground.privacy.accounting import Charge

READY = "renewal"  # the draft, once it is in the profile: from here on it is moved, whatever happens
# In this order: until the last one is there the profile is the old one's, and `up` refuses what does not fit.
MOVED = ("ca.crt", "node.key", PARTS_FILE, "invitation", FILE)


def renew(
    folder: Path,
    text: bytes,
    invitation: Invitation,
    choices: Choices,
    decide: Callable[[list[str], float], bool],
    say: Callable[[str], None],
) -> Profile | None:
    """Join with a profile that is there.

    Args:
        folder: the profile.
        text: the invitation as it came; its signer has been compared with what the person was told.
        invitation: the same, read.
        choices: the passphrase is the one that the store has; nothing about it is chosen again.
        decide: as in `join`.
        say: as in `join`.

    Returns:
        The profile as it is now; None where the person did not accept, and nothing changed.

    Raises:
        InputError: the device is running, joined with this invitation before, or its store does not open.
        CommonGroundError: whatever `join` raises; nothing changed.
    """
    from commonground.client.supervisor import only_device

    with only_device(read_profile(folder)), storage_errors(folder):
        if finish(folder):
            say("finished what was begun with an earlier invitation")
        old = read_profile(folder)
        if old.invitation.read_bytes() == text:
            raise InputError(
                f"this device has joined already: the profile {folder} is there",
                hint="start it: commonground device up; or choose another folder with --profile",
            )
        check_software(invitation.terms)
        with open_client(invitation.ca) as client:
            look(client, invitation.address)
            parts = take_parts(client, invitation, say)
            take_models(invitation, choices.download)
            meant = derive(invitation, parts, say)
            spent = _spent(folder, choices.passphrase)
            cap = _needed(meant, spent) if choices.epsilon_cap is None else choices.epsilon_cap
            if not decide(_words(old, invitation, meant, spent), cap):
                return None
            draft = folder.with_name(f".{folder.name}.join")
            key = _prepare(draft, text, invitation, parts)
            try:
                enrol(client, invitation, key, draft).save()
            except (RefusedError, LaterError):
                remove_draft(draft)
                raise
            except UnreachableError as error:
                if not error.sent:
                    remove_draft(draft)
                raise
        _accept(folder, choices.passphrase, invitation, cap)
        os.rename(draft, folder / READY)
        sync_folder(folder)
        finish(folder)
        return read_profile(folder)


def finish(folder: Path) -> bool:
    """Move what is ready into a profile; whether there was something. Done again, it goes on."""
    ready = folder / READY
    if not ready.is_dir():
        return False
    if not (ready / PARTS_FILE).exists() and (ready / "invitation").exists():
        (folder / PARTS_FILE).unlink(missing_ok=True)  # the new offer has none
    for name in MOVED:
        if (ready / name).exists():
            os.replace(ready / name, folder / name)
    sync_folder(folder)
    remove_draft(ready)
    return True


def _prepare(
    draft: Path, text: bytes, invitation: Invitation, parts: bytes | None
) -> ec.EllipticCurvePrivateKey:
    """Everything but what the server says; what an earlier try with this invitation left is gone on with."""
    try:
        known = node_key(draft / "node.key") if (draft / "invitation").read_bytes() == text else None
    except OSError:
        known = None
    if known is not None:
        return known
    remove_draft(draft)
    make_draft(draft).close()
    key = new_node_key(draft / "node.key")
    write_atomically(draft / "ca.crt", invitation.ca.encode())
    if parts is not None:
        write_atomically(draft / PARTS_FILE, parts)
    write_atomically(draft / "invitation", text, private=True)  # last: the rest is there
    return key


def _spent(folder: Path, passphrase: str | None) -> tuple[Charge, ...]:
    from commonground.client.device_ledger import DeviceLedger
    from commonground.client.keys import open_key
    from commonground.client.store import NAME, Store

    with Store(folder / NAME, open_key(folder, passphrase)) as store:
        return DeviceLedger(store).spent()


def _accept(folder: Path, passphrase: str | None, invitation: Invitation, cap: float) -> None:
    from commonground.client.keys import open_key
    from commonground.client.store import NAME, Store

    paper = invitation.offer.to_text()
    with Store(folder / NAME, open_key(folder, passphrase)) as store:
        store.consent.accept(invitation.terms.digest, paper, invitation.signer, cap)


def _needed(meant: Understood, spent: tuple[Charge, ...]) -> float:
    """Epsilon of what was spent and of all messages of the new offer together, at the new offer's delta."""
    from commonground.client.device_ledger import ACCOUNTANT
    from commonground.client.promise import all_messages
    from commonground.privacy.accounting import epsilon_composed

    return epsilon_composed([*spent, all_messages(meant)], meant.terms.claim.delta, ACCOUNTANT)


def _words(old: Profile, invitation: Invitation, meant: Understood, spent: tuple[Charge, ...]) -> list[str]:
    """The consent text of a device that has joined before."""
    from commonground.client.charter_words import charter_changes
    from commonground.client.promise import promise

    whose = "the same operator's key" if old.signer == invitation.signer else "ANOTHER KEY"
    before = (
        f"This device has joined study {old.study}, signed by {fingerprint(old.signer)}. If you accept, it "
        f"leaves that study and joins {invitation.study}, signed by {whose}. Your comparisons stay, and your "
        "own adapter is fitted to them anew where the base model or the settings are others."
    )
    total, delta = _needed(meant, spent), meant.terms.claim.delta
    counts = (
        f"What you have spent counts on: with it, all messages come to epsilon = {total:.4g} at delta = "
        f"{delta:.2g}."
        if spent
        else "Nothing was spent before."
    )
    changed = charter_changes(old.charter(), meant.charter)
    return [before, counts, *changed, *promise(meant, invitation.signer)]
