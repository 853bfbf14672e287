"""What an operator types: words, envelopes and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy_device
from toy_study import make_study

from commonground.server import setup
from commonground.server.releases import Releases
from commonground.server.state import Study
from commonground.server.tables import Round, now
from commonground.simulations.cli import app
from commonground.study.invitation import read_invitation

INIT = [
    "--name", "first", "--address", "127.0.0.1:8443", "--closes", "2099-01-01", "--purpose", "to see",
    "--contact", "me@example.org",
]  # fmt: skip


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        app(["server", *map(str, words)])
    return int(left.value.code or 0)


def envelope(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    run(*words, "--format", "json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def zeros() -> dict[str, Any]:
    import numpy as np

    return {spec.name: np.zeros(spec.shape, np.float32) for spec in toy_device.SPECS}


def test_a_study_from_init_to_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = setup.Contract(toy_device.manifest(), zeros(), {})
    monkeypatch.setattr(setup, "contract_of", lambda config, progress: made)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "study"
    assert run("init", folder, *INIT) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: --trust is missing; accepted: local, central"
    assert "each device adds its own noise" in said[1]
    assert "the server adds the noise" in said[1]
    assert len(said) == 2

    assert run("init", folder, "--trust", "central", *INIT, "people=5", "rounds=3", "model.kind=policy") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Shared adapter (5 people)")
    assert any(line.startswith("signer: ") for line in said)
    study = Study(folder)
    assert study.offer.config["people"] == 5

    assert run("invite", folder, "ada") == 0
    assert read_invitation((tmp_path / "ada.invite").read_bytes()).name == "ada"
    assert run("invite", folder, "ada", "--out", "again.invite") == 2
    assert "'ada' is invited already" in capsys.readouterr().err
    assert run("invite", folder, "../bea", "--days", "1") == 0  # a name is no path
    assert (tmp_path / "-bea.invite").is_file()

    assert run("status", folder) == 0
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("first is not running; trust: central") for line in said)
    assert "people: 0 of 5 enrolled, 0 online, 0 revoked, 2 invited" in said
    assert envelope(capsys, "status", folder)["data"]["people"]["places"] == 5
    study.set_fact("trouble", "the disk is full")
    run("status", folder)
    assert "the rounds do not go on: the disk is full" in capsys.readouterr().out

    assert run("release", "list", folder) == 0
    assert "there is no release yet" in capsys.readouterr().out
    Releases(study).open(1, zeros())
    rows = envelope(capsys, "release", "list", folder)["data"]["releases"]
    assert [(row["version"], row["round"], row["current"]) for row in rows] == [(1, 1, True)]
    shown = envelope(capsys, "release", "show", folder, 1)["data"]
    assert [tensor["name"] for tensor in shown["tensors"]] == [spec.name for spec in toy_device.SPECS]
    failed = envelope(capsys, "release", "rollback", folder, 7)
    assert (failed["error_code"], failed["message"]) == ("bad_input", "there is no release 7; known: 1 to 1")
    assert run("release", "rollback", folder, 1) == 0
    assert study.fact("rollback") == "1"

    assert run("revoke", folder, "ada") == 0
    assert run("revoke", folder, "nobody") == 2
    assert run("down", folder) == 0
    assert "the server was not running" in capsys.readouterr().out
    assert envelope(capsys, "audit", "verify", folder)["data"]["lines"] == 6
    events = [row["event"] for row in envelope(capsys, "audit", "show", folder)["data"]["entries"]]
    assert events == ["made", "invited", "invited", "released", "rollback", "revoked"]
    log = folder / "audit.jsonl"
    log.write_text(log.read_text().replace('"ada"', '"eve"'))  # digests may hold the bare letters
    failed = envelope(capsys, "audit", "verify", folder)
    assert (failed["error_code"], failed["message"][:19]) == ("not_trusted", "audit log: line 3 d")


def test_no_epsilon_is_said_that_promises_nothing_and_a_round_under_way_is_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = make_study(tmp_path / "few", ["privacy.shared.epsilon=2"])
    run("status", few.folder)
    said = capsys.readouterr().out
    assert "no epsilon is shown" in said
    assert "at most epsilon" not in said
    many = make_study(tmp_path / "many", ["people=400", "cohort=100", "privacy.shared.epsilon=2"])
    with many.database.writing() as session:
        session.add(Round(round=1, began=now()))
    budget = many.overview()["budget"]
    assert budget["meaningful"]
    assert budget["spent"] == pytest.approx(2, abs=0.01)  # each of four rounds has other people
    run("status", many.folder)
    assert "privacy: at most epsilon 2 of 2 spent of any one person" in capsys.readouterr().out


def test_what_is_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["status"], ["up"], ["down"], ["release", "list"], ["audit", "verify"]):
        assert run(*words, tmp_path) == 2
        said = capsys.readouterr().err.splitlines()
        assert said == [
            f"error: {tmp_path} is no study: there is no study.toml",
            "hint: make one with commonground server init",
        ]


def test_a_closed_study_and_one_without_nginx_do_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path / "study")
    assert run("up", study.folder, "--deadline", "-1") == 2
    assert "deadline is -1.0; accepted: a number from 0" in capsys.readouterr().err
    monkeypatch.setattr("commonground.study.offer.Offer.is_open", lambda self: False)
    assert run("up", study.folder) == 2
    assert "error: the study is closed: its time is" in capsys.readouterr().err
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    assert run("up", study.folder) == 2
    assert "error: nginx is not installed" in capsys.readouterr().err
