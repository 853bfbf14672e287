"""Enrolment: an invitation's token and a node key in, a place in the study out. Behind the front door.

A token is known by its SHA-256 alone, works once, and until it expires; the key is proved; the place is the
next free one and is never given to another. Whatever is wrong, the answer is the same constant, and the
reason is counted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from sqlalchemy import func, select

from commonground.errors import CommonGroundError, InputError, TrustError
from commonground.files import write_atomically
from commonground.server.audit import Audit
from commonground.server.shown import invitation_state
from commonground.server.state import PUBLIC, Study
from commonground.server.tables import Enrolled, Invited, now
from commonground.study.enrolment import MOST, PATH, Enrolment, read_request
from commonground.study.invitation import KIND, Invitation
from commonground.study.public_parts import FILE
from commonground.study.public_parts import PATH as PARTS
from commonground.study.signing import sign

DAYS = 7.0
LONGEST = 64  # characters of a name
PIECE = 1 << 16  # bytes
REFUSED = {"error": "refused"}

log = logging.getLogger("commonground.server")
Register = Callable[[EllipticCurvePublicKey], int]


class RefusedError(TrustError):
    """An enrolment that is refused; the message is a constant, counted and never sent."""


def invite(study: Study, name: str, file: Path, days: float = DAYS) -> str:
    """Write an invitation, mode 0600.

    Args:
        study: its folder.
        name: whom; nobody else may have it.
        file: where to; it must not exist.
        days: until it expires.

    Returns:
        When it expires.

    Raises:
        InputError: the name is taken or not one, the study is full, or the file is there.
    """
    if not name.strip() or len(name) > LONGEST or not name.isprintable():
        raise InputError(f"the name is {name!r}; accepted: 1 to {LONGEST} printable characters")
    if not 0 < days <= 365:
        raise InputError(f"--days is {days:g}; accepted: above 0, at most 365")
    if file.exists():
        raise InputError(f"{file} is there already", hint="name another file with --out")
    token = secrets.token_urlsafe(32)
    expires = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")
    with study.database.writing() as session:
        old = session.get(Invited, name)
        taken = session.scalar(select(Enrolled).where(Enrolled.name == name)) is not None
        if taken or (old is not None and invitation_state(old) == "open"):
            raise InputError(
                f"{name!r} is {'enrolled' if taken else 'invited'} already",
                hint="take another name, or revoke the invitation first",
            )
        used = session.scalar(select(func.count()).select_from(Enrolled)) or 0
        if used >= study.config.people:
            raise InputError(f"all {study.config.people} places are taken; a place is never given twice")
        if old is not None:
            session.delete(old)
            session.flush()
        session.add(Invited(name=name, token=digest(token), made=now(), expires=expires))
        found = Invitation(
            study=study.offer.study,
            name=name,
            address=study.settings.address,
            ca=(study.folder / "ca.crt").read_text(),
            token=token,
            expires=expires,
            offer=study.paper,
            signer=study.signer,
            charter=study.charter,
        )
        text = sign(study.key, KIND, found.to_content()).to_text()
        Audit(study.folder, study.key).add("invited", name=name, expires=expires)
        write_atomically(file, text.encode(), private=True)
    return expires


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def enrol(study: Study, asked: Enrolment, register: Register) -> dict[str, Any]:
    """Give a device its place.

    Args:
        study: its folder.
        asked: a request that holds in itself.
        register: lets the key in at the SuperLink and gives the node's id; asked again, the same one.

    Returns:
        slot, name, node_id (a text: it needs 64 bits). Asked again with the same token and key, the same.

    Raises:
        RefusedError: token unknown, used, expired or withdrawn; key known; study full.
        CommonGroundError: the SuperLink does not answer; nothing is used up.
    """
    with study.database.writing() as session:
        row = _invited(list(session.scalars(select(Invited))), asked.token)
        if row is None:
            raise RefusedError("enrolment: unknown token")
        place = session.scalar(select(Enrolled).where(Enrolled.name == row.name))
        if place is not None:
            if place.key == asked.public_key and place.revoked is None and row.withdrawn is None:
                return {"slot": place.slot, "name": place.name, "node_id": place.node}
            raise RefusedError("enrolment: token used before")
        state = invitation_state(row)
        if state != "open":
            raise RefusedError(f"enrolment: token {state}")
        if session.scalar(select(Enrolled).where(Enrolled.key == asked.public_key)) is not None:
            raise RefusedError("enrolment: key known already")
        last = session.scalar(select(func.max(Enrolled.slot)))
        slot = 0 if last is None else last + 1
        if slot >= study.config.people:
            raise RefusedError("enrolment: study is full")
        node = str(register(asked.key))
        session.add(Enrolled(slot=slot, name=row.name, key=asked.public_key, since=now(), node=node))
        row.used = now()
        found = {"slot": slot, "name": row.name, "node_id": node}
        # Before it counts: a kill in between leaves a line too many, never a device that no line knows of.
        Audit(study.folder, study.key).add("enrolled", slot=slot, name=row.name)
    return found


def revoke(study: Study, name: str, unregister: Callable[[int], None] | None) -> str:
    """Shut a person's device out, or withdraw an invitation that was not used.

    Args:
        study: its folder.
        name: whom.
        unregister: shuts a node out at the SuperLink; None where it does not run: it is done when it starts.

    Returns:
        What was done, in words.

    Raises:
        InputError: nobody of that name is enrolled or invited.
    """
    with study.database.writing() as session:
        place = session.scalar(select(Enrolled).where(Enrolled.name == name))
        row = session.get(Invited, name)
        if place is None and row is None:
            raise InputError(f"nobody called {name!r} is invited or enrolled")
        if row is not None and row.withdrawn is None:
            row.withdrawn = now()
        if place is not None and place.revoked is None:
            place.revoked, place.online = now(), False
        node = None if place is None else place.node
    Audit(study.folder, study.key).add("revoked", name=name)
    if node is not None and unregister is not None:
        unregister(int(node))
    return "the invitation is withdrawn" if place is None else "the device is shut out; its place stays taken"


def _invited(rows: list[Invited], token: str) -> Invited | None:
    """The invitation of a token, every one of them compared in constant time."""
    wanted, found = digest(token), None
    for row in rows:
        if hmac.compare_digest(row.token, wanted):
            found = row
    return found


class EnrolmentService:
    """The service on a port of loopback, in threads of this process.

    Args:
        study: its folder.
        register: as in `enrol`.
    """

    def __init__(self, study: Study, register: Register) -> None:
        class Handler(_Handler):
            pass

        Handler.study, Handler.register = study, staticmethod(register)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers POST /enrol, where every refusal looks the same, and GET /parts, the same to everybody."""

    study: Study
    register: Register
    timeout = 20.0  # seconds for a request to come

    def do_POST(self) -> None:  # the name is http.server's
        """Enrol."""
        try:
            answer = 200, enrol(self.study, read_request(self._values()), self.register)
        except RefusedError as error:
            self.study.refuse(error.message)
            answer = 403, REFUSED
        except TrustError:
            self.study.refuse("enrolment: request or proof does not hold")
            answer = 403, REFUSED
        except CommonGroundError as error:
            log.warning("enrolment: %s", error.message)
            answer = 503, {"error": "try again"}
        self._answer(*answer)

    def do_HEAD(self) -> None:  # the name is http.server's
        """The time here, which a device holds its clock to, before it asks for anything."""
        self.send_response(200 if self.path == PARTS else 404)
        self.end_headers()

    def do_GET(self) -> None:  # the name is http.server's
        """The public parts of the study's model."""
        try:
            file = (self.study.folder / PUBLIC / FILE).open("rb") if self.path == PARTS else None
        except OSError as error:
            log.warning("public parts: %s", error)
            file = None
        if file is None:
            return self._answer(404, REFUSED)
        with file:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            while piece := file.read(PIECE):  # by pieces: the timeout is of one, not of a slow line's whole
                self.wfile.write(piece)
        return None

    def _values(self) -> object:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Content-Encoding") or self.headers.get("Transfer-Encoding"):
            raise TrustError("the request is packed")
        if self.path != PATH or not length.isdigit() or int(length) > MOST:
            raise TrustError("the request has another path or size")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise TrustError("the request is no JSON") from error

    def _answer(self, status: int, values: dict[str, Any]) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing of a request is written down."""
