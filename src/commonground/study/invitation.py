"""The one file that a participant gets: where the study is, whose word counts there, and a token for once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from commonground.errors import TrustError
from commonground.plain import plain_faults, shown
from commonground.study.offer import KIND as OFFER
from commonground.study.offer import Offer, odd_characters
from commonground.study.signing import Paper

KIND = "invitation"
FIELDS = ("study", "name", "address", "ca", "token", "expires", "offer", "charter")
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?):[0-9]{1,5}")
LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Invitation:
    """A single-use invitation.

    Attributes:
        study: the study's name.
        name: whom the operator invites, as the operator calls them.
        address: host:port of the front door.
        ca: the certificate authority of the front door, PEM.
        token: what enrols one device, once.
        expires: UTC time, ISO 8601.
        offer: the signed offer.
        signer: the operator's public key, hexadecimal; who receives the file compares its fingerprint.
        charter: the charter and its files as `study.carried` writes them; '' where the offer names none.
    """

    study: str
    name: str
    address: str
    ca: str
    token: str
    expires: str
    offer: Paper
    signer: str
    charter: str = ""

    def to_content(self) -> dict[str, Any]:
        """What is signed."""
        values = {name: getattr(self, name) for name in FIELDS}
        return values | {"offer": self.offer.to_text()}

    @property
    def terms(self) -> Offer:
        """The offer in it; raises `TrustError` where another signed it."""
        return Offer.from_dict(self.offer.opened(OFFER, self.signer, "the offer in the invitation"))


def read_invitation(text: str | bytes, now: datetime | None = None) -> Invitation:
    """Read and check an invitation.

    Args:
        text: the file's content.
        now: None takes the clock.

    Raises:
        TrustError: damaged, edited, or expired; the message says what to do.
    """
    paper = Paper.from_text(text, "the invitation")
    content = paper.opened(KIND, paper.signer, "the invitation")
    missing = [name for name in FIELDS if not isinstance(content.get(name), str)]
    if missing:
        raise TrustError(f"the invitation lacks {', '.join(missing)}", hint="ask the operator for a new one")
    values = {name: content[name] for name in FIELDS if name != "offer"}
    for key, fault in plain_faults({name: value for name, value in values.items() if name != "charter"}):
        raise TrustError(
            f"the invitation cannot be used: {key}: {fault}", hint="ask the operator for a new one"
        )
    offer = Paper.from_text(content["offer"], "the offer in the invitation")
    found = Invitation(**values, offer=offer, signer=paper.signer)
    try:
        expired = datetime.fromisoformat(found.expires) <= (now or datetime.now(UTC))
    except (TypeError, ValueError) as error:
        raise TrustError(f"the invitation's time {shown(found.expires)} cannot be read") from error
    if expired:
        raise TrustError(
            f"the invitation expired at {found.expires}; the clock of this machine says "
            f"{(now or datetime.now(UTC)).isoformat(timespec='seconds')}",
            hint="set the clock if it is wrong, or ask the operator for a new one",
        )
    _check(found)
    return found


def _check(found: Invitation) -> None:
    """Refuse what would be a path, a command or a picture where a device expects a name.

    Whoever wrote the file signed it with a key of their own, so that its signature says nothing about it. The
    study's name becomes a folder and a unit of systemd, the address an argument, and both names are printed.
    """
    study = found.terms.study
    odd = odd_characters(found.name)
    faults = {
        f"it is for study {found.study[:40]!a}, and its offer for {study}": found.study != study,
        f"its address is {found.address[:80]!a}; host:port is needed": not ADDRESS.fullmatch(found.address),
        f"its name has {len(found.name)} characters; 1 to {LONGEST} are accepted": not (
            0 < len(found.name) <= LONGEST
        ),
        f"its name holds {odd or 'more than one line'}": bool(odd) or "\n" in found.name,
        "it has no certificate authority": not found.ca.strip(),
    }
    for fault, there in faults.items():
        if there:
            raise TrustError(f"the invitation cannot be used: {fault}", hint="ask the operator for a new one")
