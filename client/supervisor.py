"""`device up`: keeps vault, node, executor and page alive, whatever happens to them or to the network.

The vault comes first; the others wait until it answers. A part that ends is started again after a wait that
doubles up to a minute, so that a node that comes back before its server has forgotten the old one (Flower's
exit 305, up to a minute) gets in at last. One that refuses its input before it was ever up ends the device
with its own words. SIGTERM ends the parts in order, in less than ten seconds.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
from filelock import FileLock, Timeout

from commonground.client.child import Child, Part
from commonground.client.contact import UnreachableError, look, open_client
from commonground.client.node import Link
from commonground.client.parts import EXECUTOR, Port, Sandbox, read_json
from commonground.client.profile import Profile
from commonground.client.store import NAME as STORE
from commonground.errors import InputError, StorageError, TrustError
from commonground.files import write_atomically

STATE, LOCK = "state.json", "lock"
TICK = 0.2  # seconds
GRACE = 6.0  # seconds that parts get to end by themselves
STUCK = 90.0  # seconds a node holds a message that the executor does not work on: longer than Flower's 60


class Supervisor:
    """Keeps parts running.

    Args:
        profile: the device's.
        parts: what to run; the first is started alone, the others once it is ready.
        link: what the node's lines say.
        port: of the node's Runtime API.
        say: is told what people should know.
        sandbox: what parts say of the walls around them.
    """

    def __init__(
        self,
        profile: Profile,
        parts: Sequence[Part],
        link: Link,
        port: Port,
        say: Callable[[str], None],
        sandbox: Sandbox | None = None,
    ) -> None:
        self._sandbox = Sandbox() if sandbox is None else sandbox
        self._profile, self._link, self._port, self._say = profile, link, port, say
        self.children = [Child(part, profile.log / f"{part.name}.log") for part in parts]
        self._began = datetime.now(UTC)
        self._told = ""
        self._stuck_since: float | None = None
        self._said_up = self.left = False

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set, or the person has left the study.

        Raises:
            InputError: a part refused its input before it was ever up.
        """
        try:
            while not stop.is_set() and not self.left:
                self.step(time.monotonic())
                stop.wait(TICK)
        finally:
            self.end()

    def step(self, now: float) -> None:
        """One look at every part."""
        first = self.children[0]
        for child in self.children:
            if child is not first and not child.starts and not first.ready:
                continue
            before = child.pid
            if child.tick(now) and before and not child.pid:
                self._after(child, now)
        self._free_node(now)
        self._tell()
        if not self._said_up and all(child.ready for child in self.children):
            self._said_up = True
            self._say("the device is up: commonground device status says how it stands")

    def end(self) -> None:
        """End every part: those that use the vault before it."""
        last = time.monotonic() + GRACE
        for group in (self.children[1:], self.children[:1]):
            for child in group:
                child.signal()
            for child in group:
                if not child.wait(last if child in self.children[1:] else max(last, time.monotonic() + 2)):
                    child.signal(signal.SIGKILL)
                    child.wait(time.monotonic() + 2)
                child.close()
        with suppress(OSError):
            (self._profile.run / STATE).unlink()

    def _after(self, child: Child, now: float) -> None:
        """A part has ended."""
        name, code = child.part.name, child.code
        words, hint = child.fault()
        if name == "vault" and code == 0 and not (self._profile.folder / STORE).exists():
            self.left = True
            return
        if name == "node":
            self._link.ended()
            if self._link.port_taken:
                self._link.port_taken = False
                self._port.change()
                self._signal("executor")
        if code == InputError.exit_code and not child.was_ready:
            raise InputError(words, hint=hint)
        wait = child.next - now
        if name == "node" and self._link.state == "refused":
            self._say(f"the server does not let this device in yet; next try in {wait:.0f} s")
        else:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            self._say(f"the {name} {how}; it is started again in {wait:.0f} s")

    def _free_node(self, now: float) -> None:
        """Start a node again that holds a message whose task was lost with an executor.

        It would wait for good: Flower gives up a task that was claimed, but not a message that nobody took.
        """
        if self._link.late:
            self._link.late = False
            self._signal("node")
            return
        working = ("shared", "private")
        if not self._link.waits or read_json(self._profile.run / EXECUTOR).get("doing") in working:
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since > STUCK:
            self._say("the node waits for an answer that nobody works on; it is started again")
            self._stuck_since = None
            self._signal("node")

    def _signal(self, name: str) -> None:
        for child in self.children:
            if child.part.name == name:
                child.signal()

    def _tell(self) -> None:
        """Write the state where `device status` reads it, when it has changed."""
        now, wall = time.monotonic(), datetime.now(UTC)
        parts = {
            child.part.name: {
                "pid": child.pid,
                "up": child.ready,
                "starts": child.starts,
                "code": child.code,
                "next": None if child.pid or not child.starts else _at(wall, child.next - now),
            }
            for child in self.children
        }
        values: dict[str, Any] = {
            "pid": os.getpid(),
            "created": psutil.Process().create_time(),
            "since": self._began.isoformat(timespec="seconds"),
            "link": self._link.state,
            "refused": self._link.refused,
            "retry": datetime.fromtimestamp(self._link.retry, UTC).isoformat(timespec="seconds"),
            "parts": parts,
            "sandbox": dict(self._sandbox.words),
        }
        text = json.dumps(values, indent=1)
        if text != self._told:
            self._told = text
            with suppress(StorageError):  # a full disk stops no device
                write_atomically(self._profile.run / STATE, text.encode(), private=True)


def _at(wall: datetime, seconds: float) -> str:
    return (wall + timedelta(seconds=max(0.0, seconds))).isoformat(timespec="seconds")


@contextmanager
def only_device(profile: Profile) -> Iterator[None]:
    """Hold the profile; raises `InputError` where another device runs on it."""
    lock = FileLock(profile.folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"a device already runs on the profile {profile.folder}",
            hint="look at it: commonground device status; end it: commonground device down",
        ) from error
    except OSError as error:
        raise StorageError(f"cannot lock {profile.folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def first_contact(profile: Profile, say: Callable[[str], None]) -> None:
    """Look at the front door once: a clock that is wrong is told before it looks like a refusal.

    Raises:
        InputError: the clock is off by more than Flower takes.
    """
    try:
        with open_client(profile.certificate.read_text(), timeout=5.0) as client:
            look(client, profile.address)
    except UnreachableError as error:
        say(f"{error.message}; the device starts all the same and waits for it")
    except TrustError as error:
        say(f"{error.message}; nothing is sent to it")
    except OSError as error:
        raise InputError(
            f"{profile.certificate} cannot be read: {error.strerror or error}",
            hint="restore the profile folder from a backup, or join again with a new invitation",
        ) from error
