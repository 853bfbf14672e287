"""A device's folder: what a study is to this machine, and where its parts lie.

`profile.json` holds no secret. The offer is read from the invitation itself and checked against the signer's
key every time, so that nothing in the folder but that key has to be believed. Only the vault opens the store.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import platformdirs

from commonground import __version__
from commonground.client.sockets import run_folder
from commonground.errors import InputError, TrustError
from commonground.files import write_atomically
from commonground.study.invitation import KIND as INVITATION
from commonground.study.offer import KIND as OFFER
from commonground.study.offer import Offer
from commonground.study.public_parts import FILE as PARTS
from commonground.study.signing import Paper

FILE = "profile.json"
CERTIFICATE = (
    "certificate.json",
    "certificate.html",
    "certificate.key",
)  # of her own policy, if she made one
JOIN = "join a study: commonground device join FILE"


@dataclass(frozen=True)
class Profile:
    """What `join` found out and wrote down.

    Attributes:
        folder: the profile.
        study: the study's name.
        name: whom the operator invited, as the operator calls them.
        address: host:port of the front door.
        signer: the operator's public key, hexadecimal.
        offer: digest of the offer in the invitation.
        software: the version of commonground that the offer names.
        slot: the place in the study, from 0, as the server said at enrolment.
        node: the node id that the server gave, or "".
    """

    folder: Path
    study: str
    name: str
    address: str
    signer: str
    offer: str
    software: str
    slot: int
    node: str = ""

    @property
    def invitation(self) -> Path:
        """The signed paper that this profile was made from."""
        return self.folder / "invitation"

    @property
    def certificate(self) -> Path:
        """The certificate authority of the study's front door, PEM: the only one that is believed for it."""
        return self.folder / "ca.crt"

    @property
    def key(self) -> Path:
        """The node's private key."""
        return self.folder / "node.key"

    @property
    def run(self) -> Path:
        """Sockets, secrets and states of the running parts; made with mode 0700 where it is missing."""
        return run_folder(self.folder)

    @property
    def log(self) -> Path:
        """What the parts log. Nothing in it ever leaves."""
        return self.folder / "log"

    def save(self) -> None:
        """Write `profile.json`; raises `StorageError`."""
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_atomically(self.folder / FILE, (json.dumps(values, indent=1) + "\n").encode(), private=True)

    def terms(self) -> Offer:
        """The offer, as the operator signed it.

        Raises:
            InputError: the invitation cannot be read.
            TrustError: it is damaged, or another signed it.
        """
        content = self._invited()
        paper = Paper.from_text(str(content.get("offer", "")), "the offer in the invitation")
        offer = Offer.from_dict(paper.opened(OFFER, self.signer, "the offer in the invitation"))
        if offer.digest != self.offer:
            raise TrustError(
                f"the invitation holds offer {offer.digest[:12]}; this device joined {self.offer[:12]}",
                hint="join again with the new invitation, to see what changed",
            )
        return offer

    def charter(self) -> str:
        """The charter and its files as they came with the invitation; '' where none came.

        Whoever uses them checks them against the offer. Errors as in `terms`.
        """
        return str(self._invited().get("charter", ""))

    def _invited(self) -> dict[str, Any]:
        try:
            text = self.invitation.read_bytes()
        except OSError as error:
            raise InputError(
                f"the invitation {self.invitation} cannot be read: {error.strerror or error}",
                hint="restore the profile folder from a backup, or join again with a new invitation",
            ) from error
        # Expiry is no matter here: it bounds enrolment, which is done.
        return Paper.from_text(text, "the invitation").opened(INVITATION, self.signer, "the invitation")

    def parts(self) -> bytes | None:
        """The public parts of the study's model, as `join` took them; None where there are none.

        Whoever uses them checks them against the offer. Raises `InputError` where they cannot be read.
        """
        path = self.folder / PARTS
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"the public parts {path} cannot be read: {error.strerror or error}") from error

    def check_software(self) -> None:
        """Refuse to run other code than the offer names; raises `TrustError`."""
        offer = self.terms()
        if offer.software != __version__:
            raise TrustError(
                f"study {self.study} runs commonground {offer.software}; installed is {__version__}",
                hint=f"install it: pip install commonground=={offer.software}, or ask the operator",
            )


def read_profile(folder: Path) -> Profile:
    """The profile in a folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        values = json.loads((folder / FILE).read_bytes())
        return Profile(folder=folder, **_checked(values))
    except FileNotFoundError as error:
        raise InputError(f"{folder} is no device profile: there is no {FILE}", hint=JOIN) from error
    except OSError as error:
        raise InputError(f"profile {folder} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"profile {folder} is damaged: {FILE} is no profile",
            hint="restore it from a backup, or join again with a new invitation",
        ) from error


def profiles_home() -> Path:
    """The folder in which profiles lie where `--profile` says nothing."""
    return Path(platformdirs.user_data_dir("commonground"))


def find_profile(folder: Path | None) -> Profile:
    """The profile that a command is about: the one named, or the only one of this user.

    Raises:
        InputError: it cannot be read, or none is named and there is none or more than one.
    """
    if folder is not None:
        return read_profile(folder.absolute())
    home = profiles_home()
    known = sorted(file.parent for file in home.glob(f"*/{FILE}"))
    if len(known) != 1:
        names = ", ".join(str(path) for path in known) or "none"
        hint = "say which one: --profile DIR" if known else JOIN
        raise InputError(f"which study is meant? device profiles in {home}: {names}", hint=hint)
    return read_profile(known[0])


def _checked(values: Any) -> dict[str, Any]:
    kinds = {f.name: int if f.name == "slot" else str for f in fields(Profile) if f.name != "folder"}
    if not isinstance(values, dict) or set(values) != set(kinds):
        raise ValueError
    if any(type(values[name]) is not kind for name, kind in kinds.items()):
        raise ValueError
    return values
