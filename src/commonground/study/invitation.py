"""The one file that a participant gets: where the study is, whose word counts there, and a token for once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from commonground.errors import TrustError
from commonground.study.offer import KIND as OFFER
from commonground.study.offer import Offer
from commonground.study.signing import Paper

KIND = "invitation"
FIELDS = ("study", "name", "address", "ca", "token", "expires", "offer")


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
    """

    study: str
    name: str
    address: str
    ca: str
    token: str
    expires: str
    offer: Paper
    signer: str

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
    offer = Paper.from_text(content["offer"], "the offer in the invitation")
    found = Invitation(**values, offer=offer, signer=paper.signer)
    try:
        expired = datetime.fromisoformat(found.expires) <= (now or datetime.now(UTC))
    except (TypeError, ValueError) as error:
        raise TrustError(f"the invitation's time {found.expires!r} cannot be read") from error
    if expired:
        raise TrustError(
            f"the invitation expired at {found.expires}; the clock of this machine says "
            f"{(now or datetime.now(UTC)).isoformat(timespec='seconds')}",
            hint="set the clock if it is wrong, or ask the operator for a new one",
        )
    _ = found.terms
    return found
