"""Certifying one device through its vault: what she is shown is counted, and only her vault is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_vault
from toy_charter import PROBES, UNSAFE, signed_charter
from toy_models import tiny_base
from toy_vault import Vault, running
from toy_world import HashEncoder
from typer.testing import CliRunner

from commonground import language_model
from commonground.client import answers, learner, owner, told
from commonground.client.pieces import Piece
from commonground.client.profile import CERTIFICATE as LEFT_WITH
from commonground.errors import DataError, InputError, InterruptedRunError, TrustError
from commonground.simulations.certify import device
from commonground.simulations.certify.content import Asked
from commonground.simulations.certify.dealing import EVERYDAY, PROBE, Row
from commonground.simulations.certify.device import answer_of, certify_device
from commonground.simulations.certify.run import CERTIFICATE, KEY, KIND, PAGE
from commonground.simulations.cli import app
from commonground.study.carried import carry
from commonground.study.charters import read_charter
from commonground.study.signing import Paper

MODEL = {"kind": "policy", "adapter": "lora", "layers": 2, "rank": 2}
ASKED = Asked(probes=20, tokens=4)


@pytest.fixture(scope="module")
def patched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_model, "load_base", lambda base: tiny_base())
        for module in (answers, learner, device):
            patch.setattr(module, "Encoder", HashEncoder)
        yield


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, patched: None) -> Iterator[Vault]:
    folder = tmp_path_factory.mktemp("device")
    file = signed_charter(folder / "charter")
    config = toy_vault.study_config(model=MODEL, bounds__charter=read_charter(file).charter.digest)
    text = carry(Paper.from_text(file.read_text()), file.parent)
    with running(folder / "p", toy_vault.offer_of(config), charter=text) as found:
        yield found


@pytest.fixture(autouse=True)
def known_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's store has a key that no passphrase and no keyring leads to."""
    monkeypatch.setattr(device, "passphrase_of", lambda profile: None)
    monkeypatch.setattr(owner, "open_key", lambda folder, passphrase: toy_vault.KEY)


def test_before_she_accepted_nothing_is_certified(box: Vault) -> None:
    with pytest.raises(InputError, match="nothing is accepted on this device"):
        certify_device(box.profile, ASKED, lambda *_: None)
    box.consent()


