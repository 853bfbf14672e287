"""A device's profile for tests: a study that a key of the test signed, over the toy device's manifest."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import toy_device
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commonground.bounds.charter import sign_charter
from commonground.bounds.charter_files import default_charter, shipped_folder
from commonground.client.profile import Profile
from commonground.config import Config
from commonground.recipe import resolve
from commonground.study.carried import carry
from commonground.study.invitation import KIND, Invitation
from commonground.study.offer import KIND as OFFER
from commonground.study.offer import Offer, as_config
from commonground.study.public_parts import FILE
from commonground.study.signing import public_hex, sign

KEY = Ed25519PrivateKey.generate()
NOBODY = "127.0.0.1:9"  # a port that answers nothing


def toy_offer(**changes: Any) -> Offer:
    """An offer over the toy device's manifest."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "study": "toys",
        "version": 1,
        "purpose": "To learn together what is harmful.",
        "contact": "operator@example.org",
        "config": as_config(resolve(Config())),
        "manifest": toy_device.manifest().to_dict(),
        "opens": (now - timedelta(days=1)).isoformat(),
        "closes": (now + timedelta(days=1)).isoformat(),
    }
    return Offer(**values | changes)


def invite(
    offer: Offer, ca: str = "", address: str = NOBODY, key: Ed25519PrivateKey = KEY, **changes: Any
) -> str:
    """An invitation, signed."""
    paper = sign(key, OFFER, offer.to_dict())
    expires = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    words = "Ada", address, ca, "t" * 32, expires
    made = Invitation(offer.study, *words, paper, public_hex(key), charter_of(offer, key))
    return sign(key, KIND, replace(made, **changes).to_content()).to_text()


def charter_of(offer: Offer, key: Ed25519PrivateKey = KEY) -> str:
    """The shipped charter as an invitation carries it; '' where the offer names none."""
    named = bool(offer.config.get("bounds", {}).get("charter"))
    return carry(sign_charter(key, default_charter()), shipped_folder()) if named else ""


def make_profile(
    folder: Path,
    offer: Offer | None = None,
    ca: str = "",
    address: str = NOBODY,
    parts: bytes | None = None,
    **changes: Any,
) -> Profile:
    """A profile as `join` leaves it, without store and node key; `changes` are of its invitation."""
    offer = offer or toy_offer()
    folder.mkdir(mode=0o700, parents=True)
    (folder / "invitation").write_text(invite(offer, ca, address, **changes))
    (folder / "ca.crt").write_text(ca)
    if parts is not None:
        (folder / FILE).write_bytes(parts)
    profile = Profile(
        folder, offer.study, "Ada", address, public_hex(KEY), offer.digest, offer.software, 0, "42"
    )
    profile.save()
    return profile
