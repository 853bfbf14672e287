"""The command line from outside: exit codes, one clear line, one envelope."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from commonground.simulations.cli import app

RUNNER = CliRunner()


def call(*arguments: str) -> Result:
    return RUNNER.invoke(app, list(arguments))


BAD = [
    (("simulate", "data.taste.source=ratings", "data.taste.path=nowhere"), "nowhere"),
    (("simulate", "data.safety.source=pairs", "data.safety.path=wrong.jsonl"), "wrong.jsonl"),
    (("simulate", "people=0"), "people"),
    (("simulate", "people=10", "cohort=50"), "cohort"),
    (("simulate", "privacy.shared.epsilon=-1"), "privacy.shared.epsilon"),
    (("simulate", "modle.kind=reward"), "did you mean model?"),
    (("simulate", "strategy.name=fedagv"), "fedavg"),
    (("simulate", "loss.name=dppo"), "known losses"),
    (("simulate", "--config", "missing.yaml"), "missing.yaml"),
    (("simulate", "model.kind=policy", "model.base=empty"), "empty"),
    (("simulate", "schedule=joint", "privacy.unit=comparison"), "person-level"),
    (("simulate", "--resume", "nowhere"), "nowhere"),
    (("data", "check", "wrong.csv"), "wrong.csv"),
    (("report", "nowhere"), "nowhere"),
    (("config", "check", "people=1"), "at least 2"),
    (("config", "show", "--format", "xml"), "text, json"),
]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    (tmp_path / "wrong.jsonl").write_text('{"chosen": 3}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_is_exit_code_2_and_says_what_is_accepted(
    arguments: tuple[str, ...], words: str, scratch: Path
) -> None:
    out = ("--out", "o") if arguments[0] == "simulate" and "--resume" not in arguments else ()
    result = call(*arguments, *out)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not list(scratch.rglob("result.json"))
    assert not (scratch / "o").exists()


def test_an_error_as_json_is_one_envelope(scratch: Path) -> None:
    result = call("simulate", "people=0", "cohort=x", "--format", "json", "--out", "o")
    envelope = json.loads(result.stdout)
    assert result.exit_code == 2
    assert envelope["schema_version"] == "1"
    assert envelope["status"] == "error"
    assert envelope["error_code"] == "bad_config"
    assert len(envelope["faults"]) == 2


def test_config_show_as_json() -> None:
    envelope = json.loads(call("config", "show", "model.kind=policy", "--format", "json").stdout)
    assert envelope["status"] == "ok"
    assert envelope["data"]["config"]["loss"]["name"] == "dpo"


COMMANDS = [("simulate",), ("demo",), ("report",), ("config", "show"), ("config", "check"), ("data", "check")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: tuple[str, ...]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
