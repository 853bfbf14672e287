"""A part that was killed leaves nothing behind that holds its port: nginx's workers outlive their master."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
from toy_patience import ended, until

from commonground.server.processes import Kept, end_session

FORKS = "import os, time; print(os.fork(), flush=True); time.sleep(3600)"


def test_what_a_killed_part_left_is_ended_before_it_starts_again(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    part = Kept("part", lambda: [sys.executable, "-c", FORKS], log, {})
    assert part.look()
    assert part.process is not None
    until(lambda: len(log.read_text().split()) >= 2, alive=part.process)
    worker = psutil.Process(max(map(int, log.read_text().split())))
    part.process.kill()
    part.process.wait()
    assert worker.is_running()
    part.look()
    ended(worker)
    if part.process is not None:
        part.process.kill()
        part.process.wait()


def test_a_session_whose_leader_is_there_is_left_alone() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with subprocess.Popen(command, start_new_session=True) as leader:
        end_session(leader.pid)
        assert leader.poll() is None
        leader.kill()
