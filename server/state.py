"""A study's folder as the operator's programs see it, and the one view of it that pages and commands show.

DIR/study.toml   the operator's own settings          DIR/offer.json  the signed offer
DIR/config.yaml  the configuration, to read           DIR/state.db    people, rounds, releases, refusals
DIR/signing.key, seed.key, ca.key, server.key         secrets, mode 0600
DIR/ca.crt, server.crt                                 what devices check the front door by
DIR/public/parts.npz                                   what devices take: the public parts of the model
DIR/public/charter.json                                the charter with its files, where the model writes
DIR/initial.npz, releases/, checkpoint/, ledger.db     the shared adapter and its account
DIR/audit.jsonl, audit.head                            the audit log
DIR/bundle/                                            the Flower app without code
DIR/run/, DIR/log/                                     of the running server
"""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from commonground.config import Config
from commonground.errors import InputError, RunFolderError
from commonground.files import write_atomically
from commonground.manifest import Manifest
from commonground.server.places import places_refused, refuse
from commonground.server.processes import same_process
from commonground.server.shown import (
    every,
    finite,
    invitation_state,
    people_of,
    releases_of,
    rounds_of,
    values_of,
)
from commonground.server.tables import Database, Enrolled, Fact, Invited, Part, Refusal
from commonground.study.offer import KIND, Offer, Terms, terms_of
from commonground.study.public_parts import FILE
from commonground.study.signing import Paper, fingerprint, load_key, public_hex

SETTINGS = "study.toml"
PID = "supervisor.pid"
PUBLIC = "public"  # the folder of what anybody may have
CHARTER_FILE = "charter.json"  # in it: the charter and its files, as an invitation carries them
TROUBLE = "trouble"  # the fact that says why the rounds do not go on
WAITS = "waits"  # the fact that says what the next round waits for
_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}


@dataclass(frozen=True)
class Settings:
    """What the operator decides alone; nothing of it is promised to anybody.

    Attributes:
        study: the study's name.
        address: host:port of the front door.
        deadline: seconds that a round waits for replies.
        minimum: updates that a round needs, else it is void.
        min_online: devices that must be online before a round begins.
        patience: seconds to wait for them; then the round begins with those who are there.
        quarantine: refusals of one place after which it is not asked any more; 0 = never.
        insecure: the noise comes from a known number (a test on loopback).
    """

    study: str
    address: str
    deadline: float = 600.0
    minimum: int = 1
    min_online: int = 1
    patience: float = 3600.0
    quarantine: int = 5
    insecure: bool = False

    def to_toml(self) -> str:
        """As `read_settings` takes it back."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(self).items())


def read_settings(path: Path) -> Settings:
    """The settings in a file; raises `RunFolderError` with the first fault."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path.parent} is no study: there is no {SETTINGS}",
            hint="make one with commonground server init",
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # too deep, too long a number, no text
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    kinds = {field.name: field.type for field in fields(Settings)}
    for name, value in values.items():
        if name not in kinds:
            raise RunFolderError(f"{path}: unknown key {name}; known: {', '.join(kinds)}")
        if not isinstance(value, _KINDS[str(kinds[name])]) or isinstance(value, bool) != (
            kinds[name] == "bool"
        ):
            raise RunFolderError(f"{path}: {name} is {value!r}; accepted: {kinds[name]}")
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise RunFolderError(f"{path}: {name} is {value}; accepted: a number from 0")
    try:
        return Settings(**values)
    except TypeError as error:
        raise RunFolderError(f"{path} lacks a key: {error}") from error


