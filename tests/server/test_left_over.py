"""A part that was killed leaves nothing behind that holds its port: nginx's workers outlive their master."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from commonground.server.processes import Kept, end_session

FORKS = "import os, time; print(os.fork(), flush=True); time.sleep(60)"


def test_what_a_killed_part_left_is_ended_before_it_starts_again(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    part = Kept("part", lambda: [sys.executable, "-c", FORKS], log, {})
    assert part.look()
    end = time.monotonic() + 20
    while len(log.read_text().split()) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert part.process is not None
    worker = psutil.Process(max(map(int, log.read_text().split())))
    part.process.kill()
    part.process.wait()
    assert worker.is_running()
    part.look()
    worker.wait(10)
    if part.process is not None:
        part.process.kill()
        part.process.wait()


def test_a_session_whose_leader_is_there_is_left_alone() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, start_new_session=True) as leader:
        end_session(leader.pid)
        assert leader.poll() is None
        leader.kill()
