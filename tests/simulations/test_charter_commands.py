"""`commonground charter`: checked, signed, compared, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import toy_world
from click.testing import Result
from toy_charter import save_charter
from typer.testing import CliRunner

from commonground import embeddings
from commonground.bounds.charter_files import default_charter
from commonground.simulations.cli import app
from commonground.study.charters import read_charter, trusted_charter
from commonground.study.signing import fingerprint


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "Encoder", toy_world.HashEncoder)


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["charter", *(str(word) for word in words)])


def refused(result: Result, words: str) -> None:
    assert result.exit_code == 2, result.output
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words in line


def test_a_charter_is_checked_signed_and_trusted(tmp_path: Path) -> None:
    file, key = save_charter(tmp_path), tmp_path / "mine.key"
    checked = call("check", file)
    assert checked.exit_code == 0, checked.output
    assert "the charter is fine" in checked.stdout
    assert "not signed" in checked.stdout
    assert "probes asked (dev): 26 of 2 constraints" in checked.stdout
    signed = call("sign", file, "--key", key, "--format", "json")
    assert signed.exit_code == 0, signed.output
    data = json.loads(signed.stdout)["data"]
    assert key.stat().st_mode & 0o777 == 0o600
    paper = Path(data["file"])
    assert paper == tmp_path / "charter.signed.json"
    for signer in (data["signer"], data["fingerprint"], None):
        assert trusted_charter(paper, signer).charter == read_charter(file).charter
    assert data["fingerprint"] in call("check", paper, "--signer", data["fingerprint"]).stdout
    again = json.loads(call("sign", file, "--key", key, "--format", "json").stdout)["data"]
    assert again["signer"] == data["signer"]  # the key is used again, not made anew
    refused(call("check", paper, "--signer", fingerprint("0" * 64)), "is signed by")
    refused(call("check", file, "--signer", data["signer"]), "is not signed")
    refused(call("sign", paper, "--key", key), "is signed already")
    refused(call("sign", file, "--key", key, "--out", tmp_path / "else" / "c.json"), "in another folder")


def test_what_is_wrong_is_said_before_anything_is_signed(tmp_path: Path) -> None:
    file = save_charter(tmp_path)
    (tmp_path / "asked.jsonl").write_text('{"prompt": "other", "constraint": "tides"}\n')
    for words in (("check", file), ("sign", file, "--key", tmp_path / "k")):
        refused(call(*words), "probe set asked.jsonl has the digest")
    save_charter(tmp_path)
    text = json.loads((tmp_path / "near.json").read_text())
    (tmp_path / "near.json").write_text(json.dumps(text | {"bias": 1.0}))
    for words in (("check", file), ("sign", file, "--key", tmp_path / "k")):
        refused(call(*words), "detector near has the digest")
    file.write_text(save_charter(tmp_path / "more").read_text().replace("delta: 1.0", "delta: -1.0"))
    refused(call("check", file), "bounds.delta: found -1.0")
    refused(call("check", tmp_path / "none.yaml"), "cannot be read")
    file.write_bytes(b"\xff\xfe\x00")
    refused(call("check", file), "it is no text")
    file.write_text('{"kind": "charter"}')
    refused(call("check", file), "it is no signed paper")
    assert not (tmp_path / "k").exists()
    assert not (tmp_path / "charter.signed.json").exists()


def test_changes_are_listed_a_line_a_value(tmp_path: Path) -> None:
    old, new = save_charter(tmp_path / "a"), save_charter(tmp_path / "b", delta=0.5, draws=2)
    found = call("diff", old, new)
    assert found.exit_code == 0
    assert found.stdout.splitlines() == ["bounds.delta: 1.0 -> 0.5", "bounds.draws: 1 -> 2"]
    assert "say the same" in call("diff", old, old).stdout
    shutil.copy(old, tmp_path / "copy.yaml")
    data = json.loads(call("diff", old, tmp_path / "copy.yaml", "--format", "json").stdout)["data"]
    assert data["changes"] == []
    assert data["old"] == data["new"]


@pytest.mark.model
def test_the_shipped_charter_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = json.loads(call("check", "--format", "json").stdout)["data"]
    assert found["digest"] == default_charter().digest
    assert sum(found["probes"]["dev"].values()) >= 320
    assert found["signer"] is None
