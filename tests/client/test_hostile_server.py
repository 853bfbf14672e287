"""A hostile server against a device's node and executor, over a real SuperLink; and what kills them.

The node is Flower's SuperNode as `device up` starts it, kept up by its supervisor; the vault is a toy of
three numbers, so that what is tested is everything between it and the network.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import toy_device
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from toy_node import ZERO, environment
from toy_patience import joined, until
from toy_profile import make_profile
from toy_superlink import Run, SuperLink, bundle

from commonground.client.child import Part
from commonground.client.node import Link
from commonground.client.parts import Port, parts_of
from commonground.client.profile import Profile
from commonground.client.supervisor import Supervisor
from commonground.client.tally import read_counts

pytestmark = pytest.mark.slow
FAILED, REFUSED = (1001, "the shared phase failed on the device"), (1002, "the device refused the message")
EVIL = "from pathlib import Path; Path({mark!r}).write_text('was here')\n"


class Site:
    """A SuperLink, one device on it, and what a test needs to see of both."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "evil"
        self.link = SuperLink(folder / "link")
        self.profile = make_profile(folder / "profile", ca=self.link.ca.decode(), address=self.link.address)
        self.node = 0
        self.said: list[str] = []
        self.state, port = Link(), Port()
        node, executor = parts_of(self.profile, self.state, port, page=None)[1:]
        toy = Part("vault", lambda: ["toy_part", str(folder / "vault"), "ready", "stay"])
        where = environment()
        device = {name: where[name] for name in ("COMMONGROUND_DEVICE", "PYTHONPATH")}
        executor = Part("executor", executor.command, lambda: device, ready=executor.ready)
        parts = [Part("vault", toy.command, lambda: device), node, executor]
        self.supervisor = Supervisor(self.profile, parts, self.state, port, self.said.append)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.supervisor.run, args=(self._stop,))

    def start(self) -> None:
        self.link.start()
        self.node = self.link.let_in(self.profile)
        self._thread.start()
        self.link.wait_for(self.node)

    def pid(self, name: str) -> int:
        return next(child.pid for child in self.supervisor.children if child.part.name == name)

    def kill(self, name: str) -> None:
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        self.until(lambda: self.pid(name) not in (0, pid))

    def until(self, holds: Callable[[], object]) -> None:
        until(holds, lambda: self.said, alive=self._thread)

    def evil(self) -> bytes:
        """A bundle with a package of our own name, and with code at every place that Python looks at."""
        text = EVIL.format(mark=str(self.mark))
        names = ("evil.py", "commonground/__init__.py", "commonground/client/__init__.py", "toy_device.py")
        return bundle(dict.fromkeys((*names, "commonground/client/app.py", "sitecustomize.py"), text))

    def question(self, kind: str = "train", arrays: Any = ZERO, **config: Any) -> Message:
        values = {"round": 1, "person": 0, "manifest": toy_device.manifest().digest, "final": False, **config}
        record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
        return Message(RecordDict({"arrays": record, "config": ConfigRecord(values)}), self.node, kind)

    def answers(self, run: Run) -> None:
        """The device answers a round as it should."""
        reply = run.ask(self.question())
        assert reply.has_content(), reply.error
        for name, value in toy_device.ToyDevice(0).shared_update(1, ZERO).tensors.items():
            np.testing.assert_array_equal(reply.content["arrays"][name].numpy(), value)

    @property
    def log(self) -> str:
        return (self.profile.log / "executor.log").read_text()

    def close(self) -> None:
        pids = [child.pid for child in self.supervisor.children]
        self._stop.set()
        if self._thread.ident is not None:
            joined(self._thread)
        self.link.stop()
        assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    found = Site(tmp_path_factory.mktemp("site"))
    try:
        found.start()
        yield found
    finally:
        found.close()


def counts(profile: Profile) -> dict[str, int]:
    return read_counts(profile.log / "refusals.json")


def test_a_hostile_server_gets_constants_and_the_study_goes_on(site: Site) -> None:
    with site.link.run(site.evil()) as run:
        site.answers(run)
        asked = {
            "another manifest": site.question(manifest="0" * 64),
            "another clip": site.question(clip=1e9),
            "unknown message": site.question("evaluate"),
            "an oversized message": site.question(arrays={**ZERO, "more": np.arange(2e6, dtype=np.float32)}),
            "the shared phase failed": site.question(arrays={"head.a": np.full(3, np.nan, np.float32)}),
        }
        for reason, message in asked.items():
            before = counts(site.profile).get(reason, 0)
            reply = run.ask(message)
            assert reply.has_error()
            assert (reply.error.code, reply.error.reason) in (FAILED, REFUSED)
            assert counts(site.profile)[reason] == before + 1
        reply = run.ask(site.question("train.private"))
        assert dict(reply.content) == {}
        site.answers(run)
    assert counts(site.profile)["foreign code"] == 1
    assert "ships 6 file(s)" in site.log
    assert "refused; this device runs its own code" in site.log
    assert not site.mark.exists()
    assert not list(site.profile.folder.rglob("*.py"))  # the bundle is on no disk of this device


@pytest.mark.night
def test_a_killed_executor_and_a_killed_server_cost_a_round_at_most(site: Site) -> None:
    with site.link.run(site.evil()) as run:
        site.kill("executor")
        site.answers(run)
    site.link.stop(signal.SIGKILL)
    site.until(lambda: site.state.state == "offline")
    site.link.start()
    site.link.wait_for(site.node)
    with site.link.run(site.evil()) as run:
        site.answers(run)
    assert not site.mark.exists()


@pytest.mark.night
def test_a_killed_node_waits_until_its_server_lets_it_in_again(site: Site) -> None:
    """Flower's exit 305: to the server the killed node is online for up to a minute more."""
    site.kill("node")
    site.until(lambda: site.state.state == "refused")
    site.until(lambda: any("does not let this device in yet" in line for line in site.said))
    site.until(lambda: site.state.state == "online")
    site.link.wait_for(site.node)
    with site.link.run(site.evil()) as run:
        site.answers(run)
    assert not site.mark.exists()


@pytest.mark.night
def test_a_revoked_node_is_told_and_harms_nobody(site: Site) -> None:
    with site.link.control() as control:
        control.unregister(site.node)
    site.until(lambda: site.state.state == "refused")
    assert site.supervisor.children[2].ready  # page, vault and executor stay as they are
