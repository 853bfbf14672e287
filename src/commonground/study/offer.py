"""What an operator offers and a participant accepts: every number that a device will hold the server to.

The offer holds the configuration. A device derives clip, steps, noise and epsilon from it with its OWN
installed code, compares the egress manifest's digest with the offer's, and shows the participant what it
found; nothing that a server says later changes any of it. On a real device there is no amplification by
sampling: each upload is charged as it is, at most k times, any two of them at least b rounds apart.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from commonground import __version__
from commonground.config import Config
from commonground.errors import ConfigError, EgressError, TrustError
from commonground.hub import NAME as HUB
from commonground.manifest import Manifest
from commonground.own_code import named_code
from commonground.plain import plain_faults, shown
from commonground.study.signing import digest

if TYPE_CHECKING:  # these need torch, and who only reads an offer (a node, a supervisor) does not
    from commonground.privacy.accounting import Charge
    from commonground.privacy.claims import PrivateClaim, SharedClaim
    from commonground.training.client_half import ClientHalf

KIND = "offer"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
TRUSTS = ("central", "local")
_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
TEXTS = ("purpose", "contact", "shares", "software")
ENCODER = "encoder"  # in `Offer.base`: of the folder of a reward model's encoder out of the hub
LONGEST = 4000  # characters of one of them
DIGEST = re.compile(r"[\w.:-]{1,64}", re.ASCII)
FORMS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("study", "opens", "closes", *TEXTS), (str, "a text")),
    **dict.fromkeys(("config", "manifest", "base", "downloads"), (dict, "a mapping")),
    "version": (int, "a whole number"),
}
NO_CODE = (
    "accepted in a deployed study: a built-in name, since no offer and no charter may name code "
    "(devices import nothing that an operator names)"
)


@dataclass(frozen=True)
class Offer:
    """A study, as its operator signs it.

    Attributes:
        study: its name: a to z, digits and hyphens, at most 32.
        version: from 1; a participant accepts each one anew.
        purpose: what the participant reads first.
        contact: whom to ask.
        config: the resolved configuration as `settings.to_dict` gives it; people is how many can join.
        manifest: the egress manifest as `Manifest.to_dict` gives it.
        opens, closes: UTC times, ISO 8601: no message leaves outside of them.
        software: the version of commonground whose code the device must run.
        base: SHA-256 of the base model, as the preference model's public digests name it.
        shares: what the shared adapter learns from, in words.
        downloads: hub name -> bytes, of what a device has to fetch; shown before it is.
    """

    study: str
    version: int
    purpose: str
    contact: str
    config: dict[str, Any]
    manifest: dict[str, Any]
    opens: str
    closes: str
    software: str = __version__
    base: dict[str, str] = field(default_factory=dict)
    shares: str = "comparisons about harm, as clipped changes to a common adapter"
    downloads: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the form; raises `ConfigError` with every fault."""
        faults = [
            f"{name} is a {type(getattr(self, name)).__name__}; accepted: {accepted}"
            for name, (kind, accepted) in FORMS.items()
            if type(getattr(self, name)) is not kind
        ]
        if faults:
            raise ConfigError([f"offer: {fault}" for fault in faults])
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        faults = [f"{key}: {fault}" for key, fault in plain_faults(values)]
        if faults:
            raise ConfigError([f"offer: {fault}" for fault in faults[:5]])
        faults += [f"config.{key} is {shown(name)}; {NO_CODE}" for key, name in named_code(self.config)]
        faults += [
            f"base.{name!s:.40} is {shown(value)}; accepted: a digest, at most 64 letters and digits"
            for name, value in self.base.items()
            if not (isinstance(name, str) and isinstance(value, str) and DIGEST.fullmatch(value))
        ]
        faults += [
            f"downloads.{name!s:.40} is {shown(size)}; accepted: a hub name with its bytes"
            for name, size in self.downloads.items()
            if type(size) is not int or size < 1 or not HUB.fullmatch(str(name))
        ]
        faults += self._undigested()
        if not NAME.fullmatch(self.study):
            faults.append(f"study is {shown(self.study)}; accepted: a to z, 0 to 9 and hyphens, at most 32")
        if self.version < 1:
            faults.append(f"version is {self.version}; accepted: 1 or more")
        for name in ("opens", "closes"):
            if _time(getattr(self, name)) is None:
                faults.append(f"{name} is {shown(getattr(self, name))}; accepted: a UTC time in ISO 8601")
        for name in TEXTS:
            text = getattr(self, name)
            if len(text) > LONGEST:
                faults.append(f"{name} has {len(text):,} characters; accepted: at most {LONGEST:,}")
            elif odd := odd_characters(text):
                faults.append(f"{name} holds {odd}; accepted: text that shows what it says")
        if not faults and self.opens >= self.closes:
            faults.append(f"closes is {self.closes}, not after opens, {self.opens}")
        if faults:
            raise ConfigError([f"offer: {fault}" for fault in faults])

    def _undigested(self) -> list[str]:
        """A model that would be fetched from the hub is held to a digest of what has to come."""
        model = self.config.get("model")
        name = model.get("base") if isinstance(model, dict) else None
        wanted = "base" if isinstance(model, dict) and model.get("kind") == "policy" else ENCODER
        if not isinstance(name, str) or not HUB.fullmatch(name) or wanted in self.base:
            return []
        return [f"config.model.base is the hub name {shown(name)}, and base.{wanted} has no digest of it"]

    @property
    def settings(self) -> Config:
        """The configuration, checked; raises `ConfigError`."""
        from commonground.settings import config_from

        return config_from(self.config)

    @property
    def contract(self) -> Manifest:
        """The egress manifest in it; raises `TrustError` where there is none that can be read."""
        try:
            return Manifest.from_dict(self.manifest)
        except EgressError as error:
            raise TrustError(
                f"the offer cannot be used: manifest: {error.message}", hint="ask the operator for a new one"
            ) from error

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form; what consent, invitations and releases name."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Offer:
        """The offer that `to_dict` wrote; raises `TrustError` where fields are missing or unknown."""
        known, needed = {f.name for f in fields(cls)}, {"study", "version", "config", "manifest"}
        if odd := sorted((set(values) - known) | (needed - set(values)), key=str):
            names = ", ".join(shown(name) for name in odd[:5])
            raise TrustError(f"the offer's fields do not fit this software: {names}")
        try:
            return cls(**values)
        except TypeError as error:
            raise TrustError(f"the offer does not fit this software: {error}") from error

    def is_open(self, now: datetime | None = None) -> bool:
        """Whether `now` (default: the clock) lies in the study's time."""
        now = now or datetime.now(UTC)
        opens, closes = _time(self.opens), _time(self.closes)
        return opens is not None and closes is not None and opens <= now < closes


