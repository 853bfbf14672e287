"""`server up`: keeps a study's parts alive until it is told to stop.

The parts: the SuperLink on loopback, the front door (nginx), the enrolment service (in this process), and the
executor that runs the rounds. Each that ends is started again after a pause. A run of the study's own bundle
is submitted to the SuperLink, again and again until the study is done: the executor goes on from its
checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from filelock import FileLock, Timeout
from sqlalchemy import select

from commonground.console import QUIET, stay_quiet
from commonground.errors import CommonGroundError, InputError, RunFolderError, StorageError
from commonground.files import write_atomically
from commonground.server.audit import Audit
from commonground.server.bundle import build_bundle
from commonground.server.control import FINISHED, Control, SuperLinkError
from commonground.server.enrolment import EnrolmentService
from commonground.server.front_door import (
    CROWD,
    Refusals,
    crowds,
    front_door_command,
    listens_at,
    nginx,
    write_config,
)
from commonground.server.limits import limits
from commonground.server.processes import Kept, end_all, end_session, identity, same_process
from commonground.server.state import PID, Study, running
from commonground.server.superlink import (
    HOST,
    free_port,
    listens,
    new_secret,
    root_certificates,
    superlink_command,
)
from commonground.server.tables import Enrolled, Part, now
from commonground.terminal import log_to_stderr

TICK, NODES = 0.25, 2.0  # seconds between looks at processes, and at nodes and the run
PATIENCE = 4.0  # seconds that a part gets to end by itself
AGAIN = (1.0, 60.0)  # seconds before a run that ended is submitted again, from the first to the longest
INSIDE, READY = "superlink.port", "ready"
CHILDREN = "children.pid"

log = logging.getLogger("commonground.server")


class Supervisor:
    """Keeps one study's parts alive.

    Args:
        study: its folder.
        bind: IP address of the front door; "" is the study's own address.
    """

    def __init__(self, study: Study, bind: str = "") -> None:
        self._study, self._bind = study, bind
        self._stop = threading.Event()
        self._bundle, self._digest = build_bundle(study.folder / "bundle")
        self._bounds = limits(study.manifest)
        self._port = free_port()
        self._run: int | None = None
        self._again, self._pause = 0.0, AGAIN[0]
        self._looked = 0.0
        environment = QUIET | {
            "FLWR_HOME": str(study.run / "flwr"),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
        }
        here = [sys.executable, "-m", "commonground.server.executor", str(study.folder), str(self._port)]
        self._superlink = Kept(
            "SuperLink",
            lambda: superlink_command(study, self._port),
            study.log / "superlink.log",
            environment,
        )
        self._door = Kept(
            "front door",
            lambda: front_door_command(study),
            study.log / "front_door.log",
            environment,
            signal.SIGTERM,  # nginx ends its workers then
        )
        self._executor = Kept("rounds", lambda: here, study.log / "rounds.log", environment)
        self._control = Control(f"{HOST}:{self._port}", root_certificates(study.folder))
        self._refusals = Refusals(study)
        self._ready = False
        self._door_port = int(listens_at(study.settings.address, bind).rpartition(":")[2])
        self._crowds: set[str] = set()  # addresses that held too many connections when it was looked last

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()

    def run(self) -> None:
        """Run until `stop`; raises `CommonGroundError` where it cannot start."""
        study = self._study
        new_secret(study)
        write_atomically(study.run / INSIDE, f"{self._port}\n".encode(), private=True)
        service = EnrolmentService(study, self._register)
        Audit(study.folder, study.key).add("up")
        try:
            write_config(study, self._port, service.port, self._bounds, self._bind)
            while not self._stop.is_set():
                try:
                    self._tick()
                except (StorageError, OSError) as error:  # it may be over in a minute
                    log.warning("%s", error)
                self._stop.wait(TICK)
        finally:
            self._control.close()  # the SuperLink waits for open connections
            end_all((self._door, self._executor, self._superlink), PATIENCE)
            service.close()
            try:
                self._note(ended=True)
                Audit(study.folder, study.key).add("down")
            except StorageError as error:
                log.warning("%s", error)

    def _say_ready(self) -> None:
        """Once the front door is open, and it is ours that is."""
        host, _, port = listens_at(self._study.settings.address, self._bind).rpartition(":")
        at = HOST if host == "0.0.0.0" else host.removeprefix("[").removesuffix("]")
        if not self._ready and self._door.alive and listens(int(port), at):
            self._ready = True
            write_atomically(self._study.run / READY, str(os.getpid()).encode())

    def _register(self, key: EllipticCurvePublicKey) -> int:
        return self._control.register(key)

    def _tick(self) -> None:
        was = self._superlink.pid
        inside = self._superlink.look() and listens(self._port)
        if self._superlink.pid != was:
            self._children()
        if inside:  # the others have nothing to do without it
            for part in (self._door, self._executor):
                before = part.pid
                part.look()
                if part.pid != before:
                    self._children()
            self._say_ready()
        for reason, count in Counter(self._refusals.new()).items():  # one write a reason, whatever comes
            self._study.refuse(reason, count)
        if inside and time.monotonic() - self._looked >= NODES:
            self._looked = time.monotonic()
            self._crowded()
            try:
                self._nodes()
                self._submit()
            except SuperLinkError as error:
                log.warning("%s", error.message)
            self._note()

    def _crowded(self) -> None:
        """Count addresses that hold more connections than devices need; the log says which, once."""
        found = crowds(self._door_port)
        for address, count in found.items():
            if address not in self._crowds:
                log.warning("%s holds %d connections to the front door: see docs/deploy.md", address, count)
        if found:
            self._study.refuse(CROWD, sum(found.values()))
        self._crowds = set(found)

    def _nodes(self) -> None:
        """Who is online; and shut out whoever was revoked while nothing ran."""
        online = self._control.online()
        with self._study.database.writing() as session:
            rows = list(session.scalars(select(Enrolled)))
            for row in rows:
                row.online = row.revoked is None and int(row.node or 0) in online
        for row in rows:
            if row.revoked is not None and int(row.node or 0) in online:
                self._control.unregister(int(row.node or 0))

    def _submit(self) -> None:
        """See to it that a run of ours is there as long as the study is not done."""
        at = time.monotonic()
        if self._run is not None:
            status, ended, details = self._control.status(self._run)
            if status != FINISHED:
                if not self._executor.alive:  # its task would be missed after a minute by Flower's own clock
                    self._control.stop(self._run)
                return
            log.info("run %d ended: %s %s", self._run, ended, details)
            self._run, self._again = None, at + self._pause
            self._pause = min(2 * self._pause, AGAIN[1])
        if self._study.fact("finished") is None and self._study.offer.is_open() and at >= self._again:
            old = self._study.fact("flower run")
            if old is not None:  # of a supervisor before this one
                self._control.stop(int(old))
            self._run = self._control.start(self._bundle, self._digest)
            self._study.set_fact("flower run", str(self._run))

    def _note(self, *, ended: bool = False) -> None:
        """Write down how the parts are."""
        with self._study.database.writing() as session:
            for part in (self._superlink, self._door, self._executor):
                row = session.get(Part, part.name)
                if row is None:
                    row = Part(name=part.name, state="", since=now())
                    session.add(row)
                state = "down" if ended else "up" if part.alive else "waiting"
                if (row.state, row.pid) != (state, part.pid):
                    row.since = now()
                row.state, row.pid, row.restarts = state, part.pid, part.restarts
                row.words = "stopped" if ended else part.words
            if ended:
                for person in session.scalars(select(Enrolled)):
                    person.online = False

    def _children(self) -> None:
        """Write down the process ids, for a supervisor that comes after a kill of this one."""
        parts = (self._superlink, self._door, self._executor)
        found = []
        for part in parts:
            with suppress(OSError):  # it has just ended
                found += [] if part.pid is None else [identity(part.pid)]
        write_atomically(self._study.run / CHILDREN, "\n".join(found).encode(), private=True)


def up(folder: Path, bind: str = "") -> None:
    """Run a study's server until SIGTERM or Ctrl-C.

    Args:
        folder: the study's.
        bind: IP address of the front door; "" is the study's own address.

    Raises:
        InputError: nginx is missing, the port is taken, or the study is closed.
        RunFolderError: it runs already, or is no study.
    """
    study = Study(folder)
    with _alone(study):
        nginx()
        if not study.offer.is_open():
            raise InputError(f"the study is closed: its time is {study.offer.opens} to {study.offer.closes}")
        _end_left_over(study)
        refuse_taken_port(listens_at(study.settings.address, bind))
        supervisor = Supervisor(study, bind)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop())
        supervisor.run()
    study.close()


def refuse_taken_port(listen: str) -> None:
    """Raise `InputError` where the front door's port cannot be had."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, int(port)))
        except OSError as error:
            raise InputError(
                f"cannot listen on {listen}: {error.strerror}",
                hint="see who uses the port, or give an address of this machine with --bind",
            ) from error


