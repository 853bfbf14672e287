"""A study's server in processes of its own, and its people as light devices: what load is measured on."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives.asymmetric import ec

from commonground.errors import CommonGroundError
from commonground.server.enrolment import enrol, invite
from commonground.server.setup import Wanted, init_study
from commonground.server.state import Study
from commonground.server.superlink import HOST
from commonground.server.supervisor import inside, ready
from commonground.study.enrolment import enrolment_request, read_request
from commonground.study.invitation import read_invitation

STARTS = 600.0  # seconds for a server to be up, on a machine that does other things
ENDS = 20.0


def wanted(overrides: Sequence[str], **more: Any) -> Wanted:
    """What a made-up study on a free port of loopback asks for; `more` are fields of `Wanted`."""
    fields: dict[str, Any] = {
        "trust": "local",
        "name": "bench",
        "address": f"{HOST}:{door_port()}",
        "closes": "2999-01-01",
        "purpose": "To see how a server stands load.",
        "contact": "nobody@example.org",
        "overrides": tuple(overrides),
        "deadline": 120.0,
    }
    return Wanted(**{**fields, **more})


def door_port() -> int:
    """A free port for a front door, which opens it later.

    Below those that the system hands out by itself: one of these may be another connection's by then.
    """
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(10_000, 32_000)
        with socket.socket() as found:
            try:
                found.bind((HOST, port))
            except OSError:
                continue
            return port


@dataclass
class Load:
    """What the server's processes used.

    Attributes:
        memory: largest resident set seen, MB, by process name.
        processor: seconds of processor time, by process name.
    """

    memory: dict[str, float] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)


class RunningServer:
    """`commonground server up` as a child of this process.

    Args:
        folder: the study's; `init_study` made it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.load = folder, Load()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the supervisor; raises `CommonGroundError` where it does not run."""
        if self._process is None or self._process.poll() is not None:
            raise CommonGroundError(
                f"the server of {self.folder} does not run", hint=f"see {self.folder}/log"
            )
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until the front door and the SuperLink answer; raises `CommonGroundError`."""
        if self._process is not None:
            self._process.wait()  # it was killed
        command = [sys.executable, "-m", "commonground.server.supervisor", str(self.folder)]
        with (self.folder / "log" / "supervisor.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + STARTS
        while not ready(self.folder, self._process.pid):
            if time.monotonic() > end or self._process.poll() is not None:
                self.stop()
                raise CommonGroundError("the server does not start", hint=f"see {self.folder}/log")
            time.sleep(0.2)

    def stop(self) -> None:
        """End it in order; what does not end in time is killed."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(ENDS)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
            self._process.kill()
            self._process.wait()
        self._process = None

    def look(self) -> None:
        """Note what its processes use at this moment."""
        for process in psutil.Process(self.pid).children(recursive=True):
            try:
                name = part_of(process)
                size = process.memory_info().rss / 1e6
                times = process.cpu_times()
            except psutil.Error:
                continue
            self.load.memory[name] = max(self.load.memory.get(name, 0.0), size)
            used = float(times.user + times.system)
            self.load.processor[name] = max(self.load.processor.get(name, 0.0), used)


def part_of(process: psutil.Process) -> str:
    """One of superlink, rounds, front door: which part of a server a process is; raises `psutil.Error`."""
    words = " ".join(process.cmdline())
    if "nginx" in words:
        return "front door"
    return "rounds" if "server.executor" in words else "superlink" if "superlink" in words else process.name()


@contextmanager
def serving(folder: Path, asked: Wanted) -> Iterator[RunningServer]:
    """Make a study and run its server until the block ends."""
    init_study(folder, asked)
    server = RunningServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def enrolled(folder: Path, count: int) -> list[ec.EllipticCurvePrivateKey]:
    """Enrol so many devices and give their node keys; index = slot of those that a new study enrols.

    As the enrolment service does it, but not through the front door, which lets sixty a minute of one address
    in. The server runs.
    """
    study = Study(folder)
    control = inside(study)
    if control is None:
        raise CommonGroundError(f"the server of {folder} does not run")
    keys = []
    try:
        for number in range(count):
            file = folder / "run" / f"{number}.invite"
            invite(study, f"device {number}", file)
            token = read_invitation(file.read_bytes()).token
            os.unlink(file)
            key = ec.generate_private_key(ec.SECP384R1())
            enrol(study, read_request(enrolment_request(token, key)), control.register)
            keys.append(key)
    finally:
        control.close()
        study.close()
    return keys
