"""A charter that travels with an offer: whole, held to its digests, and nothing else than was signed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from toy_charter import save_charter, signed_charter, word_head

from commonground.bounds.charter import load_charter, sign_charter
from commonground.bounds.charter_files import default_charter, shipped_digest, shipped_folder
from commonground.config import Config
from commonground.embeddings import Encoder
from commonground.errors import ConfigError, InputError, TrustError
from commonground.settings import config_from
from commonground.study import carried
from commonground.study.carried import carry, read_carried
from commonground.study.signing import Paper, public_hex
from commonground.training.contract import charter_digest

ENCODER = "hash"  # of the toy charter's heads
KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    signed_charter(tmp_path)
    return tmp_path


def text_of(folder: Path) -> str:
    return carry(Paper.from_text((folder / "charter.signed.json").read_text()), folder)


def digest_of(folder: Path) -> str:
    return load_charter(folder / "charter.yaml").digest


def test_a_charter_comes_with_its_files_and_is_read_as_it_was_signed(folder: Path) -> None:
    found = read_carried(text_of(folder), digest_of(folder), ENCODER)
    assert found.charter == load_charter(folder / "charter.yaml")
    assert sorted(found.files) == ["alike.jsonl", "answers.json", "asked.jsonl", "closed.json", "near.json"]
    with found.folder() as made:
        for name in found.files:
            assert (made / name).read_bytes() == (folder / name).read_bytes()
        inside = made
    assert not inside.exists()


def test_the_shipped_charter_travels_without_files_and_any_study_may_sign_it() -> None:
    text = carry(sign_charter(KEY, default_charter()), shipped_folder())
    found = read_carried(text, shipped_digest(), Encoder().digest)
    assert (found.signer, found.files) == (public_hex(KEY), {})
    assert len(text) < 20_000
    with found.folder() as made:
        assert made == shipped_folder()


def test_sealed_probes_stay_where_they_are(folder: Path) -> None:
    values = (folder / "charter.yaml").read_text().replace("split: dev", "split: sealed")
    (folder / "charter.yaml").write_text(values)
    charter = load_charter(folder / "charter.yaml")
    text = carry(sign_charter(KEY, charter), folder)
    assert "asked.jsonl" not in read_carried(text, charter.digest, ENCODER).files
    assert "xylophones number 3" not in text


def changed(text: str, change: Callable[[dict[str, Any]], None]) -> str:
    values = json.loads(text)
    change(values)
    return json.dumps(values)


def other_head(values: dict[str, Any]) -> None:
    values["files"]["answers.json"] = json.dumps(word_head("moon", answers=True).to_dict())


def resigned(values: dict[str, Any]) -> None:
    """The same charter but for one word, under a signature that holds."""
    content = json.loads(values["charter"])["content"]
    content["changes"]["who"] = "whoever likes"
    from commonground.bounds.charter import charter_from

    values["charter"] = sign_charter(KEY, charter_from(content)).to_text()


def edited(values: dict[str, Any]) -> None:
    values["charter"] = values["charter"].replace("Toy charter", "Foy charter")


FAULTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (other_head, "detector answers has the digest"),
    (lambda v: v["files"].pop("near.json"), "files alike.jsonl, answers.json, asked.jsonl, closed.json came"),
    (lambda v: v["files"].update({"../x": ""}), "came with it"),
    (lambda v: v["files"].update({"near.json": 3}), "came with it"),
    (lambda v: v["files"].update({"near.json": "{"}), "detector near"),
    (lambda v: v.pop("files"), "is damaged"),
    (lambda v: v.update(charter="{}"), "is damaged"),
    (edited, "changed after it was signed"),
    (resigned, "the offer names"),
]


@pytest.mark.parametrize(("change", "words"), FAULTS)
def test_what_was_changed_on_the_way_is_one_clear_line(
    folder: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    with pytest.raises(TrustError) as caught:
        read_carried(changed(text_of(folder), change), digest_of(folder), ENCODER)
    assert words in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("text", "words"), [("", "is missing"), ("no", "damaged"), ("[]", "damaged")])
def test_no_charter_is_refused(text: str, words: str) -> None:
    with pytest.raises(TrustError, match=words):
        read_carried(text, shipped_digest(), ENCODER)


def test_a_known_prompt_that_was_changed_is_refused(folder: Path) -> None:
    (folder / "charter.yaml").write_text(
        (folder / "charter.yaml").read_text().replace("split: benign", "split: train")
    )
    charter = load_charter(folder / "charter.yaml")
    text = carry(sign_charter(KEY, charter), folder).replace("zithers number 1", "zithers number 9")
    with pytest.raises(TrustError, match=r"probe set alike\.jsonl has the digest"):
        read_carried(text, charter.digest, ENCODER)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("place: near.json", "place: ../near.json", "detectors.near.place is '../near.json'"),
        ("place: near.json", "place: /etc/passwd", "accepted: a plain file or hub name"),
        ("file: asked.jsonl", "file: sub/asked.jsonl", "probes.asked.file is 'sub/asked.jsonl'"),
        ("who: us", 'who: "us\\e[2J"', "changes.who holds the control character 0x1b"),
        ("text: No tides of", 'text: "No \\u202E tides of', "constraints.tides.text holds the mark"),
    ],
)
def test_names_and_texts_that_would_do_something_do_not_travel(
    folder: Path, old: str, new: str, words: str
) -> None:
    source = (folder / "charter.yaml").read_text()
    new = new + ' xylophones."\n' if old.startswith("text") else new
    old = old + " xylophones.\n" if old.startswith("text") else old
    assert old in source
    (folder / "charter.yaml").write_text(source.replace(old, new))
    charter = load_charter(folder / "charter.yaml")
    paper = sign_charter(KEY, charter)
    with pytest.raises(InputError) as caught:
        carry(paper, folder)
    assert words in caught.value.message
    by_hand = json.dumps({"charter": paper.to_text(), "files": {}})  # an operator's own program may send it
    with pytest.raises(TrustError) as refused:
        read_carried(by_hand, charter.digest, ENCODER)
    assert words in refused.value.message


def test_what_is_too_large_or_missing_does_not_travel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "LARGEST", 1000)
    with pytest.raises(InputError, match="accepted: at most 1,000"):
        text_of(folder)
    (folder / "near.json").unlink()
    with pytest.raises(InputError, match=r"near\.json cannot be read: No such file"):
        text_of(folder)


def test_a_run_of_policies_has_a_charter_and_one_of_rewards_has_none(tmp_path: Path) -> None:
    digest = load_charter(save_charter(tmp_path)).digest
    assert charter_digest(Config()) == ""
    assert charter_digest(config_from({"model": {"kind": "policy"}})) == shipped_digest()
    named = config_from({"model": {"kind": "policy"}, "bounds": {"charter": digest}})
    assert charter_digest(named) == digest
    with pytest.raises(ConfigError, match=r"bounds\.charter: found one with model\.kind=reward"):
        config_from({"bounds": {"charter": digest}})
    with pytest.raises(ConfigError, match="a SHA-256 in 64 hexadecimal digits"):
        config_from({"model": {"kind": "policy"}, "bounds": {"charter": "default"}})
