"""Invitations and enrolment: one token, one device, one place; every refusal alike, and counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from toy_study import PEOPLE, make_study

from commonground.errors import InputError, StorageError, TrustError
from commonground.server.audit import Audit, entries, verify
from commonground.server.control import SuperLinkError
from commonground.server.enrolment import EnrolmentService, RefusedError, digest, enrol, invite, revoke
from commonground.server.shown import invitation_state
from commonground.server.state import Study
from commonground.server.tables import Enrolled, Invited
from commonground.study.enrolment import enrolment_request, openssh, read_request
from commonground.study.invitation import Invitation, read_invitation
from commonground.study.public_parts import write_parts


class Nodes:
    """Stands for the SuperLink: numbers keys, the same key alike."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.out: list[int] = []
        self.away = False

    def __call__(self, key: EllipticCurvePublicKey) -> int:
        if self.away:
            raise SuperLinkError("the SuperLink does not answer: ConnectError")
        text = openssh(key)
        self.keys += [] if text in self.keys else [text]
        return 1000 + self.keys.index(text)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "study", enrolled=0)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def invited(study: Study, name: str, **more: Any) -> Invitation:
    file = study.folder.parent / f"{name}.invite"
    invite(study, name, file, **more)
    assert file.stat().st_mode & 0o777 == 0o600
    found = read_invitation(file.read_bytes())
    file.unlink()
    return found


def test_an_invitation_holds_what_a_device_needs_and_its_token_is_not_kept(study: Study) -> None:
    found = invited(study, "ada")
    assert (found.study, found.name, found.address) == ("toy", "ada", study.settings.address)
    assert found.signer == study.signer
    assert found.terms.digest == study.offer.digest
    assert found.ca == (study.folder / "ca.crt").read_text()
    left = datetime.fromisoformat(found.expires) - datetime.now(UTC)
    assert timedelta(days=6.9) < left <= timedelta(days=7)
    kept = [
        path
        for path in study.folder.rglob("*")
        if path.is_file() and found.token.encode() in path.read_bytes()
    ]
    assert kept == []
    with study.database.reading() as session:
        assert session.get_one(Invited, "ada").token == digest(found.token)


def test_who_cannot_be_invited(study: Study) -> None:
    invited(study, "ada")
    file = study.folder.parent / "x.invite"
    for name, days, words in (
        ("ada", 7, "'ada' is invited already"),
        ("", 7, "the name is ''"),
        ("a\nb", 7, "accepted: 1 to 64 printable"),
        ("x" * 65, 7, "accepted: 1 to 64"),
        ("bea", 0, "--days is 0; accepted"),
        ("bea", 1000, "--days is 1000; accepted"),
    ):
        with pytest.raises(InputError) as caught:
            invite(study, name, file, days)
        assert words in caught.value.message
        assert not file.exists()
    file.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        invite(study, "bea", file)
    assert file.read_text() == "mine"


def test_places_go_by_order_once_and_never_to_another(study: Study, tmp_path: Path) -> None:
    nodes, keys = Nodes(), [new_key() for _ in range(PEOPLE)]
    papers = [invited(study, f"p{k}") for k in range(PEOPLE)]
    for slot, (paper, key) in enumerate(zip(papers, keys, strict=True)):
        request = read_request(enrolment_request(paper.token, key))
        answer = enrol(study, request, nodes)
        assert answer == {"slot": slot, "name": f"p{slot}", "node_id": str(1000 + slot)}
        assert enrol(study, request, nodes) == answer  # an answer that was lost
    with pytest.raises(InputError, match="all 4 places are taken; a place is never given twice"):
        invite(study, "late", tmp_path / "late.invite")
    assert revoke(study, "p1", nodes.out.append) == "the device is shut out; its place stays taken"
    assert nodes.out == [1001]
    with pytest.raises(InputError, match="all 4 places"):
        invite(study, "late", tmp_path / "late.invite")
    with pytest.raises(RefusedError, match="token used before"):  # what was revoked does not come back
        enrol(study, read_request(enrolment_request(papers[1].token, keys[1])), nodes)
    view = study.overview()
    assert [row["revoked"] is not None for row in view["enrolled"]] == [False, True, False, False]
    assert view["people"] == {"places": 4, "enrolled": 3, "online": 0, "revoked": 1, "invited": 0}
    events = [entry["event"] for entry in entries(study.folder)]
    assert events == ["made"] + ["invited"] * 4 + ["enrolled"] * 4 + ["revoked"]


def test_tokens_that_are_refused(study: Study) -> None:
    nodes = Nodes()

    def refused(paper: Invitation, key: ec.EllipticCurvePrivateKey, words: str) -> None:
        with pytest.raises(RefusedError) as caught:
            enrol(study, read_request(enrolment_request(paper.token, key)), nodes)
        assert caught.value.message == f"enrolment: {words}"

    ada, bea, cyd, dan = (invited(study, name) for name in ("ada", "bea", "cyd", "dan"))
    key = new_key()
    enrol(study, read_request(enrolment_request(ada.token, key)), nodes)
    refused(ada, new_key(), "token used before")
    refused(bea, key, "key known already")
    with study.database.writing() as session:
        session.get_one(Invited, "cyd").expires = "2020-01-01T00:00:00+00:00"
    refused(cyd, new_key(), "token expired")
    revoke(study, "dan", None)
    refused(dan, new_key(), "token withdrawn")
    again = invited(study, "dan")  # a new one may be written, and the old one stays dead
    refused(dan, new_key(), "unknown token")
    assert enrol(study, read_request(enrolment_request(again.token, new_key())), nodes)["slot"] == 1
    assert len(nodes.keys) == 2  # nobody else was let in
    with study.database.reading() as session:
        assert invitation_state(session.get_one(Invited, "cyd")) == "expired"


