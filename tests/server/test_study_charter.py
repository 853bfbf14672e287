"""`server init --charter`: chosen once, signed, tried, carried by every invitation, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from toy_charter import save_charter, signed_charter, word_head
from toy_models import tiny_base
from toy_world import HashEncoder

from commonground import language_model
from commonground.bounds.charter import load_charter, sign_charter
from commonground.bounds.charter_files import shipped_digest
from commonground.client.learner import understand
from commonground.errors import ConfigError, InputError, TrustError
from commonground.server import charters
from commonground.server.enrolment import invite
from commonground.server.setup import Wanted, init_study
from commonground.server.state import Study
from commonground.study.carried import read_carried
from commonground.study.invitation import Invitation, read_invitation

POLICY = ["people=6", "rounds=4", "model.kind=policy", "model.adapter=lora", "model.layers=2", "model.rank=2"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    from commonground.client import learner

    monkeypatch.setattr(language_model, "load_base", lambda base: tiny_base())
    for module in (charters, learner):
        monkeypatch.setattr(module, "Encoder", HashEncoder)


def study(folder: Path, overrides: list[str] = POLICY, **changes: Any) -> Study:
    wanted = Wanted(
        "local", "first", "127.0.0.1:8443", "2099-01-01", "to see", "me", overrides=overrides, **changes
    )
    init_study(folder / "study", wanted)
    return Study(folder / "study")


def invitation(made: Study, file: Path) -> Invitation:
    invite(made, "ada", file)
    return read_invitation(file.read_bytes())


def test_a_charter_of_one_s_own_travels_as_its_author_signed_it(tmp_path: Path) -> None:
    file = signed_charter(tmp_path / "charter")
    made = study(tmp_path, charter=file)
    digest = load_charter(file.with_name("charter.yaml")).digest
    assert made.config.bounds.charter == digest == made.manifest.versions["charter"]
    came = invitation(made, tmp_path / "ada.invite")
    found = read_carried(came.charter, digest, "hash")
    assert found.signer == json.loads(file.read_text())["signer"] != made.signer
    # a device derives the very manifest that was signed, from the invitation alone
    meant = understand(came.terms, made.parts, came.charter)
    assert meant.manifest.digest == made.manifest.digest
    assert meant.charter == found


def test_without_one_the_shipped_charter_is_signed_by_the_study(tmp_path: Path) -> None:
    made = study(tmp_path)
    assert made.config.bounds.charter == shipped_digest()
    paper = json.loads(json.loads(invitation(made, tmp_path / "ada.invite").charter)["charter"])
    assert paper["signer"] == made.signer


def test_a_charter_that_the_configuration_names_is_taken_and_its_path_stays_here(tmp_path: Path) -> None:
    file = signed_charter(tmp_path / "charter")
    made = study(tmp_path, [*POLICY, f"bounds.charter_file={file}"])
    assert made.config.bounds.charter == load_charter(file.with_name("charter.yaml")).digest
    assert made.config.bounds.charter_file == ""
    assert str(tmp_path) not in (made.folder / "offer.json").read_text()


def test_a_study_that_writes_nothing_has_none(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"--charter .* with model\.kind=reward; accepted: model\.kind=policy"
    ):
        study(tmp_path, ["people=6"], charter=signed_charter(tmp_path / "charter"))
    assert not (tmp_path / "study").exists()


def unsigned(folder: Path) -> Path:
    return save_charter(folder)


def edited(folder: Path) -> Path:
    file = signed_charter(folder)
    file.write_text(file.read_text().replace("Toy charter", "Foy charter"))
    return file


def other_probes(folder: Path) -> Path:
    file = signed_charter(folder)
    (folder / "asked.jsonl").write_text((folder / "asked.jsonl").read_text() + "\n")
    return file


def other_detector(folder: Path) -> Path:
    file = signed_charter(folder)
    (folder / "near.json").write_text(json.dumps(word_head("moon", answers=False).to_dict()))
    return file


def other_base(folder: Path) -> Path:
    return signed_charter(folder, base="1" * 64)


def way_out(folder: Path) -> Path:
    save_charter(folder / "in")
    text = (folder / "in" / "charter.yaml").read_text().replace("place: near.json", "place: in/near.json")
    for name in ("answers.json", "closed.json", "asked.jsonl", "alike.jsonl"):
        (folder / name).write_bytes((folder / "in" / name).read_bytes())
    (folder / "charter.yaml").write_text(text)
    paper = sign_charter(Ed25519PrivateKey.generate(), load_charter(folder / "charter.yaml"))
    (folder / "paper.json").write_text(paper.to_text())
    return folder / "paper.json"


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (unsigned, TrustError, "is not signed; a signed charter is needed"),
        (edited, TrustError, "was changed after it was signed"),
        (other_probes, TrustError, r"probe set asked\.jsonl has the digest"),
        (other_detector, TrustError, "detector near has the digest"),
        (other_base, TrustError, "the base model has the digest 0000000000000000"),
        (way_out, InputError, r"detectors\.near\.place is 'in/near\.json'"),
        (lambda folder: folder / "missing", InputError, "cannot be read: No such file"),
    ],
)
def test_a_charter_that_cannot_be_used_leaves_nothing(
    tmp_path: Path, make: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        study(tmp_path, charter=make(tmp_path / "charter"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study").exists()
    assert list(tmp_path.glob(".study*")) == []


def test_a_configuration_that_names_another_charter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bounds\.charter is aaaaaaaaaaaaaaaa; the charter"):
        study(tmp_path, [*POLICY, f"bounds.charter={'a' * 64}"])
