"""Parts that are kept alive: started again after a growing pause, ended together, and never left over."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from toy_patience import all_gone, ended, until

from commonground.server import processes
from commonground.server.processes import Kept, end_all, identity, same_process
from commonground.server.state import running

SLEEP = [sys.executable, "-c", "import time; time.sleep(3600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); "
    "time.sleep(3600)",
]


def until_dead(kept: Kept) -> None:
    until(lambda: not kept.alive)


def test_a_part_that_ends_is_started_again_after_a_growing_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("commonground.server.processes.time.monotonic", lambda: clock[0])
    kept = Kept("part", lambda: [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "part.log", {})
    pauses = []
    assert kept.look()
    for _ in range(8):
        assert kept.process is not None
        ended(kept.process)
        began = clock[0]
        while not kept.look():
            assert kept.words == "ended with exit code 3; starts again"
            clock[0] += 0.25
        pauses.append(clock[0] - began)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert kept.restarts == 8
    end_all([kept], 5)


def test_signals_are_said_by_name_and_all_end_together(tmp_path: Path) -> None:
    parts = [Kept(f"p{k}", lambda: SLEEP, tmp_path / f"p{k}.log", {"PART": str(k)}) for k in range(2)]
    deaf = Kept("deaf", lambda: DEAF, tmp_path / "deaf.log", {})
    for part in (*parts, deaf):
        assert part.look()
    pid = parts[0].pid
    assert pid is not None
    psutil.Process(pid).send_signal(signal.SIGKILL)
    until_dead(parts[0])
    assert not parts[0].look()
    assert parts[0].words == "ended with SIGKILL; starts again"
    until(lambda: "deaf" in (tmp_path / "deaf.log").read_text(), alive=lambda: deaf.alive)
    pids = [part.pid for part in (parts[1], deaf)]
    end_all([*parts, deaf], 1.0)
    assert [part.pid for part in (*parts, deaf)] == [None] * 3
    assert not any(psutil.pid_exists(pid) for pid in pids if pid is not None)


def test_a_process_is_known_again_whatever_the_clock_says_and_its_number_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "supervisor.pid"
    child = subprocess.Popen(SLEEP)
    words = identity(child.pid)
    path.write_text(words + "\n")
    born = psutil.Process.create_time
    monkeypatch.setattr(
        psutil.Process, "create_time", lambda self: born(self) + 600
    )  # the clock was put right
    assert running(tmp_path) == same_process(words) == child.pid
    number, ticks, boot = words.split()
    for other in (f"{number} {int(ticks) + 1} {boot}", f"{number} {ticks} of-another-boot", f"{number}"):
        path.write_text(other)
        assert running(tmp_path) is None
    path.write_text("")
    assert running(tmp_path) is None
    child.kill()
    path.write_text(words)
    until(lambda: running(tmp_path) is None)  # dead, though this process has not asked for its end
    assert psutil.pid_exists(child.pid)
    ended(child)
    assert running(tmp_path) is None


_PARENT = """
import sys, time
from pathlib import Path
from commonground.server.processes import Kept
kept = Kept("child", lambda: [sys.executable, "-c", "import time; time.sleep(3600)"], Path(sys.argv[1]), {})
kept.start()
print(kept.pid, flush=True)
time.sleep(3600)
"""


def test_a_part_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "child.log")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    until(
        lambda: "sleep" in " ".join(child.cmdline()) and len(child.cmdline()) == 3
    )  # the launcher is through
    parent.kill()
    ended(parent)
    parent.stdout.close()
    assert all_gone([child.pid])


def test_a_log_that_grows_too_large_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LARGEST", 10)
    kept = Kept("part", lambda: SLEEP, tmp_path / "part.log", {})
    (tmp_path / "part.log").write_text("x" * 11)
    kept.look()
    assert kept.look()
    end_all([kept], 5)
    assert (tmp_path / "part.log.1").read_text() == "x" * 11
    assert (tmp_path / "part.log").read_text() == ""