def test_nothing_is_used_up_while_the_inside_is_away(study: Study) -> None:
    nodes, key = Nodes(), new_key()
    request = read_request(enrolment_request(invited(study, "ada").token, key))
    nodes.away = True
    with pytest.raises(SuperLinkError):
        enrol(study, request, nodes)
    with study.database.reading() as session:
        assert session.get(Enrolled, 0) is None
    nodes.away = False
    assert enrol(study, request, nodes)["slot"] == 0


def test_nobody_is_in_of_whom_the_log_does_not_know(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, request = Nodes(), read_request(enrolment_request(invited(study, "ada").token, new_key()))

    def full(self: Audit, line: str) -> None:
        raise StorageError("cannot write audit.jsonl: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Audit, "_append", full)
        with pytest.raises(StorageError):
            enrol(study, request, nodes)
        with pytest.raises(StorageError):
            invite(study, "bea", study.folder / "bea.invite")
    assert not (study.folder / "bea.invite").exists()
    with study.database.reading() as session:
        assert session.get(Enrolled, 0) is None
        assert session.get(Invited, "bea") is None
    assert enrol(study, request, nodes)["slot"] == 0
    invited(study, "bea")
    verify(study.folder, study.signer)
    assert [entry["event"] for entry in entries(study.folder)][-1] == "invited"


def test_requests_that_do_not_hold() -> None:
    key = new_key()
    right = enrolment_request("t" * 40, key)
    assert read_request(right).token == "t" * 40
    old = rsa.generate_private_key(65537, 2048).public_key()
    wrong: list[tuple[object, str]] = [
        ([], "has exactly"),
        (right | {"more": 1}, "has exactly"),
        (right | {"token": "x"}, "token of the enrolment has a wrong form"),
        (right | {"token": 7}, "token of the enrolment has a wrong form"),
        (right | {"token": "u" * 40}, "proof of the enrolment does not hold"),
        (right | {"proof": "ab" * 40}, "proof of the enrolment does not hold"),
        (right | {"proof": right["proof"] + "a"}, "proof of the enrolment does not hold"),
        (
            right | {"public_key": enrolment_request("t" * 40, new_key())["public_key"]},
            "proof of the enrolment",
        ),
        (right | {"public_key": "ssh-ed25519 AAAA nonsense"}, "no OpenSSH public key"),
        (
            right | {"public_key": old.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()},
            "no NIST curve",
        ),
    ]
    for values, words in wrong:
        with pytest.raises(TrustError) as caught:
            read_request(values)
        assert words in caught.value.message


@pytest.fixture
def service(study: Study) -> Iterator[tuple[httpx.Client, Nodes]]:
    nodes = Nodes()
    found = EnrolmentService(study, nodes)
    with httpx.Client(base_url=f"http://127.0.0.1:{found.port}") as client:
        yield client, nodes
    found.close()


def test_every_refusal_looks_alike_and_is_counted(study: Study, service: tuple[httpx.Client, Nodes]) -> None:
    client, nodes = service
    paper, key = invited(study, "ada"), new_key()
    right = enrolment_request(paper.token, key)
    bad: list[dict[str, Any]] = [
        {"json": enrolment_request("n" * 40, key)},
        {"json": right | {"proof": "00" * 20}},
        {"json": {"token": paper.token}},
        {"content": b"{"},
        {"content": b"[" * 5000},
        {"content": b"x" * 9000},
        {"content": b""},
    ]
    answers = [client.post("/enrol", **request) for request in bad]
    answers.append(client.post("/other", json=right))
    assert {(answer.status_code, answer.text) for answer in answers} == {(403, '{"error": "refused"}')}
    assert study.refusals() == {
        "enrolment: unknown token": 1,
        "enrolment: request or proof does not hold": 7,
    }
    nodes.away = True
    assert client.post("/enrol", json=right).status_code == 503
    nodes.away = False
    answer = client.post("/enrol", json=right)
    assert (answer.status_code, json.loads(answer.text)["slot"]) == (200, 0)
    assert client.get("/enrol").status_code == 404


def test_public_parts_are_a_file_for_everybody(study: Study, service: tuple[httpx.Client, Nodes]) -> None:
    client, _ = service
    large = write_parts({"a": np.arange(300_000, dtype=np.float32)})  # several pieces
    (study.folder / "public" / "parts.npz").write_bytes(large)
    answer = client.get("/parts")
    assert (answer.status_code, answer.content) == (200, large)
    assert answer.headers["Content-Length"] == str(len(large))
    (study.folder / "public" / "parts.npz").unlink()
    for path in ("/parts", "/parts/", "/../signing.key", "/public/parts.npz"):
        assert client.get(path).status_code == 404
    assert study.refusals() == {}