def test_her_own_policy_is_certified_and_signed_by_the_profile(
    box: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every personal draw is harm that the guard finds: what is shown are the shared policy's answers."""

    def write(meant: Any, prompt: str, own: Any, tokens: int, budget: Any = None) -> Iterator[str]:
        yield f"the {UNSAFE} falls. " if own[1] is not None else "the moon rises. "

    monkeypatch.setattr(told, "write", write)
    monkeypatch.setattr(told, "policies", lambda *_: ({}, {}))
    ticks: list[tuple[str, int, int]] = []
    paper = certify_device(box.profile, ASKED, lambda *tick: ticks.append(tick))
    folder = box.profile.folder
    assert Paper.from_text((folder / CERTIFICATE).read_text()) == paper
    found = paper.opened(KIND, paper.signer)
    assert {CERTIFICATE, PAGE, KEY} == set(LEFT_WITH)  # what `device leave` takes away
    assert (folder / KEY).stat().st_mode & 0o777 == 0o600
    page = (folder / PAGE).read_text()
    assert "toys, Ada" in page
    assert "Toy charter" in page
    assert found["run"]["people"] == 1
    assert [one["person"] for one in found["people"]] == ["this device"]
    assert found["overall"]["answers"] == found["procedure"]["probes"] == 20
    assert found["overall"]["events"] == 0
    placed = found["tiers"]["placed"]
    assert placed["closed"]["prompts"]["probe"] >= 16
    assert all(placed[tier]["shown"]["personal"] == 0 for tier in placed)
    everyday = found["benign"]["everyday"]
    assert everyday["fallback"] == everyday["answers"] == 4  # each was the shared policy's
    asked = [tick for tick in ticks if tick[0] != "answers judged"]
    assert asked[-1][1:] == (len(asked) - 1, len(asked) - 1)
    assert ticks[-1] == ("answers judged", 20, 20)
    assert found["charter"]["source"] == "the accepted offer"
    assert found["charter"]["digest"] == box.operator.offer.config["bounds"]["charter"]
    # nothing of what was written is kept
    assert not list(folder.rglob("*.jsonl"))


def test_the_command_knows_a_profile_when_it_sees_one(box: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "write", lambda *_: iter(["the moon rises."]))
    monkeypatch.setattr(told, "policies", lambda *_: ({}, {}))
    words = ["certify", str(box.profile.folder), "--probes", "5", "--tokens", "4"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "certificate:" in done.output
    done = CliRunner().invoke(app, [*words, "--full"])
    assert done.exit_code == 2
    assert "--full with a device" in done.stderr


def test_what_cannot_be_certified(box: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "write", lambda *_: iter(["the moon rises."]))
    monkeypatch.setattr(told, "policies", lambda *_: ({}, {}))
    other = signed_charter(tmp_path / "other", max_violation=0.9)
    with pytest.raises(TrustError, match="this device accepted"):
        certify_device(box.profile, Asked(charter=other), lambda *_: None)
    with pytest.raises(TrustError, match="the accepted charter is signed by"):
        certify_device(box.profile, Asked(signer="ab" * 32), lambda *_: None)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="no answer was kept"):
        certify_device(box.profile, ASKED, stop)

    def learn(what: str, done: int, of: int) -> None:
        if done == of:
            box.owner.reset()

    states = iter([1, 2])
    with monkeypatch.context() as patch:
        status = box.server.mine.status
        patch.setattr(
            box.server.mine, "status", lambda: status() | {"shared": {"version": next(states), "round": 1}}
        )
        with pytest.raises(InputError, match="an adapter of this device changed while it was asked"):
            certify_device(box.profile, Asked(probes=2, tokens=4), lambda *_: None)
    box.owner.add(PROBES[0][0], "moon", "sea", "taste")
    with pytest.raises(DataError, match=r"1 of 26 probes were used in the run's training"):
        certify_device(box.profile, ASKED, lambda *_: None)


def test_a_device_that_is_down_or_writes_nothing(tmp_path: Path, patched: None, box: Vault) -> None:
    import toy_profile

    quiet = toy_profile.make_profile(tmp_path / "reward")
    with pytest.raises(InputError, match="has no charter: its model judges answers"):
        certify_device(quiet, ASKED, lambda *_: None)
    shown = Path(box.profile.folder / "invitation").read_bytes()
    down = toy_profile.make_profile(tmp_path / "down", box.operator.offer)
    (down.folder / "invitation").write_bytes(shown)
    with pytest.raises(InputError, match="no vault runs on the profile"):
        certify_device(down, ASKED, lambda *_: None)


ASK = Row(PROBE, 0, "p", "tides")
CUT = [Piece("Half. ", "personal", "free"), Piece("No.", "refusal", "free", "", ("unsafe",))]


def test_a_cut_answer_is_judged_by_what_was_shown_and_counted_as_refused_where_it_costs() -> None:
    ours = [Piece("Ours. ", "shared", "free"), Piece("No.", "refusal", "free", "", ("unsafe",))]
    found = answer_of(ASK, CUT, ours)
    assert (found.source, found.text, found.shared, found.missed) == ("personal", "Half. ", "Ours. ", True)
    benign = answer_of(Row(EVERYDAY, 0, "p", ""), CUT, CUT)
    assert (benign.source, benign.text, benign.shared, benign.missed) == ("refusal", "No.", None, False)
    refused = [Piece("No.", "refusal", "closed", "", ("unsafe",))]
    whole = answer_of(ASK, refused, refused)
    assert (whole.source, whole.shared, whole.missed) == ("refusal", None, False)