def down(folder: Path, patience: float = 60.0) -> bool:
    """Stop a study's server; whether there was one.

    Raises:
        CommonGroundError: it does not end.
    """
    pid = running(folder)
    if pid is None:
        return False
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.terminate()
        try:
            process.wait(patience)
        except psutil.TimeoutExpired as error:
            raise CommonGroundError(f"the server (process {pid}) does not end") from error
    return True


def ready(folder: Path, pid: int) -> bool:
    """Whether the supervisor of this process id has its front door open."""
    try:
        return (folder / "run" / READY).read_text() == str(pid)
    except OSError:
        return False


def inside(study: Study) -> Control | None:
    """A client of the running SuperLink; None where the server does not run."""
    if running(study.folder) is None:
        return None
    try:
        port = int((study.run / INSIDE).read_text())
    except (OSError, ValueError):
        return None
    return Control(f"{HOST}:{port}", root_certificates(study.folder)) if listens(port) else None


@contextmanager
def _alone(study: Study) -> Iterator[None]:
    """Hold the study's lock, and say whose it is."""
    lock = FileLock(study.run / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(
            f"the server of {study.folder} runs already (process {running(study.folder) or '?'})",
            hint=f"stop it with commonground server down {study.folder}",
        ) from error
    write_atomically(study.run / PID, f"{identity(os.getpid())}\n".encode())
    try:
        yield
    finally:
        for name in (PID, READY):
            (study.run / name).unlink(missing_ok=True)
        lock.release()


def _end_left_over(study: Study) -> None:
    """End parts of a supervisor that was killed, if they have not ended with it."""
    try:
        lines = (study.run / CHILDREN).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(psutil.Error, OSError, ValueError):
            pid = same_process(line)  # never a stranger that has got the number since
            if pid is not None:
                process = psutil.Process(pid)
                process.terminate()
                with suppress(psutil.TimeoutExpired):
                    process.wait(PATIENCE)
                if process.is_running():
                    process.kill()
        with suppress(OSError, ValueError, IndexError):
            number, _, boot = line.split()
            if boot == identity(os.getpid()).split()[2]:
                end_session(int(number))


def main() -> None:
    """`python -m commonground.server.supervisor DIR [BIND]`: what `server up --detach` starts."""
    stay_quiet()
    log_to_stderr("%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    try:
        up(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
    except CommonGroundError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
