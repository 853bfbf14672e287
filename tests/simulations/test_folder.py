"""A run's folder: whose it is, what it keeps, and that a failed start leaves it as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonground.config import Config
from commonground.errors import InterruptedRunError, RunFolderError, StorageError
from commonground.recipe import resolve
from commonground.settings import config_from
from commonground.simulations.folder import (
    CONFIG,
    EVENTS,
    LOCK,
    LOG,
    NEEDED,
    RESULT,
    Events,
    RunFolder,
    read_events,
)


def config(**values: Any) -> Config:
    return resolve(config_from(values))


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} - {LOCK}


def test_configuration_is_written_first_and_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.check(config())
    assert not (tmp_path / "deep").exists()  # looking writes nothing
    with folder.claim(config(people=30)):
        assert names(folder.path) == {CONFIG}
        assert folder.config() == config(people=30)
    with folder.claim(config(people=30)):  # and once more: the same configuration may go on
        pass


def test_in_use_by_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from commonground.simulations.folder import RunFolder\n"
        "from commonground.recipe import resolve; from commonground.config import Config\n"
        "with RunFolder(Path(sys.argv[1])).claim(resolve(Config())):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(RunFolderError, match="in use by another run"),
        RunFolder(tmp_path / "run").claim(config()),
    ):
        pytest.fail("two processes in one folder")
    assert (tmp_path / "run" / CONFIG).is_file()
    holder.communicate("")
    assert holder.returncode == 0
    with RunFolder(tmp_path / "run").claim(config()):
        pass


def test_another_configuration_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a run")
    with folder.claim(config()):
        pass
    before = (folder.path / CONFIG).read_bytes()
    for attempt in (folder.check, lambda c: folder.claim(c).__enter__()):
        with pytest.raises(RunFolderError, match="another configuration") as caught:
            attempt(config(seed=2))
        assert f"--resume '{folder.path}'" in str(caught.value.hint)
    assert (folder.path / CONFIG).read_bytes() == before


def test_files_and_full_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "file").check(config())
    with pytest.raises(RunFolderError, match="not empty and holds no run"):
        RunFolder(tmp_path).check(config())
    with (
        pytest.raises(RunFolderError, match="not empty"),
        RunFolder(tmp_path).claim(config()),
    ):
        pytest.fail("took a folder that holds other things")
    assert names(tmp_path) == {"file"}
    assert not (tmp_path / LOCK).exists()
    with (
        pytest.raises(StorageError, match="Not a directory"),
        RunFolder(tmp_path / "file" / "run").claim(config()),
    ):
        pytest.fail("made a folder inside a file")
    with pytest.raises(StorageError, match="too long"):
        RunFolder(tmp_path / ("x" * 300)).check(config())


def test_a_kill_before_the_configuration_was_whole_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    (tmp_path / f"{CONFIG}.part").write_text("peop")
    with RunFolder(tmp_path).claim(config()):
        assert names(tmp_path) == {CONFIG}


def fail(folder: Path, error: Exception, *files: str) -> None:
    """A run that makes these files in its folder and then fails."""
    with RunFolder(folder).claim(config()):
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("x")
        raise error


def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail(tmp_path / "deep" / "run", KeyError("x"), "state/job-shared.json", EVENTS)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(StorageError):
        fail(tmp_path / "mine", StorageError("full"))
    assert list((tmp_path / "mine").iterdir()) == []  # it was there before and stays


def test_what_is_worth_keeping_stays(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        fail(tmp_path / "rounds", StorageError("full"), "state/shared/checkpoint.npz")
    with pytest.raises(KeyError):
        fail(tmp_path / "log", KeyError("x"), LOG)
    with pytest.raises(InterruptedRunError):
        fail(tmp_path / "stopped", InterruptedRunError("stopped"))
    for kept in ("rounds", "log", "stopped"):
        assert RunFolder(tmp_path / kept).config() == config()
    with pytest.raises(StorageError):  # a later failure of a run that was there before
        fail(tmp_path / "stopped", StorageError("full"))
    assert RunFolder(tmp_path / "stopped").config() == config()


def test_half_files_of_a_killed_run_are_swept_away(tmp_path: Path) -> None:
    with RunFolder(tmp_path).claim(config()):
        pass
    (tmp_path / ".report.html.x1.part").touch()
    (tmp_path / "state" / "shared").mkdir(parents=True)
    (tmp_path / "state" / "shared" / "checkpoint.npz.part").touch()
    with RunFolder(tmp_path).claim(config()):
        assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("content", [b"people: 0\n", b"people: [1\n", b"\xff\xfe\x00", b"- 1\n"])
def test_a_damaged_configuration_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CONFIG).write_bytes(content)
    with pytest.raises(RunFolderError, match=r"config\.yaml is damaged") as caught:
        RunFolder(tmp_path).config()
    assert "\n" not in caught.value.message


def test_no_run_no_result(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        RunFolder(tmp_path).config()
    assert RunFolder(tmp_path).result() is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": 1', "is damaged"),
        ("\0", "is damaged"),
        ("[]", "no result of schema 1"),
        ('{"schema": 2}', "no result of schema 1"),
        ('{"schema": 1, "config": {}}', "lacks versions"),
    ],
)
def test_a_damaged_result_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(RunFolderError, match=words):
        RunFolder(tmp_path).result()


def test_results_are_json_or_nothing(tmp_path: Path) -> None:
    whole = {"schema": 1} | dict.fromkeys(NEEDED)
    RunFolder(tmp_path).write_result(whole)
    assert RunFolder(tmp_path).result() == whole
    with pytest.raises(ValueError, match="JSON compliant"):
        RunFolder(tmp_path).write_result({"schema": float("nan")})
    assert RunFolder(tmp_path).result() == whole


def line(arm: str, round: int) -> dict[str, Any]:
    return {"arm": arm, "round": round, "seconds": 0.1}


def test_events_follow_the_checkpoints(tmp_path: Path) -> None:
    """Rounds that were told and not saved come again; a torn line and a doubled one are dropped."""
    lines = [line("shared", 1), line("shared", 2), line("shared", 2), line("shared", 3), line("pooled", 1)]
    text = "".join(json.dumps(one) + "\n" for one in lines) + '{"arm": "pooled", "rou'
    (tmp_path / EVENTS).write_text(text)
    events = Events(RunFolder(tmp_path), {"shared": 2})
    events.add(line("shared", 3))
    kept = [line("shared", 1), line("shared", 2), line("shared", 3)]
    assert events.lines == read_events(tmp_path / EVENTS) == kept
    assert (tmp_path / EVENTS).read_text() == "".join(json.dumps(one) + "\n" for one in kept)


@given(junk=st.binary(max_size=60))
def test_any_junk_in_events_is_survived(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("events")
    good = json.dumps(line("shared", 1)).encode()
    (folder / EVENTS).write_bytes(good + b"\n" + junk)
    assert read_events(folder / EVENTS)[0] == line("shared", 1)
    Events(RunFolder(folder), {"shared": 1})


def test_a_place_where_no_folder_can_be_made_is_one_line() -> None:
    folder = RunFolder(Path("/proc/nowhere/run"))
    with pytest.raises(StorageError, match="/proc/nowhere/run cannot be made"), folder.claim(Config()):
        pass
