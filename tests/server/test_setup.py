"""`server init`: what it makes, what it refuses, and that half of it leaves nothing."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import toy_device
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from toy_encoder import save_encoder
from toy_study import make_study

from commonground.errors import InputError, RunFolderError, StorageError, StrategyError, TrustError
from commonground.recipe import make_plan
from commonground.server import setup
from commonground.server.audit import entries
from commonground.server.bundle import build_bundle
from commonground.server.certificates import LAST, make_certificates
from commonground.server.deployed import study_job
from commonground.server.front_door import listens_at
from commonground.server.setup import Wanted, init_study
from commonground.server.state import Settings, Study, read_settings
from commonground.server.tables import Database, Fact
from commonground.strategies.registry import client_half
from commonground.study.offer import terms_of
from commonground.study.public_parts import parts_digest, read_parts
from commonground.training.build import build_model
from commonground.training.contract import egress_manifest

SECRETS = ("signing.key", "seed.key", "ca.key", "server.key")


def wanted(**changes: Any) -> Wanted:
    values: dict[str, Any] = {
        "trust": "local",
        "name": "first",
        "address": "127.0.0.1:8443",
        "closes": "2099-01-01",
        "purpose": "to see",
        "contact": "me@example.org",
        "overrides": ["people=6", "rounds=4"],
    }
    return Wanted(**values | changes)


@pytest.mark.parametrize("trust", ["local", "central"])
def test_a_study_with_a_real_model(tmp_path: Path, trust: str) -> None:
    base = save_encoder(tmp_path / "encoder")
    init_study(
        tmp_path / "study", wanted(trust=trust, overrides=["people=6", "rounds=4", f"model.base={base}"])
    )
    study = Study(tmp_path / "study")
    assert [path.name for path in tmp_path.iterdir() if "init" in path.name] == []
    for name in SECRETS:
        assert (study.folder / name).stat().st_mode & 0o777 == 0o600, name
    assert study.run.stat().st_mode & 0o777 == 0o700

    config = study.config
    assert (config.privacy.trust, config.privacy.shared.delta) == (trust, 1e-5)
    assert config.privacy.shared.mechanism == ("banded" if trust == "central" else "gaussian")
    assert study.manifest.noise_on_device == (trust == "local")
    assert study.offer.base == {**study.manifest.versions, "parts": parts_digest(study.parts)}
    # A device derives the same from the offer alone, over its own comparisons.
    terms = terms_of(config)
    model = build_model(config, [setup.starter_pair(), replace(setup.starter_pair(), tag="taste")])
    plan = make_plan(config, ["safety"], terms.claim, terms.private_claim)
    half = client_half(config.strategy.name, config.strategy.options)
    own = egress_manifest(config, model, plan, terms.claim, half, 0)
    assert own.digest == study.manifest.digest
    # Or with the numbers of the operator's machine in place of its own: they are the same ones here.
    parts = read_parts(study.parts, study.offer.base["parts"])
    assert build_model(config, [setup.starter_pair()], parts=parts).public_digests() == model.public_digests()

    job = study_job(study)
    # As loud as the claim that is charged says, wherever the noise is made.
    z = study.terms.claim.noise_multiplier
    assert z > 0
    assert job.noise_multiplier == (pytest.approx(z, rel=1e-12) if trust == "central" else 0)
    made = pytest.approx(z * study.manifest.clip, rel=1e-12)
    assert job.device_noise == (0 if trust == "central" else made)
    assert (job.participations, job.minimum) == (study.terms.most, 1)
    assert job.wrapper().manifest.digest == own.digest
    assert job.initial_arrays().keys() == {spec.name for spec in own.broadcast}
    view = study.overview()
    assert view["statement"].startswith("Shared adapter (6 people)")
    assert ("reconstructed from such an update" in view["statement"]) == (trust == "central")
    assert view["people"] == {"places": 6, "enrolled": 0, "online": 0, "revoked": 0, "invited": 0}
    assert [entry["event"] for entry in entries(study.folder)] == ["made"]


def test_seeds_are_secret_and_of_256_bits(tmp_path: Path) -> None:
    seeds = [int((make_study(tmp_path / f"s{k}").folder / "seed.key").read_text()) for k in range(3)]
    assert len(set(seeds)) == 3
    assert min(seeds) > 2**200
    known = make_study(tmp_path / "known", insecure_seed=7)
    assert (study_job(known).seed, known.config.seed, known.settings.insecure) == (7, 7, True)


def test_certificates_are_of_the_study_and_of_its_address(tmp_path: Path) -> None:
    for number, (host, names) in enumerate(
        {"10.1.2.3": ["10.1.2.3"], "study.example.org": [], "localhost": []}.items()
    ):
        study = make_study(tmp_path / f"s{number}", address=f"{host}:8443")
        ca, server = (
            x509.load_pem_x509_certificate((study.folder / name).read_bytes())
            for name in ("ca.crt", "server.crt")
        )
        server.verify_directly_issued_by(ca)
        assert str(server.not_valid_after_utc) == str(ca.not_valid_after_utc) == "2099-01-01 00:00:00+00:00"
        key = server.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        found = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        ips = [str(ip) for ip in found.get_values_for_type(x509.IPAddress)]
        assert ips == ["127.0.0.1", *names]
        assert host in names or host in found.get_values_for_type(x509.DNSName)
        assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        ssl.create_default_context(cafile=str(study.folder / "ca.crt"))
        only = ca.extensions.get_extension_for_class(x509.NameConstraints)
        assert only.critical  # whoever imports it trusts it for the study's own names
        assert {str(name.value) for name in only.value.permitted_subtrees or ()} == {
            "localhost",
            *(str(ipaddress.ip_network(ip)) for ip in ips),
            *([] if host in ips or host.startswith("[") else [host]),
        }


@pytest.mark.parametrize(
    ("host", "name", "fine"), [("localhost", "localhost", True), ("h.example", "x.org", False)]
)
def test_the_authority_vouches_for_the_study_s_names_alone(
    tmp_path: Path, host: str, name: str, fine: bool
) -> None:
    """Who gets the authority's key could be any site, for a browser that imported it for the console."""
    made, now = make_certificates("first", host), datetime.now(UTC)
    ca, ca_key = (
        x509.load_pem_x509_certificate(made.ca),
        serialization.load_pem_private_key(made.ca_key, None),
    )
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = leaf.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "leaf.pem").write_bytes(pem)
    inside, outside = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.create_default_context(cadata=made.ca.decode()),
    )
    inside.load_cert_chain(tmp_path / "leaf.pem")
    ours, theirs = (ssl.MemoryBIO(), ssl.MemoryBIO()), (ssl.MemoryBIO(), ssl.MemoryBIO())
    server = inside.wrap_bio(ours[0], ours[1], server_side=True)
    client = outside.wrap_bio(theirs[0], theirs[1], server_hostname=name)
    said = ""
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                said = error.verify_message
        ours[0].write(theirs[1].read())
        theirs[0].write(ours[1].read())
        if said:
            break
    assert said == ("" if fine else "permitted subtree violation")


