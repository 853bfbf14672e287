"""Offers, invitations and releases: what a device checks before it believes a server."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commonground.config import Config
from commonground.errors import ConfigError, TrustError
from commonground.manifest import Manifest, TensorSpec
from commonground.privacy.accounting import epsilon_composed
from commonground.recipe import resolve
from commonground.settings import load_config
from commonground.study.invitation import Invitation, read_invitation
from commonground.study.offer import Offer, as_config, terms_of
from commonground.study.release import Release, check_release, sign_release, tensors_digest
from commonground.study.signing import Paper, public_hex, sign

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
SIGNER = public_hex(KEY)
MANIFEST = Manifest((TensorSpec("u", (2, 3)), TensorSpec("b", ())), clip=1.0)
ARRAYS = {"u": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(2) * np.ones((), np.float32)}
NOW = datetime(2026, 12, 1, tzinfo=UTC)


def settings(*overrides: str) -> Config:
    return resolve(load_config(None, ["people=10", "cohort=5", "rounds=6", *overrides]))


def offer(**changes: Any) -> Offer:
    values = {
        "study": "harm-1",
        "version": 1,
        "purpose": "to learn what harms",
        "contact": "ask@example.org",
        "config": as_config(settings("privacy.shared.mechanism=banded")),
        "manifest": MANIFEST.to_dict(),
        "opens": "2026-11-01T00:00:00+00:00",
        "closes": "2027-01-01T00:00:00+00:00",
    }
    return Offer(**{**values, **changes})


def invitation(now: str = "2026-12-02T00:00:00+00:00", key: Ed25519PrivateKey = KEY) -> str:
    paper = sign(key, "offer", offer().to_dict())
    made = Invitation("harm-1", "Ada", "127.0.0.1:1", "PEM", "token", now, paper, public_hex(key))
    return sign(KEY, "invitation", made.to_content()).to_text()


def release(version: int = 1, round: int = 1, arrays: Any = ARRAYS, of: str = "offer") -> Release:
    return Release(of, version, round, tensors_digest(MANIFEST, arrays))


def check(text: str, arrays: Any = ARRAYS, last: Release | None = None, signer: str = SIGNER) -> Release:
    return check_release(text, arrays, MANIFEST, signer=signer, offer="offer", last=last)


# -- offers -----------------------------------------------------------------------------------------------


def test_an_offer_round_trips_and_keeps_its_digest() -> None:
    found = Offer.from_dict(offer().to_dict())
    assert found == offer()
    assert found.digest == offer().digest != offer(version=2).digest
    assert found.settings.people == 10


def test_an_offer_of_other_fields_does_not_fit() -> None:
    values = offer().to_dict()
    with pytest.raises(TrustError, match="novelty"):
        Offer.from_dict({**values, "novelty": 1})
    with pytest.raises(TrustError, match="study"):
        Offer.from_dict({k: v for k, v in values.items() if k != "study"})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"study": "Harm 1"}, "study is 'Harm 1'"),
        ({"version": 0}, "version is 0"),
        ({"opens": "tomorrow"}, "opens is 'tomorrow'"),
        ({"opens": "2026-11-01T00:00:00"}, "opens is"),
        ({"closes": "2026-10-01T00:00:00+00:00"}, "not after opens"),
        ({"purpose": "harm\x1b[2J"}, "purpose holds the control character 0x1b"),
        ({"contact": "ask\rEpsilon is 0"}, "contact holds the control character 0x0d"),
        ({"shares": "\u202eyrev"}, "shares holds the mark of direction"),
        ({"purpose": 5}, "purpose is a int; accepted: a text"),
    ],
)
def test_a_faulty_offer_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        offer(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"name": "subprocess:Popen", "options": {"args": ["touch", "x"]}}},
        {"strategy": {"name": "fltrust", "options": {"root": "os:getcwd"}}},
        {"strategy": {"name": "fedavg", "options": {"a": [{"b": "os:system"}]}}},
        {"model": {"base": "evil/${oc.env:HOME}"}},
        {"${model.base}": 1},
    ],
)
def test_an_offer_names_no_code_and_looks_nothing_up(changes: dict[str, Any]) -> None:
    """Refused where it is read, by the participant and by the operator who would sign it."""
    values = offer().to_dict()
    values["config"] |= changes
    with pytest.raises(ConfigError, match=r"offer: config\..*(names? code|may name code|\$\{)"):
        Offer.from_dict(values)


def test_a_study_is_open_from_its_first_instant_and_not_at_its_last() -> None:
    found = offer()
    times = [datetime(2026, 10, 31, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC), NOW]
    assert [found.is_open(t) for t in times] == [False, True, True]
    assert not found.is_open(datetime(2027, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("trust", ["local", "central"])
def test_k_uploads_cost_what_the_offer_claims_without_amplification(trust: str) -> None:
    extra = ["privacy.shared.mechanism=banded", "privacy.shared.band=2"] if trust == "central" else []
    found = terms_of(settings(f"privacy.trust={trust}", "privacy.shared.delta=1e-5", *extra))
    assert found.charge.sampling == 1.0
    assert found.separation == (2 if trust == "central" else 1)
    spent = epsilon_composed([found.charge] * found.most, 1e-5, "gaussian")
    assert spent == pytest.approx(found.claim.epsilon, rel=1e-9)
    assert spent <= 8.0
    assert epsilon_composed([found.charge] * (found.most + 1), 1e-5, "gaussian") > found.claim.epsilon


def test_claims_that_a_deployment_cannot_make_are_refused() -> None:
    with pytest.raises(ConfigError, match="central trust: banded, fixed"):
        terms_of(settings("privacy.trust=central"))
    with pytest.raises(ConfigError, match="accepted in a deployed study: person"):
        terms_of(settings("privacy.unit=comparison"))


# -- invitations ------------------------------------------------------------------------------------------


def test_an_invitation_gives_its_offer() -> None:
    found = read_invitation(invitation(), NOW)
    assert (found.name, found.signer, found.terms.study) == ("Ada", SIGNER, "harm-1")


def test_an_expired_invitation_names_both_clocks() -> None:
    with pytest.raises(TrustError, match=r"expired at 2026-11-30.*2026-12-01T00:00:00") as caught:
        read_invitation(invitation("2026-11-30T00:00:00+00:00"), NOW)
    assert "clock" in str(caught.value.hint)


def test_an_edited_invitation_is_refused() -> None:
    with pytest.raises(TrustError, match="changed after it was signed"):
        read_invitation(invitation().replace("127.0.0.1:1", "127.0.0.2:1"), NOW)


def test_an_offer_of_another_signer_is_refused() -> None:
    paper = sign(OTHER, "offer", offer().to_dict())
    made = Invitation("harm-1", "Ada", "a:1", "PEM", "t", "2026-12-02T00:00:00+00:00", paper, SIGNER)
    with pytest.raises(TrustError, match="the offer in the invitation is signed by"):
        read_invitation(sign(KEY, "invitation", made.to_content()).to_text(), NOW)


def test_an_invitation_without_a_token_is_refused() -> None:
    content = Paper.from_text(invitation()).content
    del content["token"]
    with pytest.raises(TrustError, match="lacks token"):
        read_invitation(sign(KEY, "invitation", content).to_text(), NOW)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        # what would be the profile's folder, and the name and the text of a unit of systemd
        (
            {"study": "../../.config/autostart"},
            "for study '../../.config/autostart', and its offer for harm-1",
        ),
        ({"study": "harm-1\nExecStartPre=/bin/true"}, r"for study 'harm-1.nExecStartPre"),
        ({"address": "--insecure"}, "its address is '--insecure'"),
        ({"address": "127.0.0.1:1@evil.example:443"}, "its address is"),
        ({"name": "Ada\x1b[2J"}, "its name holds the control character 0x1b"),
        ({"name": "Ada\nEpsilon is 0"}, "its name holds"),
        ({"name": "A" * 201}, "its name has 201 characters"),
        ({"ca": ""}, "no certificate authority"),  # the machine's own authorities would be believed then
    ],
)
def test_an_invitation_whose_names_are_something_else_is_refused(changes: dict[str, str], fault: str) -> None:
    content = Paper.from_text(invitation()).content | changes
    with pytest.raises(TrustError, match=fault) as caught:
        read_invitation(sign(KEY, "invitation", content).to_text(), NOW)
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize(
    "address", ["study.example.org:443", "[::1]:9092", "localhost:1", "192.168.1.4:65000"]
)
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    content = Paper.from_text(invitation()).content | {"address": address}
    assert read_invitation(sign(KEY, "invitation", content).to_text(), NOW).address == address


# -- releases ---------------------------------------------------------------------------------------------


def test_a_release_is_taken_and_the_same_one_again() -> None:
    first = check(sign_release(KEY, release()))
    assert check(sign_release(KEY, release()), last=first) == first
    later = {**ARRAYS, "b": np.ones((), np.float32)}
    second = check(sign_release(KEY, release(2, 2, later)), later, last=first)
    assert second.version == 2


def test_an_older_release_is_a_replay() -> None:
    newest = release(5, 5)
    with pytest.raises(TrustError, match="version 4; 5 has been taken"):
        check(sign_release(KEY, release(4, 4)), last=newest)


def test_another_content_under_a_known_version_is_refused() -> None:
    other = {**ARRAYS, "b": np.ones((), np.float32)}
    with pytest.raises(TrustError, match="version 1; 1 has been taken"):
        check(sign_release(KEY, release(1, 2, other)), other, last=release())


def test_rounds_do_not_go_back_and_a_version_keeps_its_round() -> None:
    with pytest.raises(TrustError, match="opens round 1; this device has seen 3"):
        other = {**ARRAYS, "b": np.ones((), np.float32)}
        check(sign_release(KEY, release(4, 1, other)), other, last=release(3, 3))
    with pytest.raises(TrustError, match="opened round 1; now it says 2"):
        check(sign_release(KEY, release(1, 2)), last=release(1, 1))


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({**ARRAYS, "u": np.full((2, 3), np.nan, np.float32)}, "non-finite"),
        ({**ARRAYS, "u": np.zeros((3, 2), np.float32)}, r"\(3, 2\)"),
        ({**ARRAYS, "u": np.zeros((2, 3), np.float64)}, "float64"),
        ({"u": ARRAYS["u"]}, "the manifest says"),
        ({**ARRAYS, "u": ARRAYS["u"] + 1}, "digest differs"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(arrays: dict[str, np.ndarray], fault: str) -> None:
    with pytest.raises(TrustError, match=fault):
        check(sign_release(KEY, release()), arrays)


def test_another_signer_offer_or_form_is_refused() -> None:
    with pytest.raises(TrustError, match="is signed by"):
        check(sign_release(OTHER, release()))
    with pytest.raises(TrustError, match="belongs to offer other"):
        check(sign_release(KEY, release(of="other")))
    with pytest.raises(TrustError, match="fields"):
        check(sign(KEY, "release", {**dataclasses.asdict(release()), "version": True}).to_text())


def test_the_digest_does_not_depend_on_byte_order() -> None:
    big = {name: value.astype(value.dtype.newbyteorder(">")) for name, value in ARRAYS.items()}
    assert tensors_digest(MANIFEST, big) == tensors_digest(MANIFEST, ARRAYS)
