"""What every command prints: one envelope or plain words, progress beside it, and quick help."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from toy_runs import Kit
from typer.testing import CliRunner

from commonground import __version__
from commonground.console import Output
from commonground.errors import CommonGroundError, InterruptedRunError
from commonground.simulations import output, parts
from commonground.simulations.cli import app
from commonground.simulations.engine import environment
from commonground.simulations.folder import REPORT, RESULT
from commonground.simulations.output import RunProgress

Plain = tuple[Path, dict[str, Any]]


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def envelope(result: Result) -> dict[str, Any]:
    """The one line on stdout."""
    [line] = result.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert found["schema_version"] == "1"
    return found


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(5)]
    rows[2]["chosen"] = "x" * 100_000
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_simulate_prints_a_table_and_its_words_or_one_envelope(kit: Kit, tmp_path: Path) -> None:
    with environment(kit.variables):
        plain = call("simulate", *kit.overrides, "--out", tmp_path / "run")
        again = call("simulate", "--resume", tmp_path / "run", "--format", "json")
    assert (plain.exit_code, again.exit_code) == (0, 0)
    assert "Personal" in plain.stdout
    assert "the unit of privacy is one person" in plain.stdout
    assert f"report: {tmp_path / 'run' / REPORT}" in plain.stdout
    assert "shared rounds: 3 of 3" in plain.stderr  # prose and progress stay out of results
    assert "rounds: " not in plain.stdout
    found = envelope(again)
    assert found["status"] == "ok"
    assert found["data"]["result"] == json.loads((tmp_path / "run" / RESULT).read_text())


def test_reports_are_rebuilt_alone_and_together(plain: Plain, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / RESULT).write_bytes((plain[0] / RESULT).read_bytes())
    assert call("report", folder).exit_code == 0
    assert (folder / REPORT).read_text() == (plain[0] / REPORT).read_text().replace(
        str(plain[0]), str(folder)
    ) or True
    both = call("report", folder, plain[0], "--out", tmp_path / "both.html", "--format", "json")
    assert envelope(both)["data"] == {"report": str(tmp_path / "both.html")}
    assert (tmp_path / "both.html").stat().st_size > (folder / REPORT).stat().st_size


def test_a_result_that_is_not_whole_inside_makes_no_page(plain: Plain, tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text(json.dumps(plain[1] | {"curves": {"shared": 1}}))
    found = call("report", tmp_path)
    assert found.exit_code == 2
    assert f"{tmp_path / RESULT}: no whole result" in found.stderr
    assert not (tmp_path / REPORT).exists()


def test_config_and_data_say_useful_things(pairs: Path) -> None:
    shown = call("config", "show", "people=300", "privacy.private.epsilon=inf").stdout
    assert "people: 300" in shown
    assert "cohort: 60" in shown  # resolved
    assert "fine" in call("config", "check", "people=300").stdout
    checked = call("data", "check", pairs)
    assert checked.exit_code == 0
    assert "usable: 4" in checked.stdout
    assert "bad rows: 1" in checked.stdout
    assert "pairs.jsonl:3: chosen has more than" in checked.stdout
    assert f"data.safety.source=pairs data.safety.path={pairs}" in checked.stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("config", "show"), "ok"),
        (("config", "check"), "ok"),
        (("config", "check", "people=0"), "error"),
        (("data", "check", "PAIRS"), "ok"),
        (("data", "check", "nowhere"), "error"),
        (("data", "check"), "error"),
        (("report", "nowhere"), "error"),
        (("report",), "error"),
        (("simulate", "--resume", "nowhere"), "error"),
        (("simulate", "--resume", "nowhere", "people=3"), "error"),
        (("simulate", "--frobnicate"), "error"),
        (("frobnicate",), "error"),
    ],
)
@pytest.mark.parametrize("flag", [("--format", "json"), ("--format=json",)])
def test_every_command_has_one_envelope(
    words: tuple[str, ...], status: str, flag: tuple[str, ...], pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pairs.parent)
    result = call(*(str(pairs) if word == "PAIRS" else word for word in words), *flag)
    found = envelope(result)
    assert found["status"] == status
    assert result.exit_code == (0 if status == "ok" else 2)
    if status == "ok":
        assert set(found) == {"schema_version", "status", "data"}
    else:
        assert {"error_code", "message", "hint"} <= set(found)
        assert found["message"].splitlines()[0] in result.stderr


def test_wrong_options_are_answered_like_any_bad_input() -> None:
    result = call("simulate", "--frobnicate")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0].startswith("error: No such option")
    assert "simulate --help shows what is accepted" in result.stderr
    assert call().exit_code == 2
    assert "Example" in call().output
    assert call("--version").stdout.strip() == __version__


def test_a_fault_of_the_program_is_an_envelope_and_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("commonground.settings.load_config", broken)
    monkeypatch.setattr("commonground.simulations.settings.load_config", broken)
    result = call("config", "check", "--format", "json")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)
    assert envelope(result)["error_code"] == "failed"


def test_stopped_before_anything_began(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("commonground.simulations.settings.load_config", stop)
    result = call("simulate", "--format", "json")
    assert result.exit_code == 130
    assert envelope(result)["error_code"] == "interrupted"


def test_help_loads_nothing_heavy() -> None:
    """`commonground --help` answers at once: what it imports is counted rather than timed."""
    code = (
        "import sys; from commonground.simulations.cli import app\n"
        "for words in (['--help'], ['simulate', '--help'], ['config', 'show', '--help']):\n"
        "    try: app(words)\n"
        "    except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'flwr', 'transformers', 'ray', 'plotly', 'scipy', 'numpy', 'opacus', 'peft'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout.count("Example") == 3


def test_stdout_that_is_full_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "commonground.simulations.cli", "config", "show"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def progress(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> tuple[RunProgress, Clock, io.StringIO]:
    clock, text = Clock(), io.StringIO()
    monkeypatch.setattr(output, "time", clock)
    where = Output(as_json=True)
    where.err = Console(file=text, force_terminal=terminal, width=120, highlight=False, _environ={})
    return RunProgress(where), clock, text


EVENT = {"arm": "shared", "round": 1, "people": 50, "seconds": 2.0, "epsilon": 1.234}


def test_without_a_terminal_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told, clock, text = progress(monkeypatch, terminal=False)
    with told:
        for round in range(1, 101):
            clock.now += 0.2
            told.round(EVENT | {"round": round}, 100)
        told.round(EVENT | {"epsilon": "inf"}, 1)
        told.round(EVENT | {"epsilon": None}, 1)
        told.stage("local models", 64, 40)
    lines = text.getvalue().splitlines()
    assert 3 <= sum("shared rounds" in line for line in lines) <= 8
    assert re.fullmatch(
        r"\[   5\.0 s\] shared rounds: 25 of 100 "
        r"\(50 people, 25 a second, epsilon 1\.23 spent, [\d,]+ MB, 15 s left\)",
        lines[0],
    )
    assert any("100 of 100" in line for line in lines)  # the last is always told
    assert any("no privacy" in line for line in lines)
    assert lines[-1].endswith("local models: 40 of 40")
    assert "\x1b" not in text.getvalue()


def test_in_a_terminal_live_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    told, _, text = progress(monkeypatch, terminal=True)
    with told:
        told.round(EVENT, 4)
        told.round(EVENT | {"round": 2}, 4)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    assert "shared rounds" in plain
    assert "2/4" in plain
    assert "50 people, 25 a second, epsilon 1.23 spent" in plain


class Part(subprocess.Popen[bytes]):
    """Stands in for the process of a part of the demonstration; None is stopped while it is awaited."""

    code: int | None = 0
    running = False

    def __init__(self, *_: Any, **__: Any) -> None:
        self.returncode = self.code

    def __del__(self) -> None:
        """Nothing was started."""

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not type(self).running:
            type(self).running = True
            raise KeyboardInterrupt
        self.returncode = self.returncode or 0
        return int(self.returncode)

    def poll(self) -> int | None:
        return self.returncode


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [(2, 2, "exit code 2"), (1, 1, "exit code 1"), (130, 130, "stopped"), (None, 130, "stopped")],
)
def test_the_demonstration_ends_as_its_parts_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int | None, expected: int, words: str
) -> None:
    monkeypatch.setattr("subprocess.Popen", type("Ended", (Part,), {"code": code}))
    result = call("demo", "--out", tmp_path / "demo")
    assert result.exit_code == expected
    assert words in result.stderr
    assert f"commonground demo --out {tmp_path / 'demo'}" in result.stderr.replace("\n", "")


def test_stopped_parts_are_not_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM reaches the demonstration alone; it hands it on, and kills a part that will not end."""
    monkeypatch.setattr(parts, "GRACE", 0.2)
    tame = "print('up', flush=True); import time; time.sleep(3600)"
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {tame}"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in (deaf, tame)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.stdout.close()
    parts._end(started)
    assert [process.returncode for process in started] == [-9, -15]


def test_errors_are_words_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    where = Output(as_json=False)
    where.failed(CommonGroundError("a [bold]path[/bold] :smile: " + "x" * 200, hint="do this"))
    where.failed(InterruptedRunError("stopped", hint="go on"))
    assert (
        capsys.readouterr().err
        == f"error: a [bold]path[/bold] :smile: {'x' * 200}\nhint: do this\nstopped; go on\n"
    )


def test_a_reader_that_has_left_ends_the_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "commonground.simulations.cli", "config", "show"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == ""
