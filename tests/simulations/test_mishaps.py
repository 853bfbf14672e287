"""What befalls a run from outside becomes one clear error, and nothing else does."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sqlite3
import threading
from pathlib import Path

import pytest

from commonground.config import Config
from commonground.errors import ConfigError, InterruptedRunError, RunFolderError, StorageError
from commonground.mishaps import storage_errors, terminated_as_interrupted
from commonground.settings import config_from
from commonground.simulations.mishaps import device_log, resumable
from commonground.simulations.settings import anchored, read_settings, refuse_unfit_strategy


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EIO])
def test_what_the_disk_refuses_is_a_storage_error(number: int) -> None:
    with pytest.raises(StorageError, match=os.strerror(number)) as caught, storage_errors("here"):
        raise OSError(number, os.strerror(number), "there/file")
    assert caught.value.exit_code == 2
    assert "there/file" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "error", [OSError("no number"), ConnectionResetError(errno.ECONNRESET, "reset"), KeyError("k")]
)
def test_faults_of_the_program_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, storage_errors("here"):
        raise error
    assert caught.value is error


def test_databases(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="cannot use the database in here: disk I/O error"),
        storage_errors("here"),
    ):
        raise sqlite3.OperationalError("disk I/O error")
    (tmp_path / "junk.sqlite").write_text("this is no database, and long enough to show it" * 3)
    database = sqlite3.connect(tmp_path / "junk.sqlite")
    with pytest.raises(RunFolderError, match="is damaged: file is not a database"), storage_errors(tmp_path):
        database.execute("SELECT * FROM sqlite_master")
    database.close()


def test_stopped_with_and_without_something_to_go_on_with(tmp_path: Path) -> None:
    with (
        pytest.raises(InterruptedRunError, match="before anything") as caught,
        resumable(tmp_path, "config.yaml"),
    ):
        raise KeyboardInterrupt
    assert caught.value.hint is None
    (tmp_path / "config.yaml").touch()
    for stop in (KeyboardInterrupt(), InterruptedRunError("in a thread")):
        with pytest.raises(InterruptedRunError) as caught, resumable(tmp_path, "config.yaml"):
            raise stop
        assert caught.value.hint == f"go on with: commonground simulate --resume {tmp_path}"


def test_sigterm_is_ctrl_c_for_a_while() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    done = []

    def elsewhere() -> None:
        with terminated_as_interrupted():  # only the main thread may set handlers
            done.append(1)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [1]


def test_device_logs_go_to_a_file_and_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("commonground.client")
    with device_log(tmp_path / "devices.log"):
        assert not (tmp_path / "devices.log").exists()  # made when there is something to say
        logger.warning("secret")
    assert "secret" in (tmp_path / "devices.log").read_text()
    with device_log(tmp_path / "no folder" / "devices.log"):
        logger.warning("a log that cannot be written stops nothing")
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger("commonground").propagate


def test_strategies_are_checked_with_everything_else(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("people: 1\nstrategy:\n  name: fedagv\nloss:\n  name: dppo\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(file)
    assert len(caught.value.faults) == 3
    [fault] = [fault for fault in caught.value.faults if "strategy" in fault]
    assert fault.startswith(f"{file}:3: strategy.name: 'fedagv'; known strategies: alpha_fair, bulyan, ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["strategy.options.foo=1"], "strategy.options.foo: unknown to fedavg; accepted: none"),
        (
            ["strategy.name=fedadam", "strategy.options.eta=x"],
            "strategy.options.eta: 'x'; a number is needed",
        ),
        (
            ["strategy.name=fedprox", "strategy.options.proximal_mu=-1"],
            "proximal_mu: -1; accepted: 0 or more",
        ),
        (["strategy.name=krum"], "krum compares people's updates"),
        (["strategy.name=no.such:Thing"], "cannot be imported"),
        (["strategy.name=json:loads"], "refuses its options"),
    ],
)
def test_each_fault_of_a_strategy_is_one_line(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(None, words)
    [fault] = caught.value.faults
    assert expected in fault
    assert "\n" not in fault


def test_a_strategy_of_ones_own_that_breaks_on_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_strategy.py").write_text("def half(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="'broken_strategy:X', which cannot be imported: SyntaxError"):
        read_settings(None, ["strategy.name=broken_strategy:X"])


def test_krum_is_fine_without_a_promise_and_through_the_function_too() -> None:
    refuse_unfit_strategy(read_settings(None, ["strategy.name=krum", "privacy.shared.epsilon=inf"]))
    with pytest.raises(ConfigError, match="krum"):
        refuse_unfit_strategy(config_from({"strategy": {"name": "krum"}}))


def test_local_paths_are_made_absolute_and_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ratings").mkdir()
    config = Config()
    config.data.taste.path, config.data.safety.path, config.model.base = "ratings", "owner/name", "x" * 300
    found = anchored(config)
    assert found.data.taste.path == str(tmp_path / "ratings")
    assert (found.data.safety.path, found.model.base) == ("owner/name", "x" * 300)
    assert config.data.taste.path == "ratings"