@dataclass(frozen=True)
class Terms:
    """What an offer means, derived from its configuration alone.

    Attributes:
        claim: privacy of the shared adapter; `claim.charge(1)` is what one upload costs.
        private_claim: privacy of the private adapter against whoever sees it (nobody but its owner should).
    """

    claim: SharedClaim
    private_claim: PrivateClaim

    @property
    def charge(self) -> Charge:
        """What one upload costs."""
        return self.claim.charge(1)

    @property
    def account(self) -> Charge:
        """What one upload costs in an account over several studies: it is replaced by any other.

        Local noise is charged so already. A claim of central noise replaces a person's part by zeros, which
        moves it by one clip; by any other, it moves by two.
        """
        charge = self.charge
        if self.claim.trust == "local":
            return charge
        return charge._replace(noise_multiplier=charge.noise_multiplier / 2)

    @property
    def most(self) -> int:
        """k: uploads of one person at most."""
        return self.claim.most

    @property
    def separation(self) -> int:
        """b: rounds between two uploads of one person at least."""
        return 1 if self.claim.banded is None else self.claim.banded.band


def terms_of(config: Config, half: ClientHalf | None = None) -> Terms:
    """The claims of a deployed study; see the module's text for what is charged.

    Args:
        config: resolved; `privacy.trust` says who adds the noise. Central noise is banded (methods N6):
            real devices cannot be sampled in secret.
        half: the device's half of the strategy, where it has one; the private claim depends on it.

    Raises:
        ConfigError: the privacy settings do not go together, or claim something a deployment cannot.
    """
    from commonground.recipe import claims

    privacy = config.privacy
    if privacy.unit != "person":
        raise ConfigError([f"privacy.unit is {privacy.unit}; accepted in a deployed study: person"])
    if privacy.trust == "central" and (privacy.shared.mechanism, privacy.shared.clip_mode) != (
        "banded",
        "fixed",
    ):
        raise ConfigError(
            [
                f"privacy.shared.mechanism is {privacy.shared.mechanism} with clip_mode "
                f"{privacy.shared.clip_mode}; accepted in a deployed study with central trust: banded, fixed "
                "(real devices cannot be drawn in secret, so nothing is amplified)"
            ]
        )
    for name in ("reward", "kl", "kl_worst"):
        if math.isfinite(value := getattr(config.bounds, name)):
            raise ConfigError(
                [
                    f"bounds.{name} is {value:g}; accepted in a deployed study: inf (a simulation has it; a "
                    "device bounds answers by its charter)"
                ]
            )
    return Terms(*claims(config, config.people, half))


def refuse_code(config: Config) -> None:
    """Raise `ConfigError` where a configuration that is to be offered names code, before any is imported."""
    if named := [f"{key} is {shown(name)}; {NO_CODE}" for key, name in named_code(as_config(config))]:
        raise ConfigError(named)


def as_config(config: Config) -> dict[str, Any]:
    """A configuration as an offer holds it."""
    from commonground.settings import to_dict

    return to_dict(config)


def odd_characters(text: str) -> str:
    """What in a text would change how the text around it is shown, in words; empty where nothing would.

    A participant reads an operator's words in a terminal and decides by what they see: an escape sequence
    could wipe out the sentence before it, and a mark of direction turn it round.
    """
    for sign in text:
        kind = unicodedata.category(sign)
        if (kind == "Cc" and sign not in "\n\t") or kind == "Cs":
            return f"the control character {ord(sign):#04x}"
        if kind in ("Zl", "Zp") or unicodedata.bidirectional(sign) in _TURNS:
            return f"the mark of direction or of a new line {ord(sign):#06x}"
    return ""


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else None
