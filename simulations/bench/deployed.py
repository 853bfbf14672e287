"""`commonground bench deployed`: what a round with real parts costs over the same round in this process.

Three people, all of them in every round, on loopback with TLS. Once with light devices that train nothing, so
that what remains is Flower's transport and its looks for messages; once with whole devices (vault, node and
executor each) that train `reward`, against the simulation of the very same study. Seconds of a round are the
server's: from the questions to the last reply of the shared phase and of the private one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from commonground.client.owner import OwnerClient
from commonground.errors import CommonGroundError
from commonground.server.deployed import study_job
from commonground.server.enrolment import invite
from commonground.server.job import Job
from commonground.server.rounds import RoundEvent, run_rounds
from commonground.server.setup import init_study
from commonground.server.state import Study
from commonground.simulations.bench.emulated import Crowd, LightDevice, honest
from commonground.simulations.bench.machine import machine
from commonground.simulations.bench.measured import Measured, Row, spread
from commonground.simulations.bench.point import run_point
from commonground.simulations.bench.study import RunningServer, enrolled, serving, wanted
from commonground.simulations.grid import InProcessGrid
from commonground.simulations.world import World, build_world

PEOPLE = 3
PATIENCE = 300.0
WORDS = "of a benchmark"
CLI = [sys.executable, "-m", "commonground.simulations.cli", "device"]


def measure(*, quick: bool, say: Callable[[str], None]) -> Measured:
    """Run both, each deployed and in this process."""
    where, rounds = machine(), 2 if quick else 8
    words = [f"people={PEOPLE}", f"cohort={PEOPLE}", f"rounds={rounds}", "evaluation.resamples=100"]
    say("light devices")
    light, alone = _light(words)
    say("whole devices")
    whole = _whole(words, say)
    say("the simulation")
    simulated = run_point([*words, "privacy.trust=local", "privacy.shared.delta=1e-5"]).rounds
    seconds = {
        "no update, deployed": light,
        "no update, in this process": alone,
        "reward update, deployed": whole,
        "reward update, in this process": simulated,
    }
    rows = [Row(what, "s a round", spread(found[1:] or found)) for what, found in seconds.items()]
    for kind in ("no update", "reward update"):
        over = spread(seconds[f"{kind}, deployed"][1:]).median
        under = spread(seconds[f"{kind}, in this process"][1:]).median
        rows.append(Row(f"{kind}: what the real parts add", "s a round", spread([over - under])))
    return Measured(
        "deployed",
        where,
        {"people": PEOPLE, "cohort": PEOPLE, "rounds": rounds, "trust": "local"},
        rows,
        [],
        [
            "the first round of each is left out",
            "Flower's node looks for a message every 3 s while it has none",
            "a round has two messages a person",
        ],
    )


def _light(words: Sequence[str]) -> tuple[list[float], list[float]]:
    """Seconds a round with light devices on a real server, and on a grid of this process."""
    with tempfile.TemporaryDirectory() as folder:
        with serving(Path(folder) / "study", wanted(words, min_online=PEOPLE)) as server:
            keys = enrolled(server.folder, PEOPLE)
            study = Study(server.folder)
            ca, answer = (server.folder / "ca.crt").read_bytes(), honest(study.manifest)
            crowd = Crowd([LightDevice(study.settings.address, ca, key, answer) for key in keys])
            try:
                deployed = _until_finished(study)
            finally:
                crowd.close()
            job = Job(**{**study_job(study).__dict__, "checkpoint": f"{folder}/alone", "ledger": None})
            study.close()
        app, alone = ClientApp(), list[float]()

        @app.train()  # type: ignore[untyped-decorator]
        def shared(message: Message, context: Context) -> Message:
            return answer(message)

        @app.train("private")  # type: ignore[untyped-decorator]
        def private(message: Message, context: Context) -> Message:
            return answer(message)

        def told(event: RoundEvent) -> None:
            alone.append(event.seconds)

        run_rounds(InProcessGrid(app, PEOPLE), job, told)
    return deployed, alone


def _whole(words: Sequence[str], say: Callable[[str], None]) -> list[float]:
    """Seconds a round with whole devices."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        init_study(folder / "study", wanted(words, min_online=PEOPLE))
        server, study = RunningServer(folder / "study"), Study(folder / "study")
        world = build_world(study.config)
        try:
            server.start()
            with _devices(folder, study, world, server):
                say("the devices are up")
                return _until_finished(study)
        finally:
            server.stop()
            study.close()


@contextmanager
def _devices(folder: Path, study: Study, world: World, server: RunningServer) -> Iterator[None]:
    """Devices that have joined and said what the simulation's people say; the server restarts before them."""
    secret = folder / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(f"{WORDS}\n")
    environment = os.environ | {"COMMONGROUND_PASSPHRASE_FILE": str(secret), "OMP_NUM_THREADS": "1"}
    profiles = [folder / f"person-{k}" for k in range(PEOPLE)]
    for profile in profiles:
        file = folder / f"{profile.name}.invite"
        invite(study, profile.name, file)
        words = ["join", str(file), "--profile", str(profile), "--accept", "--format", "json"]
        done = subprocess.run([*CLI, *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommonGroundError(f"a device does not join: {json.loads(done.stdout)['message']}")
    server.stop()
    running = [
        subprocess.Popen(
            [*CLI, "up", "--profile", str(profile), "--no-page"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for profile in profiles
    ]
    try:
        for person, profile in enumerate(profiles):
            with _owner(profile) as owner:
                for rows in world.train_rows[person].values():
                    for row in rows.tolist():
                        c = world.table[row]
                        owner.add(c.prompt, c.chosen, c.rejected, c.tag)
        server.start()
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _owner(profile: Path) -> OwnerClient:
    """The owner's side of a vault, once it answers; raises `CommonGroundError`."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            owner = OwnerClient(profile, WORDS)
            owner.status()
        except CommonGroundError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return owner


def _until_finished(study: Study) -> list[float]:
    """Seconds of each round, once all are done; raises `CommonGroundError` where none ends for long."""
    done, since = -1, time.monotonic()
    while study.fact("finished") is None:
        now = study.overview()["rounds"]["done"]
        if now != done:
            done, since = now, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            raise CommonGroundError(f"no round ended for {PATIENCE:g} s; {done} were done")
        time.sleep(0.2)
    return [row["seconds"] for row in study.overview()["rounds"]["list"]][::-1]
