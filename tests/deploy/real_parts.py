"""The real parts on loopback: a server and devices as processes, started by the commands that people type."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import toy_patience
from recording_proxy import RecordingProxy
from toy_patience import LIMIT

from commonground.client.keys import open_key
from commonground.client.owner import OwnerClient
from commonground.client.store import NAME as STORE
from commonground.client.store import Store
from commonground.comparisons import Comparison
from commonground.errors import CommonGroundError
from commonground.server.enrolment import invite
from commonground.server.setup import init_study
from commonground.server.state import Study
from commonground.simulations.bench.study import RunningServer, wanted
from commonground.study.invitation import KIND as INVITATION
from commonground.study.invitation import read_invitation
from commonground.study.signing import sign

T = TypeVar("T")
CLI = [sys.executable, "-m", "commonground.simulations.cli"]
PASSPHRASE = "four words of nobody"
PATIENCE = LIMIT  # seconds for anything, on a machine that does other things
SMALL = ("data.pairs_per_person=8", "data.test_pairs=4", "evaluation.people=3", "evaluation.resamples=100")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Of a command: offline, quiet, one thread, and the store's passphrase in a file."""
    secret = folder / "passphrase"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(PASSPHRASE + "\n")
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return os.environ | quiet | {"COMMONGROUND_PASSPHRASE_FILE": str(secret)} | more