class Study:
    """A study's folder.

    Args:
        folder: what `commonground server init` made.

    Raises:
        RunFolderError: it is no such folder, or a part of it is missing or damaged.
        TrustError: the offer is not signed by the folder's own key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.settings = read_settings(self.folder / SETTINGS)
        self.database = Database(self.folder / "state.db")

    def change(self, **values: float | None) -> None:
        """Change settings, for this start and later ones; None leaves one as it is.

        Raises:
            InputError: a value that is not accepted; nothing is changed.
        """
        given = {name: value for name, value in values.items() if value is not None}
        wrong = [name for name, value in given.items() if not 0 <= value < math.inf]
        if given.get("deadline") == 0:
            raise InputError("deadline is 0; accepted: seconds above 0")
        if wrong:
            raise InputError(f"{wrong[0].replace('_', '-')} is {given[wrong[0]]}; accepted: a number from 0")
        if given:
            self.settings = replace(self.settings, **given)  # type: ignore[arg-type]  # by their names
            write_atomically(self.folder / SETTINGS, self.settings.to_toml().encode())

    @cached_property
    def key(self) -> Ed25519PrivateKey:
        """The signing key."""
        return load_key(self.folder / "signing.key")

    @property
    def signer(self) -> str:
        """The public half of it, as papers name it."""
        return public_hex(self.key)

    @cached_property
    def paper(self) -> Paper:
        """The signed offer."""
        try:
            return Paper.from_text((self.folder / "offer.json").read_bytes(), "the offer")
        except OSError as error:
            raise RunFolderError(f"{self.folder}/offer.json cannot be read: {error.strerror}") from error

    @cached_property
    def offer(self) -> Offer:
        """The offer, its signature checked."""
        return Offer.from_dict(self.paper.opened(KIND, self.signer, "the offer"))

    @property
    def parts(self) -> bytes:
        """The public parts of the model, as devices take them; raises `RunFolderError`."""
        path = self.folder / PUBLIC / FILE
        try:
            return path.read_bytes()
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read: {error.strerror}") from error

    @property
    def charter(self) -> str:
        """The charter and its files, as an invitation carries them; '' where the offer names none."""
        if not self.config.bounds.charter:
            return ""
        path = self.folder / PUBLIC / CHARTER_FILE
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise RunFolderError(f"{path} cannot be read: {reason}") from error

    @cached_property
    def config(self) -> Config:
        """The study's configuration."""
        return self.offer.settings

    @cached_property
    def terms(self) -> Terms:
        """What the offer means."""
        from commonground.strategies.registry import client_half

        return terms_of(self.config, client_half(self.config.strategy.name, self.config.strategy.options))

    @cached_property
    def manifest(self) -> Manifest:
        """What may leave a device."""
        return self.offer.contract

    @property
    def run(self) -> Path:
        """Sockets, secrets and process ids of the running server."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        """Logs."""
        return self.folder / "log"

    # -- facts and refusals ---------------------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        """A single value, or None."""
        with self.database.reading() as session:
            found = session.get(Fact, name)
            return None if found is None else found.value

    def set_fact(self, name: str, value: str | None) -> None:
        """Set a single value; None removes it."""
        with self.database.writing() as session:
            found = session.get(Fact, name)
            if value is None:
                if found is not None:
                    session.delete(found)
            elif found is None:
                session.add(Fact(name=name, value=value))
            else:
                found.value = value

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count something that was refused; a reason is a constant of the program, never what was sent."""
        refuse(self, reason, count=count)

    def refusals(self) -> dict[str, int]:
        """Reason -> how often."""
        with self.database.reading() as session:
            return {row.reason: row.count for row in session.scalars(select(Refusal))}

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    # -- what is shown --------------------------------------------------------------------------------

    def overview(self) -> dict[str, Any]:
        """Everything that an operator sees of a study; nothing of it is about one person's data.

        Returns:
            study, version, trust, purpose, contact, address, opens, closes, open (now), signer (a
            fingerprint), running (the supervisor lives), finished, trouble (why the rounds do not go on),
            waits (what the next round waits for);
            people: places, enrolled, online, revoked, invited (invitations that can still be used);
            enrolled: one a slot: slot, name, since, online, revoked, quarantined;
            places: one a place of which something was refused, see `places.places_refused`;
            invitations: name, made, expires, state (open | used | expired | withdrawn);
            rounds: done, of, void, under_way (a round's number or None), list (newest first): round, began,
            ended, asked, replies, refused, errors, seconds, void, gate;
            releases (newest first): version, round, tensors, made, of, safety ({loss, accuracy} on public
            pairs, or None), current;
            refusals: reason, count, last;
            statement: text; budget: trust, meaningful, epsilon (of the whole study, or "inf"), spent (so
            far), left, delta, most (k, uploads of a person), separation (b);
            health: name, state, words, restarts, since.
        """
        with self.database.reading() as session:
            rounds = rounds_of(session, self.config.rounds)
            parts = [
                values_of(part, "name", "state", "words", "restarts", "since")
                for part in every(session, Part)
            ]
            facts = {fact.name: fact.value for fact in session.scalars(select(Fact))}
            found = {
                "people": people_of(session, self.config.people),
                "enrolled": [
                    values_of(row, "slot", "name", "since", "online", "revoked", "quarantined")
                    for row in every(session, Enrolled)
                ],
                "invitations": [
                    values_of(row, "name", "made", "expires") | {"state": invitation_state(row)}
                    for row in every(session, Invited)
                ],
                "rounds": rounds,
                "releases": releases_of(session),
                "places": places_refused(session),
                "refusals": [values_of(row, "reason", "count", "last") for row in every(session, Refusal)],
            }
        offer = self.offer
        return {
            "study": offer.study,
            "version": offer.version,
            "trust": self.config.privacy.trust,
            "purpose": offer.purpose,
            "contact": offer.contact,
            "address": self.settings.address,
            "opens": offer.opens,
            "closes": offer.closes,
            "open": offer.is_open(),
            "signer": fingerprint(self.signer),
            "running": running(self.folder) is not None,
            "finished": facts.get("finished") == "yes",
            "trouble": facts.get(TROUBLE),
            "waits": facts.get(WAITS),
            **found,
            "statement": self.statement(),
            "budget": self._budget(max(rounds["done"], rounds["under_way"] or 0)),
            "health": parts,
        }

    def statement(self) -> str:
        """The privacy statement of the study."""
        from commonground.privacy.statement import statement

        released = ["the sealed updates of the shared adapter, each covered by the claim above"]
        claim = self.terms.claim
        return statement(
            claim,
            self.terms.private_claim,
            people=claim.people,
            released=released,
            unit_words=[],
            side_view=False,
        )

    def _budget(self, begun: int) -> dict[str, Any]:
        """After so many rounds, that under way among them: it was charged before anybody was asked."""
        claim = self.terms.claim
        spent = claim.epsilon_after(begun) if begun else 0.0
        left = max(0.0, claim.epsilon - spent) if math.isfinite(claim.epsilon) else math.inf
        return {
            "trust": claim.trust,
            "meaningful": claim.meaningful,
            "epsilon": finite(claim.epsilon),
            "spent": finite(spent),
            "left": finite(left),
            "delta": claim.delta,
            "most": self.terms.most,
            "separation": self.terms.separation,
        }


def running(folder: Path) -> int | None:
    """The process id of a study's supervisor, where it runs."""
    try:
        return same_process((folder / "run" / PID).read_text())
    except (OSError, ValueError):
        return None