def test_certificates_are_good_for_two_years_and_until_the_study_ends() -> None:
    now = datetime.now(UTC)
    for closes, days in ((now + timedelta(days=9), 825), (now + timedelta(days=4000), 4000), (LAST, None)):
        found = make_certificates("first", "h", closes)
        server, ca = (x509.load_pem_x509_certificate(pem) for pem in (found.server, found.ca))
        assert ca.not_valid_after_utc >= server.not_valid_after_utc >= closes.replace(microsecond=0)
        if days is not None:
            assert abs((server.not_valid_after_utc - now).days - days) <= 1


def test_the_bundle_has_no_code(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    assert [path.name for path in (study.folder / "bundle").iterdir()] == ["pyproject.toml"]
    data, digest = build_bundle(study.folder / "bundle")
    assert build_bundle(study.folder / "bundle") == (data, digest)
    assert b"import " not in data
    assert len(data) < 2000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trust": None}, "--trust is missing; accepted: local, central"),
        ({"trust": "both"}, "--trust is 'both'; accepted: local, central"),
        ({"address": "nowhere"}, "address is 'nowhere'; accepted: HOST:PORT"),
        ({"address": "::1:8443"}, "address is '::1:8443'; accepted: HOST:PORT, an IPv6 address in brackets"),
        ({"address": "h:0"}, "a port from 1 to 65535"),
        ({"address": "bücher.example:1"}, "accepted: HOST in ASCII letters"),
        ({"deadline": 0.0}, "--deadline is 0; accepted: seconds above 0"),
        ({"deadline": float("nan")}, "--deadline is nan; accepted: seconds above 0"),
        ({"minimum": 0}, "--minimum is 0; accepted: 1 to "),
        ({"minimum": 7}, "--minimum is 7; accepted: 1 to "),
        ({"min_online": 7}, "--min-online is 7; accepted: 0 to 6, all people"),
        ({"min_online": -1}, "--min-online is -1; accepted: 0 to 6, all people"),
        ({"address": "a b:1"}, "address is 'a b:1'"),
        ({"address": "x;y:1"}, "address is 'x;y:1'"),
        ({"closes": "soon"}, "--closes is 'soon'; accepted: a time in ISO 8601"),
        ({"closes": "2020-01-01"}, "--closes is 2020-01-01, which is past"),
        ({"name": "No Name"}, "study is 'No Name'; accepted"),
        (
            {"insecure_seed": 1, "address": "10.0.0.1:1"},
            "--insecure-seed with --address 10.0.0.1:1; accepted",
        ),
        ({"overrides": ["people=0"]}, "people"),
        ({"overrides": ["nobody=1"]}, "unknown key"),
        ({"overrides": ["people=4", "cohort=9"]}, "cohort"),
        ({"overrides": ["privacy.trust=central"]}, "privacy.trust=central with --trust local"),
        (
            {"overrides": ["privacy.unit=comparison"]},
            "privacy.unit is comparison; accepted in a deployed study",
        ),
        (
            {"trust": "central", "overrides": ["privacy.shared.mechanism=gaussian"]},
            "accepted in a deployed study",
        ),
        ({"trust": "central", "overrides": ["strategy.name=krum"]}, "strategy.name=krum compares"),
        ({"overrides": ["strategy.name=nothing"]}, "known strategies"),
        ({"overrides": ["gate.enabled=true", "model.kind=policy"]}, "gate.enabled"),
        ({"config": Path("/nowhere.yaml")}, "the configuration cannot be read"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    contract = setup.Contract(toy_device.manifest(), {}, {})
    with (
        mock.patch.object(setup, "contract_of", return_value=contract),
        pytest.raises((InputError, StrategyError)) as caught,
    ):
        init_study(tmp_path / "study", wanted(**changes))
    assert words in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        with pytest.raises(RunFolderError, match="is there already; a new or an empty folder is needed"):
            init_study(tmp_path / name, wanted())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    (tmp_path / "empty").mkdir()
    assert make_study(tmp_path / "empty").offer.study == "toy"


def test_half_an_init_leaves_nothing(tmp_path: Path) -> None:
    for name in ("write_bundle", "make_certificates", "Audit"):
        full = mock.patch.object(setup, name, side_effect=OSError(28, "No space left on device"))
        with full, pytest.raises(StorageError, match="No space left"):
            make_study(tmp_path / "study")
        assert list(tmp_path.iterdir()) == []
    (tmp_path / ".study.init-killed").mkdir()  # what kill -9 leaves goes with the next try
    make_study(tmp_path / "study")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_settings_are_read_back_and_faults_are_said(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    for settings in (Settings("a", "b:1"), Settings('q"\\', "ü:1", 2.5, 3, 4, 5.0, 6, True)):
        path.write_text(settings.to_toml())
        assert read_settings(path) == settings
    wrong = {
        "there is no study.toml": None,
        "cannot be read": "study = ",
        "unknown key more; known: study, address": 'study = "a"\nmore = 1\n',
        "minimum is 'x'; accepted: int": 'minimum = "x"\n',
        "deadline is True; accepted: float": "deadline = true\n",
        "deadline is -1; accepted: a number from 0": "deadline = -1\n",
        "lacks a key": 'study = "a"\n',
    }
    for words, text in wrong.items():
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with pytest.raises(RunFolderError, match=words):
            read_settings(path)
    study = make_study(tmp_path / "study")
    study.change(deadline=3.0, min_online=None)
    assert (Study(study.folder).settings.deadline, study.settings.min_online) == (3.0, 1)
    with pytest.raises(InputError, match="deadline is 0; accepted: seconds above 0"):
        study.change(deadline=0.0)
    with pytest.raises(InputError, match="deadline is nan"):
        study.change(deadline=float("nan"))


def test_a_damaged_or_foreign_folder_is_said(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    offer = (study.folder / "offer.json").read_text()
    (study.folder / "offer.json").write_text(offer.replace("a test", "another"))
    with pytest.raises(TrustError, match="changed after it was signed"):
        _ = Study(study.folder).offer
    (study.folder / "offer.json").unlink()
    with pytest.raises(RunFolderError, match=r"offer\.json cannot be read"):
        _ = Study(study.folder).offer
    with study.database.writing() as session:
        session.get_one(Fact, "schema").value = "99"
    with pytest.raises(RunFolderError, match="has schema 99; accepted: 2"):
        Study(study.folder)
    study.close()
    (study.folder / "state.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(RunFolderError, match="is damaged"):
        Database(study.folder / "state.db")
    (study.folder / "state.db").unlink()
    with pytest.raises(RunFolderError, match="is missing"):
        Study(study.folder)


def test_what_the_front_door_listens_on() -> None:
    assert listens_at("127.0.0.1:1") == "127.0.0.1:1"
    assert listens_at("localhost:2") == "127.0.0.1:2"
    assert listens_at("[::1]:3") == "[::1]:3"
    assert listens_at("study.example.org:4") == "0.0.0.0:4"
    assert listens_at("study.example.org:4", "10.0.0.2") == "10.0.0.2:4"
    with pytest.raises(InputError, match="--bind is 'x'; accepted: an IP address"):
        listens_at("study.example.org:4", "x")