def command(folder: Path, *words: str | Path) -> dict[str, Any]:
    """What a command answers; a failure shows what it said."""
    done = subprocess.run(
        [*CLI, *map(str, words), "--format", "json"],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return data


def until(what: str, holds: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until something holds; an error of a part that is just being started counts as no."""
    toy_patience.until(holds, what, unless=(CommonGroundError, OSError), limit=max(patience, LIMIT))


class Device:
    """One participant's device.

    Args:
        folder: of the test; the profile is made in it.
        name: of the person.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.profile = folder, name, folder / name
        self.python = sys.executable  # another one for a canary build
        self._process: subprocess.Popen[bytes] | None = None
        self._key: bytes | None = None

    def join(self, invitation: Path, **options: str) -> None:
        """`commonground device join`."""
        words = [word for option in options.items() for word in option]
        command(self.folder, "device", "join", invitation, "--profile", self.profile, "--accept", *words)

    def up(self, seed: int | None = None, person: int = 0, *, wait: bool = True) -> None:
        """`commonground device up`, and wait for its vault where asked."""
        words = [] if seed is None else ["--insecure-seed", str(seed), "--insecure-person", str(person)]
        with (self.profile / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.python, *CLI[1:], "device", "up", "--profile", str(self.profile), "--no-page", *words],
                env=environment(self.folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until its vault answers."""
        until(f"vault of {self.name}", lambda: self.ask(lambda owner: owner.status()))

    def down(self) -> None:
        """SIGTERM, as `commonground device down` sends it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to all of it."""
        if self._process is None:
            return
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        self._process.kill()
        self._process.wait()

    def ask(self, question: Callable[[OwnerClient], T]) -> T:
        """What the vault tells its owner."""
        with OwnerClient(self.profile, key=self.key) as owner:
            return question(owner)

    @property
    def key(self) -> bytes:
        """Of the store, opened once: scrypt takes half a second."""
        if self._key is None:
            self._key = open_key(self.profile, PASSPHRASE)
        return self._key

    def teach(self, comparisons: Sequence[Comparison]) -> None:
        """Say which answers were better, one by one."""
        with OwnerClient(self.profile, key=self.key) as owner:
            for c in comparisons:
                owner.add(c.prompt, c.chosen, c.rejected, c.tag)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The store, while no vault runs."""
        with Store(self.profile / STORE, open_key(self.profile, PASSPHRASE)) as found:
            yield found

    @property
    def parts(self) -> dict[str, int | None]:
        """Process id of each part that runs."""
        try:
            state = json.loads((self.profile / "run" / "state.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return {name: part["pid"] for name, part in state["parts"].items()}

    @property
    def refusals(self) -> dict[str, int]:
        """What this device refused, by reason: the executor's count and the vault's."""
        try:
            counted: dict[str, int] = json.loads((self.profile / "log" / "refusals.json").read_bytes())
        except (OSError, ValueError):
            counted = {}
        for reason, count in self.ask(lambda owner: owner.status())["refusals"].items():
            counted[reason] = counted.get(reason, 0) + count
        return counted

    @property
    def logs(self) -> str:
        """Everything that its parts wrote."""
        files = [*sorted((self.profile / "log").glob("*.log")), self.profile / "up.log"]
        return "\n".join(f"== {f.name}\n{f.read_text(errors='replace')}" for f in files if f.exists())


class Site:
    """A study, its server, and its devices; each device may speak through a recording proxy.

    Args:
        folder: of the test.
        overrides: `key=value` of the study.
        fields: of `Wanted`.
    """

    def __init__(self, folder: Path, overrides: Sequence[str] = (), **fields: Any) -> None:
        self.folder, self.devices = folder, list[Device]()
        self.proxies: dict[str, RecordingProxy] = {}
        self.server = RunningServer(folder / "study")
        self._stack = ExitStack()
        asked = wanted([*SMALL, *overrides], **fields)
        init_study(self.server.folder, asked)
        self._watched = self.study()
        self._stack.callback(self._watched.close)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        for device in self.devices:
            device.down()
        self.server.stop()
        self._stack.close()

    def study(self) -> Study:
        """The folder, opened anew."""
        return Study(self.server.folder)

    def overview(self) -> dict[str, Any]:
        """What the operator sees; looked at often, so the folder is opened once."""
        return self._watched.overview()

    def invitation(self, name: str, *, recorded: bool = False) -> Path:
        """A file for one person; where recorded, it leads to a proxy, by the operator's own hand."""
        file, study = self.folder / f"{name}.invite", self.study()
        invite(study, name, file)
        if recorded:
            found = read_invitation(file.read_bytes())
            place = self.folder / f"proxy-{name}"
            place.mkdir()
            proxy = RecordingProxy(place, found.address, found.ca)
            self._stack.callback(proxy.close)
            self.proxies[name] = proxy
            other = replace(found, address=proxy.address, ca=proxy.ca)
            file.write_text(sign(study.key, INVITATION, other.to_content()).to_text())
        study.close()
        return file

    def device(self, name: str, *, recorded: bool = False) -> Device:
        """A device that has joined; the server runs."""
        found = Device(self.folder, name)
        found.join(self.invitation(name, recorded=recorded))
        self.devices.append(found)
        return found

    def finished(self, patience: float = PATIENCE) -> None:
        """Wait for the last round, and that the devices have taken what it released."""
        until("the last round", lambda: self.overview()["finished"], patience)

    @property
    def logs(self) -> str:
        """Everything that server and devices wrote."""
        files = sorted((self.server.folder / "log").glob("*.log"))
        mine = "\n".join(f"== {f.name}\n{f.read_text(errors='replace')[-4000:]}" for f in files)
        return mine + "\n".join(f"#### {d.name}\n{d.logs[-6000:]}" for d in self.devices)


def kill_part(pid: int | None) -> bool:
    """SIGKILL; whether there was such a process. 0, which stands for none, would be this very test."""
    if not pid:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def comparisons(person: int, count: int = 6) -> list[Comparison]:
    """Private texts that are in no public set, with a taste of their own for each person."""
    said, words = list[Comparison](), ("brief", "formal", "playful", "stern")
    for k in range(count):
        mine, other = words[person % len(words)], words[(person + 1 + k) % len(words)]
        said.append(
            Comparison(
                f"Person {person} asks about the {k}th quince of Xanthippe?",
                f"A {mine} answer, number {k}, about quinces and {person * 7919 + k}.",
                f"Some {other if other != mine else 'dull'} answer, number {k}, on {person * 104729 + k}.",
                "taste",
                "owner",
            )
        )
        said.append(
            Comparison(
                f"Person {person} wants the {k}th recipe for vitriol of Hyperborea",
                f"I would rather not explain vitriol {person * 31 + k}; ask a chemist.",
                f"Take retort {person * 17 + k}, heat it well, and breathe in deeply.",
                "safety",
                "owner",
            )
        )
    return said


def texts(said: Sequence[Comparison]) -> Mapping[str, str]:
    """Every text of these comparisons, by a name."""
    return {
        f"{part} {k}": getattr(c, part)
        for k, c in enumerate(said)
        for part in ("prompt", "chosen", "rejected")
    }
